"""The rows of endpoints, and of the tuned models that they have: which of them can answer, and what
was found of that. All of it needs the control role.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.db import sealing
from api.ids import new_id
from api.serving.endpoints.schemas import AddAnsweringEndpoint
from api.serving.weights import Weights
from api.settings import Settings
from api.tables import NOW, AnsweringEndpoint, Event, Job, ServedModel, from_now
from api.webhooks import outbound, outbox
from tunery.errors import InvalidRequest, NotFound
from tunery.exports import VLLM_RANKS
from tunery.proof.verdict import Finding, Verdict

NO_PROJECT = ""
HEALTH_SECONDS, ATTEST_SECONDS, USED_SECONDS = 10.0, 3600.0, 60.0
# Until a server that could not be asked is asked again.
AGAIN_SECONDS = 60.0
STATES: dict[Verdict, str] = {
    "verified": "verified",
    "answers_as_base": "answers_as_base",
    "answers_as_other": "answers_as_other",
    "not_measurable": "unverified",
}


@dataclass(frozen=True)
class Place:
    """A model at an endpoint, where it has that `name`. Of a tuned one `job_id` and `step` say
    where it comes from, `state` what was found, `due` whether it is to be asked for its proof
    before it answers. With a `folder` its adapter is laid there, and loaded from `their_folder`.
    """

    endpoint_id: str
    url: str
    key: str | None
    model: str
    name: str
    job_id: str | None = None
    step: int | None = None
    state: str = "verified"
    reason: str | None = None
    due: bool = False
    loaded: bool = True
    folder: str | None = None
    their_folder: str | None = None
    most_adapters: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it is to be asked for its proof before anything else."""
        return self.due or (self.state == "unverified" and self.reason is None)


def add(tx: Session, settings: Settings, asked: AddAnsweringEndpoint) -> AnsweringEndpoint:
    """Raises `InvalidRequest` for an address that is none."""
    outbound.target_of(asked.url, to_private=True)
    endpoint = AnsweringEndpoint(
        id=new_id("end_"),
        kind=asked.kind,
        url=asked.url.rstrip("/").removesuffix("/v1"),
        bases=asked.bases,
        folder=asked.adapters_folder,
        their_folder=asked.adapters_folder_there or asked.adapters_folder,
        most_adapters=asked.max_adapters,
        names=asked.models,
    )
    if asked.api_key is not None:
        secret = settings.secret.get_secret_value()
        endpoint.sealed = sealing.seal(
            secret, asked.api_key, project_id=NO_PROJECT, name=endpoint.id
        )
    tx.add(endpoint)
    tx.flush()
    return endpoint


def list_all(tx: Session) -> list[tuple[AnsweringEndpoint, list[ServedModel]]]:
    served: dict[str, list[ServedModel]] = {}
    for model in tx.scalars(select(ServedModel).order_by(ServedModel.model)):
        served.setdefault(model.endpoint_id, []).append(model)
    rows = tx.scalars(select(AnsweringEndpoint).order_by(AnsweringEndpoint.created_at))
    return [(row, served.get(row.id, [])) for row in rows]


def get(tx: Session, endpoint_id: str) -> AnsweringEndpoint:
    endpoint = tx.get(AnsweringEndpoint, endpoint_id)
    if endpoint is None:
        raise NotFound(
            f"No endpoint {endpoint_id!r}. GET /v1/admin/endpoints lists those there are."
        )
    return endpoint


def delete(tx: Session, endpoint_id: str) -> list[Path]:
    """Adapters that were loaded stay with the server until it ends. Returns the folders of those
    that no other server reads.
    """
    endpoint = get(tx, endpoint_id)
    served = tx.scalars(select(ServedModel).where(ServedModel.endpoint_id == endpoint_id)).all()
    names = [one.name for one in served if one.job_id and one.model not in endpoint.names]
    tx.delete(endpoint)
    tx.flush()
    return unread(tx, endpoint.folder, names) if endpoint.folder else []


def unread(tx: Session, folder: str, names: Sequence[str]) -> list[Path]:
    """Of adapters of that folder, which several servers may share: those that none has loaded."""
    read = select(ServedModel.name).join(
        AnsweringEndpoint, AnsweringEndpoint.id == ServedModel.endpoint_id
    )
    loaded = set(tx.scalars(read.where(AnsweringEndpoint.folder == folder, ServedModel.loaded)))
    return [Path(folder) / name for name in names if name not in loaded]


