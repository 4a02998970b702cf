"""/v1/fine_tuning/checkpoints/{model}/permissions"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from api.http.dependencies import Admin, After, AServer, Limit
from api.http.routing import Route
from api.http.shapes import Deleted, Page, page
from api.models import permissions
from api.models.permissions import Wanted
from api.models.schemas import PermissionId, PermissionObject, Share
from api.tenants import audit
from tunery.fields import TunedModel

# Names of models have slashes in them.
router = APIRouter(
    prefix="/v1/fine_tuning/checkpoints/{name:path}/permissions", route_class=Route, tags=["Models"]
)


@router.post("")
def share(name: TunedModel, asked: Share, server: AServer, caller: Admin) -> Page[PermissionObject]:
    """Shares a tuned model or checkpoint with other projects."""
    with server.db.as_project(caller.project_id) as tx:
        rows = permissions.share(tx, name, asked.project_ids)
        for row in rows:
            audit.record(tx, caller, "permission.create", row.id)
    return page(rows, len(rows), PermissionObject.of)


@router.get("")
def list_permissions(
    name: TunedModel,
    server: AServer,
    caller: Admin,
    limit: Limit = 10,
    after: After = None,
    order: Annotated[
        Literal["ascending", "descending"],
        Query(description="`descending`: newest first; `ascending`: oldest first."),
    ] = "descending",
    project_id: Annotated[
        str | None, Query(description="Only the permission of this project.")
    ] = None,
) -> Page[PermissionObject]:
    """Lists the projects that may use the model or checkpoint."""
    wanted = Wanted(limit, after, order == "ascending", project_id)
    with server.db.as_project(caller.project_id) as tx:
        rows = permissions.list_some(tx, name, wanted)
    return page(rows, limit, PermissionObject.of)


@router.delete("/{permission_id}")
def take_back(
    name: TunedModel, permission_id: PermissionId, server: AServer, caller: Admin
) -> Deleted:
    """Takes a permission back."""
    with server.db.as_project(caller.project_id) as tx:
        permissions.take_back(tx, name, permission_id)
        audit.record(tx, caller, "permission.delete", permission_id)
    return Deleted(id=permission_id, object="checkpoint.permission")
