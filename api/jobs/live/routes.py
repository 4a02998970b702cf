"""/v1/fine_tuning/jobs/{id}: what can be followed while the job waits and runs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from api.http.dependencies import AServer, Bearer, Reader
from api.http.routing import Route
from api.jobs import state
from api.jobs.live import curves, logs
from api.jobs.live.stream import Live
from api.jobs.part_schemas import CurvesObject
from api.jobs.routes import event_number
from tunery.errors import InvalidRequest
from tunery.fields import JobId
from tunery.states import JobState

router = APIRouter(prefix="/v1/fine_tuning/jobs", route_class=Route, tags=["Fine-tuning jobs"])

# Proxies that gather an answer before they pass it on would hold up a stream.
UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}


async def live_of(request: Request) -> Live:
    live: Live = request.app.state.live
    return live


ALive = Annotated[Live, Depends(live_of)]


class EventStream(StreamingResponse):
    media_type = "text/event-stream"


@router.get(
    "/{job_id}/stream",
    response_class=EventStream,
    responses={204: {"description": "The job has ended, and that was its last event"}},
)
def stream(
    job_id: JobId,
    server: AServer,
    live: ALive,
    caller: Reader,
    key: Bearer,
    after: Annotated[
        str | None, Query(description="Id of an event: the stream begins with the next one.")
    ] = None,
    tail: Annotated[
        int | None,
        Query(ge=0, description="Number of newest events to begin with. Left out: all events."),
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(
            description="The same as `after`, and used instead of it. Clients send it when they "
            "reconnect."
        ),
    ] = None,
) -> Response:
    """The job's events as server-sent events, until it ends: all of them, the newest `tail`, or
    those after the one named by `after` or, when a client comes back, by `Last-Event-ID`. A client
    that comes back after the end is told by 204 that there is no more.
    """
    if after is not None and tail is not None:
        raise InvalidRequest("Give `after` or `tail`, not both.", param="tail")
    resumed = last_event_id or after
    with server.db.as_project(caller.project_id) as tx:
        job = state.get(tx, job_id)
    position = event_number(job, resumed)
    if position is not None and position > job.event_count:
        raise InvalidRequest(f"No event {resumed!r} to continue after.", param="after")
    if position == job.event_count and JobState(job.state).terminal:
        return Response(status_code=204)
    if position is None:
        position = 0 if tail is None else max(0, job.event_count - tail)
    news = live.follow(job, after=position, key=key)
    return EventStream(news, headers=UNBUFFERED)


@router.get(
    "/{job_id}/metrics",
    response_model=CurvesObject,
    responses={200: {"content": {"text/csv": {}}}},
)
def metrics(
    job_id: JobId,
    request: Request,
    server: AServer,
    caller: Reader,
    limit: Annotated[
        int,
        Query(
            ge=10,
            le=10_000,
            description="Maximum number of points in the JSON; CSV always has all of them.",
        ),
    ] = 1_000,
    format: Annotated[  # noqa: A002
        Literal["json", "csv"] | None,
        Query(description="Left out: as the header `Accept` says, by default JSON."),
    ] = None,
) -> CurvesObject | Response:
    """Losses and the like, step by step: as JSON thinned to `limit` points, as CSV (`format`, or
    by the header `Accept: text/csv`) all of them.
    """
    wants_csv = "text/csv" in request.headers.get("accept", "") if not format else format == "csv"
    with server.db.as_project(caller.project_id) as tx:
        state.get(tx, job_id)
        if not wants_csv:
            return curves.thinned(tx, job_id, limit=limit)
    lines = curves.as_csv(server.db, caller.project_id, job_id)
    name = {"content-disposition": f'attachment; filename="{job_id}.metrics.csv"'}
    return StreamingResponse(lines, media_type="text/csv", headers=name)


@router.get(
    "/{job_id}/logs",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "The log"}},
)
def log(
    job_id: JobId,
    key: Bearer,
    server: AServer,
    live: ALive,
    caller: Reader,
    attempt: Annotated[
        int | None,
        Query(ge=1, lt=2**63, description="Number of the attempt. Left out: the newest."),
    ] = None,
    tail: Annotated[
        int | None,
        Query(
            ge=0,
            le=100_000,
            description="Number of lines to send, from the end. Left out: all lines.",
        ),
    ] = None,
    follow: Annotated[
        bool, Query(description="Whether to send the log on as it grows, until the attempt ends.")
    ] = False,
) -> Response:
    """The engine's log of the job's newest attempt or of another, whole or its last `tail` lines;
    with `follow` as it grows, until the attempt is over.
    """
    with server.db.as_project(caller.project_id) as tx:
        found = logs.attempt_of(tx, state.get(tx, job_id), attempt)
        if not follow:
            return PlainTextResponse(logs.last_lines(logs.read(tx, found)[0], tail))
    lines = logs.follow(
        server.db,
        found,
        tail=tail,
        ended=live.ended,
        require_key=lambda: server.caller_of(key),
    )
    return StreamingResponse(lines, media_type="text/plain", headers=UNBUFFERED)
