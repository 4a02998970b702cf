"""/healthz: the process answers. /readyz: it can also reach its database, which is at this
version's schema, and storage. Neither waits for what tenants ask.
"""

from anyio import to_thread
from fastapi import APIRouter

from api.db import revision
from api.http.dependencies import AServer, Server
from api.http.routing import LinkRoute

router = APIRouter(route_class=LinkRoute, tags=["Operations"])


@router.get("/healthz")
async def healthy() -> dict[str, str]:
    """Says that the process is alive."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(server: AServer) -> dict[str, str]:
    """Says whether database and storage can be reached."""
    await to_thread.run_sync(look, server, limiter=server.probe_threads)
    return {"status": "ok"}


def look(server: Server) -> None:
    revision.require_current(server.db)
    with server.storage.receive(limit=1) as incoming:
        incoming.write(b".")
        incoming.flush()
