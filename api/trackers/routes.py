"""/v1/project/integrations/wandb: the key by which a project's jobs are told to W&B."""

from fastapi import APIRouter

from api.http.dependencies import Admin, AServer
from api.http.routing import Route
from api.http.shapes import Deleted
from api.tenants import audit
from api.trackers import keys
from api.trackers.schemas import IntegrationObject, PutWandb

router = APIRouter(prefix="/v1/project/integrations", route_class=Route, tags=["Projects"])


@router.get("/wandb")
def retrieve(server: AServer, caller: Admin) -> IntegrationObject:
    """Returns the project's integration with Weights & Biases; never its key."""
    with server.db.as_project(caller.project_id) as tx:
        return IntegrationObject.of(keys.get(tx, caller.project_id), server.settings.wandb_url)


@router.put("/wandb")
def put(asked: PutWandb, server: AServer, caller: Admin) -> IntegrationObject:
    """The project's key, in place of the one there was."""
    keys.require_package()
    with server.db.as_project(caller.project_id) as tx:
        api_key = asked.api_key.get_secret_value()
        key = keys.put(tx, server.secret, caller.project_id, api_key)
        audit.record(tx, caller, "integration.put", keys.WANDB)
        return IntegrationObject.of(key, server.settings.wandb_url)


@router.delete("/wandb")
def delete(server: AServer, caller: Admin) -> Deleted:
    """Deletes the project's key for Weights & Biases."""
    with server.db.as_project(caller.project_id) as tx:
        keys.delete(tx, caller.project_id)
        audit.record(tx, caller, "integration.delete", keys.WANDB)
    return Deleted(id=keys.WANDB, object="project.integration.deleted")
