"""/v1/models, and the operator's registration of base models."""

from fastapi import APIRouter

from api import models
from api.dependencies import Admin, AServer, Reader
from api.routing import Route
from api.schemas.models import ModelObject
from api.schemas.shapes import Page
from api.tables import BaseModel
from tunery.messages import BaseModelFacts

router = APIRouter(prefix="/v1", route_class=Route)


@router.get("/models")
def list_models(server: AServer, caller: Reader) -> Page[ModelObject]:
    with server.db.as_project(caller.project_id) as tx:
        bases, tuned = models.list_all(tx)
    shown = [ModelObject.of_base(base) for base in bases]
    shown += [ModelObject.of_job(job, caller.project) for job in tuned]
    return Page(data=shown)


@router.get("/models/{name:path}")
def retrieve(name: str, server: AServer, caller: Reader) -> ModelObject:
    with server.db.as_project(caller.project_id) as tx:
        found = models.get(tx, name)
    if isinstance(found, BaseModel):
        return ModelObject.of_base(found)
    return ModelObject.of_job(found, caller.project)


@router.post("/admin/models")
def register(facts: BaseModelFacts, server: AServer, _: Admin) -> BaseModelFacts:
    with server.db.as_control() as tx:
        return models.facts_of(models.register(tx, facts))
