"""The server: `uvicorn --factory api.main:create_app`."""

import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.db import THREADS, Database
from api.dependencies import Service
from api.ids import new_id
from api.routes import files, health, jobs, models, storage, worker
from api.settings import Settings
from api.storage import Storage

log = logging.getLogger(__name__)

ROUTERS = (files.router, jobs.router, models.router, worker.router, storage.router, health.router)


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or Settings()
    service = Service(
        settings=settings,
        db=Database(settings.database_url.get_secret_value()),
        storage=Storage(settings.storage, settings.secret.get_secret_value()),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        service.db.close()

    # The interactive pages load scripts from a CDN; the schema itself is at /openapi.json.
    app = FastAPI(title="Tunery", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_middleware(Edge)
    return app


class Edge:
    """On every answer: `x-request-id`, and the time it took. A crash becomes an envelope here, and
    so does a NUL in a path or a query, which no id holds and Postgres refuses.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, start = new_id("req_"), time.monotonic()
        answered = False

        async def send_marked(message: Message) -> None:
            nonlocal answered
            answered = True
            if message["type"] == "http.response.start":
                took = f"{(time.monotonic() - start) * 1000:.0f}"
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", took.encode()),
                ]
            await send(message)

        asked = scope["path"].encode(errors="replace") + scope["query_string"]
        if re.search(rb"\x00|%00", asked):
            refusal = errors.envelope(400, "The address holds a NUL character.")
            await refusal(scope, receive, send_marked)
            return
        try:
            await self.app(scope, receive, send_marked)
        except Exception:
            log.exception("%s: %s %s failed", request_id, scope["method"], scope["path"])
            if answered:
                raise
            crash = errors.envelope(500, "The server failed on this request.", code="crashed")
            await crash(scope, receive, send_marked)
