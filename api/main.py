"""The server's app. `python -m api` serves it."""

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType

from anyio import to_thread
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.types import ASGIApp

from api.db import logins, revision
from api.db.session import RATE_CHANNEL, Database
from api.files import routes as files
from api.files import upload_routes as uploads
from api.http import errors, health
from api.http.dependencies import Server
from api.http.edge import MAX_JSON_BYTES, Edge
from api.jobs import routes as jobs
from api.jobs.estimates import routes as estimates
from api.jobs.evaluations import grader_routes as graders
from api.jobs.evaluations import judging
from api.jobs.evaluations import routes as evaluations
from api.jobs.exports import routes as exports
from api.jobs.live import routes as live
from api.jobs.live.stream import Live
from api.jobs.queue import admin_routes as whole_queue
from api.jobs.queue import leases
from api.jobs.queue import routes as queue
from api.metrics import routes as metrics
from api.models import not_offered
from api.models import permission_routes as permissions
from api.models import routes as models
from api.serving import engine
from api.serving import routes as answers
from api.serving import worker_routes as answering_workers
from api.serving.endpoints import routes as endpoints
from api.serving.endpoints.attesting import Endpoints
from api.settings import Settings
from api.storage import routes as storage
from api.storage.opened import open_storage
from api.tenants import my_key_routes as my_keys
from api.tenants import routes as tenants
from api.tenants import usage_routes as usage
from api.trackers import routes as trackers
from api.ui import routes as ui
from api.upkeep import routes as checks
from api.webhooks import routes as webhooks
from api.workers import routes as workers
from tunery import log_lines, privileges, traces
from tunery.errors import WrongSchema
from tunery.settings import read

log = logging.getLogger(__name__)

ROUTERS = (
    files.router,
    uploads.router,
    jobs.router,
    live.router,
    exports.router,
    estimates.router,
    graders.router,
    evaluations.router,
    models.router,
    permissions.router,
    answers.router,
    not_offered.router,
    tenants.router,
    my_keys.router,
    usage.router,
    trackers.router,
    webhooks.router,
    workers.router,
    whole_queue.router,
    checks.router,
    queue.router,
    answering_workers.router,
    endpoints.router,
    storage.router,
    health.router,
    metrics.router,
    ui.router,
)


async def attend(server: Server, ended: asyncio.Event) -> None:
    """Tells the janitor, for as long as this server runs, that heartbeats are heard; and looks
    whether storage is there.
    """
    seconds = server.settings.lease_seconds
    while not ended.is_set():
        try:
            threads = server.worker_threads
            await to_thread.run_sync(note_attendance, server, seconds, limiter=threads)
            await to_thread.run_sync(server.storage.is_away, limiter=threads)
        except (OperationalError, PoolTimeout) as error:
            log.warning("the database is away (%s)", error)
        except DBAPIError as error:
            log.error("the database refuses this server (%s)", error)  # noqa: TRY400
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds / 6):
                await ended.wait()


def note_attendance(server: Server, seconds: float) -> None:
    with server.db.as_control() as tx:
        leases.attend(tx, lease_seconds=seconds)


@contextmanager
def on_stop(do: Callable[[], object]) -> Iterator[None]:
    """Calls `do` when the process is told to stop, and then whoever else waits for that. uvicorn
    ends an app only after its last answer, and a stream has no last one until it is told.
    """
    before: dict[int, Callable[[int, FrameType | None], object]] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        do()
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, stop)
    try:
        yield
    finally:
        for stopped, handler in before.items():
            signal.signal(stopped, handler)


def refuse_wrong_schema(db: Database) -> None:
    """Ends the process. A database that is away is waited for: /readyz tells what it is then."""
    try:
        revision.require_current(db)
        logins.warn_of_rights(db)
    except WrongSchema as error:
        sys.exit(error.message)
    except (OperationalError, PoolTimeout) as error:
        log.warning("the database is away (%s)", error)
    finally:
        db.close()  # its connections are made anew when they are needed


def create_app(settings: Settings | None = None) -> ASGIApp:
    if settings is None:
        privileges.shut()
        settings = read(Settings)
        log_lines.configure(settings.log, settings.log_level)
    traces.begin(settings.otel_endpoint, "tunery-api")
    url = settings.database_url.get_secret_value()
    db = Database(url)
    refuse_wrong_schema(db)
    server = Server(settings, db, open_storage(settings, db))
    streams = Live(db, server.listener)
    engine.listen(server)
    server.listener.hear(RATE_CHANNEL, server.rates.hear)

    def end() -> None:
        streams.end()
        server.awaited.end()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        ended = asyncio.Event()
        attending = asyncio.create_task(attend(server, ended))
        judged = asyncio.create_task(judging.judge_on(server))
        passing_on = asyncio.create_task(streams.run())
        listening = asyncio.create_task(server.listener.run())
        sharing = asyncio.create_task(server.rates.share(db, server.worker_threads, ended))
        keeping_up = asyncio.create_task(engine.keep_up(server, ended))
        watching = asyncio.create_task(Endpoints(server).watch(ended))
        loop = asyncio.get_running_loop()
        with on_stop(lambda: loop.call_soon_threadsafe(end)):
            yield
        ended.set()
        end()
        try:
            await asyncio.gather(attending, sharing, passing_on, keeping_up)
        finally:
            listening.cancel()
            watching.cancel()
            judged.cancel()
            await asyncio.gather(listening, watching, judged, return_exceptions=True)
            await server.upstreams.close()
            if server.provider:
                await server.provider.close()
            server.db.close()
            traces.end()

    # The interactive pages load scripts from a CDN; the schema itself is at /openapi.json.
    app = FastAPI(
        title="Tunery",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        max_body_size=MAX_JSON_BYTES,
        redirect_slashes=False,
    )
    app.state.server = server
    app.state.live = streams
    errors.install(app)
    # As they are: `include_router` would work each route out again, which takes 0.2 s.
    for router in ROUTERS:
        app.router.routes.extend(router.routes)
    return Edge(app)
