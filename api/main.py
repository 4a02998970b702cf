"""The server: `uvicorn --factory api.main:create_app`."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from anyio import to_thread
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.types import ASGIApp

from api import errors, leases
from api.db import THREADS, Database
from api.dependencies import Server
from api.edge import MAX_JSON_BYTES, Edge
from api.routes import (
    estimates,
    files,
    health,
    jobs,
    metrics,
    models,
    permissions,
    storage,
    worker,
    workers,
)
from api.settings import Settings
from api.storage import Storage

log = logging.getLogger(__name__)

ROUTERS = (
    files.router,
    jobs.router,
    estimates.router,
    models.router,
    permissions.router,
    workers.router,
    worker.router,
    storage.router,
    health.router,
    metrics.router,
)


async def attend(server: Server, ended: asyncio.Event) -> None:
    """Tells the janitor, for as long as this server runs, that heartbeats are heard."""
    seconds = server.settings.lease_seconds
    while not ended.is_set():
        try:
            await to_thread.run_sync(note_attendance, server, seconds)
        except (OperationalError, PoolTimeout) as error:
            log.warning("the database is away (%s)", error)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds / 6)


def note_attendance(server: Server, seconds: float) -> None:
    with server.db.as_control() as tx:
        leases.attend(tx, lease_seconds=seconds)


def create_app(settings: Settings | None = None) -> ASGIApp:
    settings = settings or Settings()
    server = Server(
        settings=settings,
        db=Database(settings.database_url.get_secret_value()),
        storage=Storage(settings.storage, settings.secret.get_secret_value()),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        ended = asyncio.Event()
        attending = asyncio.create_task(attend(server, ended))
        yield
        ended.set()
        await attending
        server.db.close()

    # The interactive pages load scripts from a CDN; the schema itself is at /openapi.json.
    app = FastAPI(
        title="Tunery",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        max_body_size=MAX_JSON_BYTES,
    )
    app.state.server = server
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return Edge(app)
