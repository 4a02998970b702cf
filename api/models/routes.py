"""/v1/models, and the operator's registration of base models."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import Discriminator, Tag

from api.http.dependencies import Admin, AServer, Reader, Server, Writer
from api.http.edge import ANY_SIZE
from api.http.routing import Route
from api.http.shapes import Deleted, Page
from api.models import bases as models
from api.models import hub, tuned
from api.models.schemas import HubModel, ModelObject
from api.models.served import served
from api.tables import BaseModel
from api.tenants import audit
from api.tenants.places import in_thread
from api.tenants.projects import Caller
from tunery.errors import InvalidRequest
from tunery.facts import STORED, BaseModelFacts, FileFacts
from tunery.fields import BaseModelId, FileName, ModelName, TunedModel
from tunery.messages import UploadTarget

router = APIRouter(prefix="/v1", route_class=Route, tags=["Models"])


@router.get("/models")
def list_models(server: AServer, caller: Reader) -> Page[ModelObject]:
    """Lists base models, the project's tuned models, and those shared with it."""
    with server.db.as_project(caller.project_id) as tx:
        bases, found = tuned.list_all(tx)
    shown = [ModelObject.of_base(base) for base in bases]
    return Page(data=shown + [ModelObject.of_tuned(model) for model in found])


@router.get("/models/{name:path}")
def retrieve(name: ModelName, server: AServer, caller: Reader) -> ModelObject:
    """Returns one model."""
    with server.db.as_project(caller.project_id) as tx:
        found = tuned.get(tx, name)
        if isinstance(found, BaseModel):
            return ModelObject.of_base(found)
        return ModelObject.of_tuned(found.listed, served(tx, found))


@router.delete("/models/{name:path}")
def delete(name: TunedModel, server: AServer, caller: Writer) -> Deleted:
    """Deletes a tuned model, with its job's checkpoints and exports."""
    with server.db.as_project(caller.project_id) as tx:
        keys = tuned.delete(tx, name)
        audit.record(tx, caller, "model.delete", name)
    server.storage.discard(keys)
    return Deleted(id=name, object="model")


def kind_of(asked: Any) -> str:  # noqa: ANN401 - whatever was sent
    by_name = isinstance(asked, HubModel) or (isinstance(asked, dict) and "hub" in asked)
    return "by name" if by_name else "by its files"


AskedModel = Annotated[
    Annotated[BaseModelFacts, Tag("by its files")] | Annotated[HubModel, Tag("by name")],
    Discriminator(kind_of),
]


@router.post("/admin/models")
async def register(asked: AskedModel, server: AServer, caller: Admin) -> BaseModelFacts:
    """Registers a base model, or repairs a registered one: by its files, or by its name on the
    model hub.
    """
    if isinstance(asked, HubModel):
        facts = await hub.look_up(server, caller.project_id, asked)
        facts.chat_template = asked.chat_template
    else:
        facts = asked
    return await in_thread(registered, facts, server, caller)


def registered(facts: BaseModelFacts, server: Server, caller: Caller) -> BaseModelFacts:
    if facts.source == STORED:
        models.require_stored(server.storage, facts)
    with server.db.as_control() as tx:
        model = models.register(tx, facts)
        audit.record(tx, caller, "model.register", model.id)
        return models.facts_of(model)


@router.delete("/admin/models/{name:path}")
def remove(name: BaseModelId, server: AServer, caller: Admin) -> Deleted:
    """Removes a base model that no job and no endpoint names, with its files in storage. Workers
    drop what they fetched of it when they need the space.
    """
    with server.db.as_control() as tx:
        keys = models.remove(tx, name)
        audit.record(tx, caller, "model.remove", name)
    server.storage.discard(keys)
    return Deleted(id=name, object="model")


@router.post("/admin/models/files")
def send_file(file: FileFacts, server: AServer, caller: Admin) -> UploadTarget:
    """Returns where to put a file of a base model that is to be registered with the source
    `storage`; nowhere, if it is stored already.
    """
    server.storage.require_there()
    with server.db.as_control() as tx:
        audit.record(tx, caller, "model.send_file", file.sha256)
    return models.upload_target(server.storage, file)


@router.put("/admin/models/{name}", status_code=204, max_body_size=ANY_SIZE)
async def send_tokenizer(
    name: Annotated[FileName, Path(description="Name of the tokenizer's file.")],
    model: Annotated[str, Query(description="Id of the base model.")],
    request: Request,
    server: AServer,
    caller: Admin,
) -> None:
    """Takes a file of a registered base model's tokenizer, to count tokens with. Idempotent."""
    key, file = await in_thread(tokenizer_file, server, caller, model, name)
    with server.storage.receive(limit=file.bytes) as incoming:
        async for chunk in request.stream():
            incoming.write(chunk)
        if incoming.digest != file.sha256:
            raise InvalidRequest(
                f"The {incoming.size:,} bytes sent are not the {name} that {model} is registered "
                "with. Send that one, or register the other under another id."
            )
        await in_thread(incoming.keep, key)


def tokenizer_file(server: Server, caller: Caller, model: str, name: str) -> tuple[str, FileFacts]:
    """Its key in storage, and the bytes it must have: no others come there."""
    with server.db.as_control() as tx:
        found = models.tokenizer_file(tx, model, name)
        audit.record(tx, caller, "model.send_tokenizer", model)
    return found
