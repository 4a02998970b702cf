"""/v1/fine_tuning/jobs/{id}: what can be followed while the job waits and runs."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api import jobs
from api.dependencies import AServer, Reader, bearer
from api.routes.jobs import event_number
from tunery.errors import InvalidRequest
from tunery.states import JobState

router = APIRouter(prefix="/v1/fine_tuning/jobs")

# Proxies that gather an answer before they pass it on would hold up a stream.
UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    media_type = "text/event-stream"


@router.get("/{job_id}/stream", response_class=EventStream)
def stream(
    job_id: str,
    request: Request,
    server: AServer,
    caller: Reader,
    after: str | None = None,
    tail: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The job's events as server-sent events, until it ends: all of them, the newest `tail`, or
    those after the one named by `after` or, when a client comes back, by `Last-Event-ID`. A client
    that comes back after the end is told by 204 that there is no more.
    """
    if after is not None and tail is not None:
        raise InvalidRequest("Give `after` or `tail`, not both.", param="tail")
    resumed = last_event_id or after
    with server.db.as_project(caller.project_id) as tx:
        job = jobs.get(tx, job_id)
    position = event_number(job, resumed)
    if position is not None and position > job.event_count:
        raise InvalidRequest(f"No event {resumed!r} to continue after.", param="after")
    if position == job.event_count and JobState(job.state).terminal:
        return Response(status_code=204)
    if position is None:
        position = 0 if tail is None else max(0, job.event_count - tail)
    news = server.live.follow(job, after=position, key=bearer(request))
    return EventStream(news, headers=UNBUFFERED)
