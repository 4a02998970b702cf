"""/worker/v1: what workers ask. `service`, `claim` and `heartbeat` take a worker's key, all else
the secret of one lease.
"""

import asyncio
import time
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.http import counts, errors
from api.http.dependencies import AServer, ClaimToken, Server, Worker
from api.http.routing import WorkerRoute
from api.jobs.live import logs
from api.jobs.queue import attempts, leases
from api.storage.kept import blob_key, target_for
from api.tenants.places import in_thread
from tunery import messages, traces
from tunery.evaluations import AnsweredRows
from tunery.facts import FileFacts
from tunery.failpoint import failpoint
from tunery.log_lines import learn

router = APIRouter(
    prefix="/worker/v1",
    route_class=WorkerRoute,
    responses=errors.documented(426),
    tags=["For workers"],
)

POLL_SECONDS = 0.5


@router.post(
    "/claim",
    response_model=messages.Lease,
    responses={204: {"description": "Nothing is ready"}},
)
async def claim(
    ask: messages.ClaimRequest,
    request: Request,
    server: AServer,
    _: Worker,
    wait: Annotated[
        float, Query(ge=0, le=30, description="Seconds to wait for a job that is ready.")
    ] = 0,
) -> messages.Lease | Response:
    """A lease, or 204 when nothing is ready within `wait` seconds."""
    until = time.monotonic() + wait
    while not await request.is_disconnected():
        lease = await in_thread(claim_now, server, ask)
        if lease:
            return lease
        if time.monotonic() >= until:
            break
        await asyncio.sleep(POLL_SECONDS)
    why = {messages.NO_JOB_BECAUSE: "storage is away"} if server.storage.away else None
    return Response(status_code=204, headers=why)


def claim_now(server: Server, ask: messages.ClaimRequest) -> messages.Lease | None:
    # A job without its bytes would only cost it an attempt.
    if server.storage.is_away():
        return None
    began = time.time_ns()
    with server.db.as_control() as tx:
        lease = leases.claim(tx, server.storage, server.settings, ask)
    if lease:
        job, token = traces.whole(lease.job_id), lease.token
        traces.tell("claim", began, time.time_ns(), within=job, attempt=token, worker=ask.worker)
        learn(job=lease.job_id, attempt=lease.token, project=lease.project_id)
    return lease


@router.get("/service")
def service(_: Worker) -> messages.Service:
    """What a worker may want to know before it begins: that its key is good is one thing."""
    return messages.Service(
        version=version("tunery"),
        protocol=messages.PROTOCOL,
        oldest_protocol=messages.OLDEST_PROTOCOL,
    )


@router.post("/heartbeat")
def heartbeat(
    ask: messages.HeartbeatRequest, server: AServer, _: Worker
) -> messages.HeartbeatReply:
    """Renews the worker's leases, and says of each whether to go on."""
    with server.db.as_control() as tx:
        reply = leases.heartbeat(tx, server.settings, ask)
    for answer in reply.leases:
        if answer.directive == "lost":
            counts.fenced("heartbeat")
    return reply


@router.post("/jobs/{job_id}/events", status_code=204)
def add_events(
    job_id: messages.ClaimedId, batch: messages.EventBatch, server: AServer, token: ClaimToken
) -> None:
    """Adds events, metrics and progress to the job."""
    with server.db.as_control() as tx:
        attempts.add_events(tx, job_id, token, batch)


@router.post("/jobs/{job_id}/log", status_code=204)
def add_log(
    job_id: messages.ClaimedId, part: messages.LogPart, server: AServer, token: ClaimToken
) -> None:
    """Adds a piece of the engine's log."""
    with server.db.as_control() as tx:
        logs.add(tx, job_id, token, part)


@router.post("/jobs/{job_id}/uploads")
def upload_target(
    job_id: messages.ClaimedId, file: FileFacts, server: AServer, token: ClaimToken
) -> messages.UploadTarget:
    """Returns where to put one file's bytes; nowhere, if they are already stored."""
    server.storage.require_there()
    with server.db.as_control() as tx:
        attempts.hold(tx, job_id, token)
    return target_for(server.storage, blob_key(job_id, token, file), file)


@router.post("/jobs/{job_id}/uploads/parts")
def part_targets(
    job_id: messages.ClaimedId, asked: messages.PartsAsked, server: AServer, token: ClaimToken
) -> messages.PartTargets:
    """Returns where to put the parts of a large file, if storage takes it in parts."""
    server.storage.require_there()
    with server.db.as_control() as tx:
        attempts.hold(tx, job_id, token)
    file = asked.file
    upload_id, targets = server.storage.begin_parts(
        blob_key(job_id, token, file), size=file.bytes, digest=file.sha256, parts=asked.parts
    )
    parts = [messages.DirectTarget(url=one.url, headers=one.headers) for one in targets]
    return messages.PartTargets(upload_id=upload_id, parts=parts)


@router.post("/jobs/{job_id}/uploads/complete", status_code=204)
def complete_parts(
    job_id: messages.ClaimedId, sent: messages.PartsSent, server: AServer, token: ClaimToken
) -> None:
    """Makes one file of the parts that have been sent. Idempotent."""
    server.storage.require_there()
    with server.db.as_control() as tx:
        attempts.hold(tx, job_id, token)
    server.storage.end_parts(blob_key(job_id, token, sent.file), sent.upload_id, sent.parts)


@router.post("/jobs/{job_id}/checkpoints", status_code=204)
def add_checkpoint(
    job_id: messages.ClaimedId,
    written: messages.CheckpointWritten,
    server: AServer,
    token: ClaimToken,
) -> None:
    """Records a checkpoint whose files are stored."""
    server.storage.require_there()
    lacks = attempts.lacking(server.storage, job_id, token, written.files)
    with server.db.as_control() as tx:
        given_up = attempts.add_checkpoint(tx, job_id, token, written, lacks)
    server.storage.discard(given_up)


@router.post("/jobs/{job_id}/answers", status_code=204)
def add_answers(
    job_id: messages.ClaimedId, given: AnsweredRows, server: AServer, token: ClaimToken
) -> None:
    """Adds what both models answered to held-out rows."""
    with server.db.as_control() as tx:
        attempts.add_answers(tx, job_id, token, given)


@router.post("/jobs/{job_id}/finish", status_code=204)
def finish(
    job_id: messages.ClaimedId, ask: messages.FinishRequest, server: AServer, token: ClaimToken
) -> None:
    """Ends the attempt: publishes its results, gives the job back, or records its failure."""
    lacks = []
    if isinstance(ask.result, messages.Succeeded | messages.Exported):
        lacks = attempts.ready_to_publish(server.storage, job_id, token, ask.result)
    with server.db.as_control() as tx:
        attempts.finish(tx, server.settings, job_id, token, ask, lacks)
    failpoint("api.finished")
