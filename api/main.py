"""The server: `uvicorn --factory api.main:create_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI
from starlette.types import ASGIApp

from api import errors
from api.db import THREADS, Database
from api.dependencies import Server
from api.edge import MAX_JSON_BYTES, Edge
from api.routes import files, health, jobs, metrics, models, storage, worker
from api.settings import Settings
from api.storage import Storage

ROUTERS = (
    files.router,
    jobs.router,
    models.router,
    worker.router,
    storage.router,
    health.router,
    metrics.router,
)


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
        yield
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
