"""/v1/models, and the operator's registration of base models."""

from fastapi import APIRouter

from api import models
from api.dependencies import Admin, AServer, Reader, Writer
from api.schemas.models import ModelObject
from api.schemas.shapes import Deleted, Page
from api.tables import BaseModel
from tunery.messages import BaseModelFacts

router = APIRouter(prefix="/v1")


@router.get("/models")
def list_models(server: AServer, caller: Reader) -> Page[ModelObject]:
    with server.db.as_project(caller.project_id) as tx:
        bases, tuned, shared = models.list_all(tx)
    shown = [ModelObject.of_base(base) for base in bases]
    shown += [ModelObject.of_tuned(model.name, model.created_at) for model in tuned]
    shown += [ModelObject.of_tuned(share.model, share.created_at) for share in shared]
    return Page(data=shown)


@router.get("/models/{name:path}")
def retrieve(name: str, server: AServer, caller: Reader) -> ModelObject:
    with server.db.as_project(caller.project_id) as tx:
        found = models.get(tx, name)
    if isinstance(found, BaseModel):
        return ModelObject.of_base(found)
    return ModelObject.of_tuned(found.name, found.created_at)


@router.delete("/models/{name:path}")
def delete(name: str, server: AServer, caller: Writer) -> Deleted:
    with server.db.as_project(caller.project_id) as tx:
        keys = models.delete(tx, name)
    server.storage.discard(keys)
    return Deleted(id=name, object="model")


@router.post("/admin/models")
def register(facts: BaseModelFacts, server: AServer, _: Admin) -> BaseModelFacts:
    with server.db.as_control() as tx:
        return models.facts_of(models.register(tx, facts))
