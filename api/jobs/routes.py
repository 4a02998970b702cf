"""/v1/fine_tuning/jobs"""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api.db.session import across_projects
from api.http import idempotency
from api.http.dependencies import After, AServer, Limit, Reader, SentAs, Server, Writer
from api.http.responses import STORED_FILE, in_json, stored_file
from api.http.routing import Route
from api.http.shapes import Deleted, Page, page
from api.jobs import deletions, intake, kept_rows, listing, state, traced
from api.jobs.filter import METADATA, AFilter
from api.jobs.part_schemas import (
    ArtifactObject,
    AttemptObject,
    CheckpointObject,
    EventObject,
    RequestObject,
    SamplesObject,
    event_id,
)
from api.jobs.queue import waiting
from api.jobs.requests import CreateJob
from api.jobs.schemas import JobObject
from api.models import hub
from api.tables import Artifact, Job
from api.tenants import audit, quotas
from api.tenants.places import in_thread
from api.tenants.projects import Caller
from tunery.errors import InvalidRequest
from tunery.fields import FileName, JobId
from tunery.log_lines import learn
from tunery.states import JobState

TRACEPARENT = "W3C trace context of the client. The job's own trace links to it."

router = APIRouter(prefix="/v1/fine_tuning/jobs", route_class=Route, tags=["Fine-tuning jobs"])


@router.post("", response_model=JobObject)
async def create(
    asked: CreateJob,
    sent: SentAs,
    server: AServer,
    caller: Writer,
    traceparent: Annotated[str | None, Header(description=TRACEPARENT)] = None,
) -> JSONResponse:
    """Creates a fine-tuning job."""
    began = time.time_ns()
    await hub.require_known(server, caller, asked.model)
    warnings = await kept_rows.require(server, caller.project_id, asked)
    told = partial(traced.created, began=began, traceparent=traceparent)
    return JSONResponse(await in_thread(created, asked, sent, server, caller, warnings, told))


def created(
    asked: CreateJob,
    sent: idempotency.Sent,
    server: Server,
    caller: Caller,
    warnings: list[str],
    told: Callable[[Session, Job], None],
) -> dict[str, Any]:
    """Once, however often it is sent."""

    def make() -> JobObject:
        exports = len(asked.exports or [])
        quotas.require_job(tx, server.settings, caller.project_id, exports=exports)
        job = intake.create(tx, caller, asked, warnings, server.settings.pools)
        audit.record(tx, caller, "job.create", job.id)
        learn(job=job.id)
        told(tx, job)
        return in_queue(tx, server, job, asked.metadata or {})

    with server.db.as_project(caller.project_id) as tx:
        return idempotency.once(
            tx,
            caller.project_id,
            sent,
            {"route": "jobs", **asked.model_dump(mode="json", exclude_unset=True)},
            make,
            lambda job_id: state.stands(tx.get(Job, job_id)),
        )


def in_queue(tx: Session, server: Server, job: Job, metadata: dict[str, str]) -> JobObject:
    """The job; one that is queued with what it waits for."""
    found = JobObject.of(job, metadata)
    if job.state == JobState.QUEUED:
        with across_projects(tx):
            found.tunery.queue, found.estimated_finish = waiting.explain(
                tx, server.settings, job, storage_away=server.storage.away
            )
    return found


@router.get("", response_model=Page[JobObject], openapi_extra={"parameters": [METADATA]})
def list_jobs(
    server: AServer, caller: Reader, wanted: AFilter, limit: Limit = 20, after: After = None
) -> Response:
    """Lists the project's jobs, the newest first. All given filters must hold."""
    with server.db.as_project(caller.project_id) as tx:
        rows = listing.list_jobs(tx, wanted, limit=limit, after=after)
    return in_json(page(rows, limit, lambda row: JobObject.of(*row)))


@router.get("/{job_id}", response_model=JobObject)
def retrieve(job_id: JobId, server: AServer, caller: Reader) -> Response:
    """Returns one job."""
    with server.db.as_project(caller.project_id) as tx:
        job, metadata = state.show(tx, caller.project_id, job_id)
        return in_json(in_queue(tx, server, job, metadata))


@router.get("/{job_id}/request")
def retrieve_request(job_id: JobId, server: AServer, caller: Reader) -> RequestObject:
    """Returns the request that creates the job again: as it was sent, and with all settings
    resolved.
    """
    with server.db.as_project(caller.project_id) as tx:
        return RequestObject.of(state.get(tx, job_id))


@router.delete("/{job_id}")
def delete(job_id: JobId, server: AServer, caller: Writer) -> Deleted:
    """Deletes an ended job with all that came of it but its result file."""
    with server.db.as_project(caller.project_id) as tx:
        keys = deletions.delete_job(tx, job_id)
        audit.record(tx, caller, "job.delete", job_id)
    server.storage.discard(keys)
    return Deleted(id=job_id, object="fine_tuning.job")