def key_of(settings: Settings, endpoint: AnsweringEndpoint) -> str | None:
    if endpoint.sealed is None:
        return None
    secret = settings.secret.get_secret_value()
    return sealing.unseal(secret, endpoint.sealed, project_id=NO_PROJECT, name=endpoint.id)


def places_of(tx: Session, settings: Settings, model: str, meant: Weights) -> list[Place]:
    """Where this model can answer, or could once it has proved itself."""
    found = []
    for endpoint in tx.scalars(select(AnsweringEndpoint)):
        name = name_there(tx, endpoint, model, meant)
        if name is None or endpoint.trouble:
            continue
        if meant.job_id is None:
            key = key_of(settings, endpoint)
            found.append(Place(endpoint.id, endpoint.url, key, model, name))
            continue
        served = tx.get(ServedModel, (endpoint.id, model)) or new_served(
            tx, endpoint, model, name, meant
        )
        found.append(place_of(tx, settings, endpoint, served))
    return found


def new_served(
    tx: Session, endpoint: AnsweringEndpoint, model: str, name: str, meant: Weights
) -> ServedModel:
    """Another request may have made it just now."""
    job = tx.get_one(Job, meant.job_id)
    tx.execute(
        insert(ServedModel)
        .values(
            endpoint_id=endpoint.id,
            model=model,
            project_id=job.project_id,
            job_id=job.id,
            step=meant.step,
            name=name,
        )
        .on_conflict_do_nothing()
    )
    return tx.get_one(ServedModel, (endpoint.id, model))


def place_of(
    tx: Session, settings: Settings, endpoint: AnsweringEndpoint, served: ServedModel
) -> Place:
    loads = endpoint.kind == "vllm" and served.model not in endpoint.names
    now = tx.scalars(select(NOW)).one()
    if served.used_at <= now and (now - served.used_at).total_seconds() > USED_SECONDS:
        served.used_at = now
    return Place(
        endpoint_id=endpoint.id,
        url=endpoint.url,
        key=key_of(settings, endpoint),
        model=served.model,
        name=served.name,
        job_id=served.job_id,
        step=served.step,
        state=served.state,
        reason=served.reason,
        due=served.state == "unverified" and served.next_at <= now,
        loaded=served.loaded or not loads,
        folder=endpoint.folder if loads else None,
        their_folder=endpoint.their_folder if loads else None,
        most_adapters=endpoint.most_adapters,
    )


def name_there(tx: Session, endpoint: AnsweringEndpoint, model: str, meant: Weights) -> str | None:
    """None: the endpoint does not have the model. Adapters' names are of one length, so that none
    is the beginning of another: there are servers that then answer with the wrong one.
    """
    if named := endpoint.names.get(model):
        return str(named)
    if endpoint.kind == "llama_server" or meant.base == meant.job_id:
        return None
    if not any(fnmatchcase(meant.base, pattern) for pattern in endpoint.bases):
        return None
    if meant.job_id is None:
        return meant.base
    if endpoint.kind != "vllm" or endpoint.folder is None:
        return None
    lora = (tx.get_one(Job, meant.job_id).spec or {}).get("lora") or {}
    # vLLM leaves out adapters on experts in silence, and takes no larger ranks.
    if lora.get("target_parameters") or lora.get("r", 0) > VLLM_RANKS[-1]:
        return None
    return f"{meant.job_id}-{meant.step or 0:012}"


def note(tx: Session, place: Place, finding: Finding) -> None:
    """What was found of a model at an endpoint; the job's webhooks are told if that is news."""
    served = tx.get(ServedModel, (place.endpoint_id, place.model), with_for_update=True)
    if served is None:
        return
    before = served.state if served.attested_at else None
    served.state, served.reason = STATES[finding.verdict], finding.reason
    served.finding = finding.model_dump(mode="json")
    served.attested_at, served.next_at = NOW, from_now(ATTEST_SECONDS)
    tx.flush()
    if served.state != before:
        tell(tx, served.job_id, served)


def tell(tx: Session, job_id: str, served: ServedModel) -> None:
    """As an event of the job, and to its webhooks."""
    job = tx.scalars(
        update(Job).where(Job.id == job_id).values(event_count=Job.event_count + 1).returning(Job),
        execution_options={"populate_existing": True},
    ).one()
    good = served.state == "verified"
    message = (
        f"{served.model} answers at an endpoint with the trained weights. {served.reason}"
        if good
        else f"{served.model} does not answer through an endpoint ({served.state}): {served.reason}"
    )
    tx.add(
        Event(
            project_id=job.project_id,
            job_id=job.id,
            number=job.event_count,
            level="info" if good else "warn",
            message=message,
            type="message",
            data={"endpoint": served.endpoint_id, "state": served.state},
        )
    )
    tx.flush()
    outbox.announce(tx, job, outbox.EventType.SERVED)


