"""Base models by their names on a hub: what a registration needs is asked there, and no weights are
fetched. The hub is asked without a transaction, and by a process that is ended when it takes long.
"""

import logging
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from api.http.dependencies import Server
from api.models import bases
from api.models.schemas import HubModel
from api.settings import Settings
from api.storage.kept import tokenizer_folder
from api.storage.storage import Storage
from api.tables import BaseModel
from api.tenants import audit
from api.tenants.places import in_thread
from api.tenants.projects import Caller
from tunery import hub
from tunery.errors import HubAway, InvalidRequest, TuneryError
from tunery.facts import BaseModelFacts

# For all that is asked of the hub about one model.
HUB_SECONDS = 60

log = logging.getLogger(__name__)


async def require_known(server: Server, caller: Caller, name: str) -> None:
    """Registers the model that a job names, if it is not yet, is named as on a hub, and the
    operator allows it. Raises as `look_up`.
    """
    facts = await new_facts(server, caller.project_id, name)
    if facts is not None:
        await in_thread(add, server, caller, facts)


async def new_facts(server: Server, project_id: str, name: str) -> BaseModelFacts | None:
    """What would be registered then; None: nothing would be. Raises as `look_up`."""
    settings = server.settings
    allowed = any(fnmatchcase(name, pattern) for pattern in settings.hub_models)
    if not allowed or settings.hf_hub_offline or not is_on_hub(name):
        return None
    if await in_thread(is_known, server, name):
        return None
    return await look_up(server, project_id, HubModel(hub=name), param="model")


def is_on_hub(name: str) -> bool:
    """By its name alone. One without an owner may be a misspelling of a model that is here."""
    return "/" in name and hub.REPOSITORY.fullmatch(name) is not None


def is_known(server: Server, name: str) -> bool:
    with server.db.as_control() as tx:
        return tx.get(BaseModel, name) is not None


def add(server: Server, caller: Caller, facts: BaseModelFacts) -> None:
    """Unless another request was faster."""
    with server.db.as_control() as tx:
        if tx.get(BaseModel, facts.id) is None:
            audit.record(tx, caller, "model.register", bases.register(tx, facts).id)


async def look_up(
    server: Server, project_id: str, asked: HubModel, *, param: str = "hub"
) -> BaseModelFacts:
    """The facts of a registration, pinned to a commit; the tokenizer's files are in storage then.
    `param` is the field of the request that names the model.

    Raises:
        NotFound: no such model or revision on the hub, or not for this service's token.
        InvalidRequest: it cannot be trained here, or the hub is not to be asked.
        HubAway: the hub does not answer, or not as one.

    """
    refuse_offline(server.settings)
    read = partial(read_and_keep, server.settings, server.storage, asked)
    try:
        return await server.hub.run(project_id, read)
    except TuneryError as error:
        if error.param == "model":
            error.param = param
        raise


def refuse_offline(settings: Settings) -> None:
    if settings.hf_hub_offline:
        raise InvalidRequest(
            "This service asks no model hub (HF_HUB_OFFLINE is set). Download the model elsewhere "
            "and register its folder.",
            param="hub",
            code="hub_offline",
        )


def read_and_keep(settings: Settings, storage: Storage, asked: HubModel) -> BaseModelFacts:
    storage.require_there()
    with TemporaryDirectory(prefix="tunery-hub-") as made:
        folder = Path(made)
        facts = read(settings, asked, folder)
        for file in facts.tokenizer:
            with storage.receive(limit=file.bytes) as incoming:
                incoming.write((folder / file.name).read_bytes())
                incoming.keep(f"{tokenizer_folder(facts.tokenizer)}/{file.name}")
    return facts


def read(settings: Settings, asked: HubModel, folder: Path) -> BaseModelFacts:
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    endpoint = settings.hf_endpoint
    order = {
        "repository": asked.hub,
        "revision": asked.revision,
        "id": asked.id,
        "licence": asked.licence,
        "endpoint": endpoint,
        "token": token,
        "folder": str(folder),
        "seconds": HUB_SECONDS,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "api.models.hub_reader"],
            input=orjson.dumps(order),
            env=hub.environment(endpoint, str(folder / ".hub")),
            capture_output=True,
            timeout=HUB_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HubAway(
            f"{endpoint} took more than {HUB_SECONDS} s to tell of {asked.hub}. Try again."
        ) from None
    try:
        answer: dict[str, Any] = orjson.loads(done.stdout)
    except ValueError:
        # Not what it said on its way: there may be signed links in it.
        log.error("reading %s from the hub ended with %d", asked.hub, done.returncode)  # noqa: TRY400
        raise InvalidRequest(
            f"{asked.hub} could not be read: its files, or what the hub says of them, go over the "
            "limits on memory and size.",
            param="model",
            code="model_refused",
        ) from None
    if error := answer.get("error"):
        raise hub.of_json(error)
    return BaseModelFacts.model_validate(answer["facts"])