@router.post("/{job_id}/cancel")
def cancel(job_id: JobId, server: AServer, caller: Writer) -> JobObject:
    """Cancels a job. A running one stops at its next micro-step."""
    with server.db.as_project(caller.project_id) as tx:
        job = state.cancel(tx, job_id)
        audit.record(tx, caller, "job.cancel", job_id)
        return JobObject.of(job, state.metadata_of(tx, [job_id])[job_id])


@router.post("/{job_id}/pause")
def pause(job_id: JobId, server: AServer, caller: Writer) -> JobObject:
    """Pauses a job: a running one keeps a checkpoint and frees its device."""
    with server.db.as_project(caller.project_id) as tx:
        job = state.pause(tx, job_id)
        audit.record(tx, caller, "job.pause", job_id)
        return JobObject.of(job, state.metadata_of(tx, [job_id])[job_id])


@router.post("/{job_id}/resume")
def resume(job_id: JobId, server: AServer, caller: Writer) -> JobObject:
    """Resumes a paused job from its checkpoint."""
    with server.db.as_project(caller.project_id) as tx:
        job = state.resume(tx, job_id)
        audit.record(tx, caller, "job.resume", job_id)
        return in_queue(tx, server, job, state.metadata_of(tx, [job_id])[job_id])


@router.get("/{job_id}/events")
def list_events(
    job_id: JobId,
    server: AServer,
    caller: Reader,
    limit: Limit = 20,
    after: After = None,
    type: Annotated[  # noqa: A002
        Literal["message", "metrics"] | None,
        Query(description="Only the messages, or only the metrics of steps. Left out: both."),
    ] = None,
) -> Page[EventObject]:
    """Lists a job's events, the newest first: messages, and the metrics of each step."""
    with server.db.as_project(caller.project_id) as tx:
        job = state.get(tx, job_id)
        number = event_number(job, after)
        rows = state.list_events(tx, job_id, limit=limit, after=number, type_=type)
    return page(rows, limit, EventObject.of)


def event_number(job: Job, after: str | None) -> int | None:
    if after is None:
        return None
    number = after.rpartition("-")[2]
    known = re.fullmatch(r"[0-9]{1,18}", number) and 1 <= int(number) <= job.event_count
    if not known or after != event_id(job.id, int(number)):
        raise InvalidRequest(f"No event {after!r} to continue after.", param="after")
    return int(number)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: JobId, server: AServer, caller: Reader, limit: Limit = 10, after: After = None
) -> Page[CheckpointObject]:
    """Lists the checkpoints that are kept: the last two, and the one with the lowest
    validation loss.
    """
    with server.db.as_project(caller.project_id) as tx:
        job = state.get(tx, job_id)
        rows = state.list_checkpoints(tx, job_id, limit=limit, after=after)
    return page(rows, limit, lambda row: CheckpointObject.of(row, job.model_name))


@router.get("/{job_id}/samples")
def list_samples(job_id: JobId, server: AServer, caller: Reader) -> Page[SamplesObject]:
    """What the model said at each checkpoint that was kept, beside the one it started from; empty
    without a validation file.
    """
    with server.db.as_project(caller.project_id) as tx:
        state.get(tx, job_id)
        rows = state.list_samples(tx, job_id)
    return page(rows, len(rows), SamplesObject.of)


@router.get("/{job_id}/attempts")
def list_attempts(job_id: JobId, server: AServer, caller: Reader) -> Page[AttemptObject]:
    """Every claim of the job, newest first: where it ran, for how long, and how it ended."""
    with server.db.as_project(caller.project_id) as tx:
        state.get(tx, job_id)
        rows = state.list_attempts(tx, job_id)
    return page(rows, len(rows), AttemptObject.of)


@router.get("/{job_id}/artifacts")
def list_artifacts(job_id: JobId, server: AServer, caller: Reader) -> Page[ArtifactObject]:
    """The files of the finished adapter; empty until the job has succeeded."""
    rows = artifacts_of(server, caller, job_id)
    return page(list(rows.values()), len(rows), ArtifactObject.of)


@router.get("/{job_id}/artifacts/{name}", response_class=Response, responses=STORED_FILE)
async def artifact(
    job_id: JobId, name: FileName, request: Request, server: AServer, caller: Reader
) -> Response:
    """Returns the bytes of one of the job's files."""
    rows = await in_thread(artifacts_of, server, caller, job_id)
    if name not in rows:
        raise state.no_artifact(job_id, name, list(rows))
    found = rows[name]
    return await stored_file(request, server, found.key, name=found.name, digest=found.sha256)


def artifacts_of(server: Server, caller: Caller, job_id: str) -> dict[str, Artifact]:
    with server.db.as_project(caller.project_id) as tx:
        state.refuse_deleted_model(state.get(tx, job_id))
        return {row.name: row for row in state.list_artifacts(tx, job_id)}