def put_off(tx: Session, place: Place, reason: str | None = None) -> None:
    """Before it is asked for its proof; and again for the `reason` that it could not be asked,
    which changes nothing of what is known.
    """
    again = update(ServedModel).where(*is_of(place)).values(next_at=from_now(AGAIN_SECONDS))
    tx.execute(again)
    if reason:
        unknown = ServedModel.state == "unverified"
        tx.execute(update(ServedModel).where(*is_of(place), unknown).values(reason=reason))


def again(tx: Session, settings: Settings, place: Place) -> Place | None:
    """As it is now; None: it is gone."""
    served = tx.get(ServedModel, (place.endpoint_id, place.model))
    return place_of(tx, settings, get(tx, place.endpoint_id), served) if served else None


def note_loaded(tx: Session, place: Place, *, loaded: bool) -> None:
    tx.execute(update(ServedModel).where(*is_of(place)).values(loaded=loaded))


def is_of(place: Place) -> tuple[Any, ...]:
    return ServedModel.endpoint_id == place.endpoint_id, ServedModel.model == place.model


def too_many(tx: Session, place: Place) -> list[str]:
    """The names of what is to be unloaded, the least used, so that one more is not too many."""
    loaded = tx.scalars(
        select(ServedModel)
        .where(
            ServedModel.endpoint_id == place.endpoint_id,
            ServedModel.loaded,
            ServedModel.model != place.model,
        )
        .order_by(ServedModel.used_at)
        .with_for_update()
    ).all()
    gone = loaded[: max(0, len(loaded) - place.most_adapters + 1)]
    for served in gone:
        served.loaded = False
    return [served.name for served in gone]


def claim_due(tx: Session) -> AnsweringEndpoint | None:
    """One that is to be looked at, by one process."""
    endpoint = tx.scalars(
        select(AnsweringEndpoint)
        .where(AnsweringEndpoint.next_at <= NOW)
        .order_by(AnsweringEndpoint.next_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if endpoint:
        endpoint.next_at = from_now(HEALTH_SECONDS)
        tx.flush()
    return endpoint


def note_health(tx: Session, endpoint_id: str, trouble: str | None) -> None:
    """A server that comes back may have come back with anything: its models prove themselves anew,
    and what it had loaded is gone.
    """
    endpoint = tx.get(AnsweringEndpoint, endpoint_id, with_for_update=True)
    if endpoint is None:
        return
    if endpoint.trouble and trouble is None:
        tx.execute(
            update(ServedModel)
            .where(ServedModel.endpoint_id == endpoint_id)
            .values(loaded=False, state="unverified", reason=None, next_at=NOW)
        )
    endpoint.trouble, endpoint.checked_at = trouble, NOW
    tx.flush()


def claim_attestation(tx: Session, settings: Settings, endpoint_id: str) -> Place | None:
    """A model of the endpoint that is to prove itself again."""
    served = tx.scalars(
        select(ServedModel)
        .where(ServedModel.endpoint_id == endpoint_id, ServedModel.next_at <= NOW)
        .order_by(ServedModel.next_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if served is None:
        return None
    served.next_at = from_now(AGAIN_SECONDS)
    tx.flush()
    return place_of(tx, settings, get(tx, endpoint_id), served)


def forget_deleted(tx: Session, settings: Settings, endpoint_id: str) -> list[Place]:
    """Where models were that are deleted; the rows are gone."""
    deleted = tx.scalars(
        select(ServedModel)
        .join(Job, Job.id == ServedModel.job_id)
        .where(ServedModel.endpoint_id == endpoint_id, Job.model_deleted_at.is_not(None))
    ).all()
    endpoint = get(tx, endpoint_id)
    places = [place_of(tx, settings, endpoint, served) for served in deleted]
    for served in deleted:
        tx.delete(served)
    tx.flush()
    return places


def require_folder(asked: AddAnsweringEndpoint) -> None:
    if asked.adapters_folder and asked.kind != "vllm":
        raise InvalidRequest(
            f"adapters_folder: only vLLM loads adapters while it runs, and this is {asked.kind}. "
            "Name the models that it was started with in `models`.",
            param="adapters_folder",
        )
