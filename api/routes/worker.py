"""/worker/v1: what workers ask. `claim` and `heartbeat` take a worker's key, all else the secret of
one lease.
"""

import asyncio
import time
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from api import leases
from api.dependencies import AServer, ClaimToken, Server, Worker
from api.signing import lease_secret
from tunery import messages

router = APIRouter(prefix="/worker/v1")

POLL_SECONDS = 0.5


@router.post("/claim", response_model=messages.Lease)
async def claim(
    ask: messages.ClaimRequest,
    request: Request,
    server: AServer,
    _: Worker,
    wait: Annotated[float, Query(ge=0, le=30)] = 0,
) -> messages.Lease | Response:
    """A lease, or 204 when nothing is ready within `wait` seconds."""
    until = time.monotonic() + wait
    while not await request.is_disconnected():
        lease = await to_thread.run_sync(claim_now, server, ask)
        if lease:
            return lease
        if time.monotonic() >= until:
            return Response(status_code=204)
        await asyncio.sleep(POLL_SECONDS)
    return Response(status_code=204)


def claim_now(server: Server, ask: messages.ClaimRequest) -> messages.Lease | None:
    seconds = server.settings.lease_seconds
    with server.db.as_control() as tx:
        claimed = leases.claim(tx, ask, lease_seconds=seconds)
        if claimed is None:
            return None
        job, base = claimed
        secret = lease_secret(server.secret, job.id, job.token)
        return leases.lease_of(tx, server.storage, job, base, secret=secret, lease_seconds=seconds)


@router.post("/heartbeat")
def heartbeat(
    ask: messages.HeartbeatRequest, server: AServer, _: Worker
) -> messages.HeartbeatReply:
    seconds = server.settings.lease_seconds
    with server.db.as_control() as tx:
        return messages.HeartbeatReply(
            leases=[leases.heartbeat(tx, beat, lease_seconds=seconds) for beat in ask.leases]
        )


@router.post("/jobs/{job_id}/events", status_code=204)
def add_events(job_id: str, batch: messages.EventBatch, server: AServer, token: ClaimToken) -> None:
    with server.db.as_control() as tx:
        leases.add_events(tx, job_id, token, batch)


@router.post("/jobs/{job_id}/uploads")
def upload_target(
    job_id: str, file: messages.FileFacts, server: AServer, token: ClaimToken
) -> messages.UploadTarget:
    with server.db.as_control() as tx:
        return leases.upload_target(tx, server.storage, job_id, token, file)


@router.post("/jobs/{job_id}/checkpoints", status_code=204)
def add_checkpoint(
    job_id: str, written: messages.CheckpointWritten, server: AServer, token: ClaimToken
) -> None:
    with server.db.as_control() as tx:
        leases.add_checkpoint(tx, server.storage, job_id, token, written)


@router.post("/jobs/{job_id}/finish", status_code=204)
def finish(job_id: str, ask: messages.FinishRequest, server: AServer, token: ClaimToken) -> None:
    with server.db.as_control() as tx:
        leases.finish(tx, server.storage, job_id, token, ask)
