"""/v1/admin/checks: what `tunery doctor` asks."""

from fastapi import APIRouter

from api.http.dependencies import Admin, AServer
from api.http.routing import Route
from api.upkeep import checks
from api.upkeep.schemas import ChecksObject
from tunery.findings import worst

router = APIRouter(prefix="/v1/admin/checks", route_class=Route, tags=["Operations"])


@router.get("")
def check(server: AServer, _: Admin) -> ChecksObject:
    """Checks the installation, from the database to the workers, and says what is wrong and how to
    fix it.
    """
    found = checks.look(server.db, server.storage, server.settings)
    return ChecksObject(state=worst(found), data=found)
