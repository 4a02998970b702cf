"""/healthz: the process answers. /readyz: it can also reach its database and storage."""

from fastapi import APIRouter
from sqlalchemy import select

from api.http.dependencies import AServer
from api.http.routing import Route

router = APIRouter(route_class=Route)


@router.get("/healthz")
async def healthy() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
def ready(server: AServer) -> dict[str, str]:
    with server.db.as_control() as tx:
        tx.execute(select(1))
    with server.storage.receive(limit=1) as incoming:
        incoming.write(b".")
        incoming.flush()
    return {"status": "ok"}
