"""/healthz: the process answers. /readyz: it can also reach its database, which is at this
version's schema, and storage.
"""

from fastapi import APIRouter

from api import revision
from api.http.dependencies import AServer
from api.http.routing import Route

router = APIRouter(route_class=Route)


@router.get("/healthz")
async def healthy() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
def ready(server: AServer) -> dict[str, str]:
    revision.require_current(server.db)
    with server.storage.receive(limit=1) as incoming:
        incoming.write(b".")
        incoming.flush()
    return {"status": "ok"}
