"""/v1/models, and the operator's registration of base models."""

from fastapi import APIRouter

from api import models
from api.dependencies import Admin, AService, Reader
from api.schemas import ModelObject, Page
from api.tables import BaseModel
from tunery.messages import BaseModelFacts

router = APIRouter(prefix="/v1")


@router.get("/models")
def list_models(service: AService, caller: Reader) -> Page[ModelObject]:
    with service.db.as_project(caller.project_id) as tx:
        bases, tuned = models.list_all(tx)
    shown = [ModelObject.of_base(base) for base in bases]
    shown += [ModelObject.of_job(job, caller.project) for job in tuned]
    return Page(data=shown)


@router.get("/models/{name:path}")
def retrieve(name: str, service: AService, caller: Reader) -> ModelObject:
    with service.db.as_project(caller.project_id) as tx:
        found = models.get(tx, name)
    if isinstance(found, BaseModel):
        return ModelObject.of_base(found)
    return ModelObject.of_job(found, caller.project)


@router.post("/admin/models")
def register(facts: BaseModelFacts, service: AService, _: Admin) -> BaseModelFacts:
    with service.db.as_control() as tx:
        return models.facts_of(models.register(tx, facts))
