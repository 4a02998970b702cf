"""/worker/v1: what workers ask. `claim` and `heartbeat` take a worker's key, all else the secret of
one lease.
"""

import asyncio
import time
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Response

from api import leases
from api.dependencies import AService, ClaimToken, Service, Worker
from api.signing import lease_secret
from tunery import messages

router = APIRouter(prefix="/worker/v1")

POLL_SECONDS = 0.5


@router.post("/claim", response_model=messages.Lease)
async def claim(
    ask: messages.ClaimRequest,
    service: AService,
    _: Worker,
    wait: Annotated[float, Query(ge=0, le=30)] = 0,
) -> messages.Lease | Response:
    """A lease, or 204 when nothing is ready within `wait` seconds."""
    until = time.monotonic() + wait
    while True:
        lease = await to_thread.run_sync(claim_now, service, ask)
        if lease:
            return lease
        if time.monotonic() >= until:
            return Response(status_code=204)
        await asyncio.sleep(POLL_SECONDS)


def claim_now(service: Service, ask: messages.ClaimRequest) -> messages.Lease | None:
    seconds = service.settings.lease_seconds
    with service.db.as_control() as tx:
        claimed = leases.claim(tx, ask, lease_seconds=seconds)
        if claimed is None:
            return None
        job, base = claimed
        secret = lease_secret(service.secret, job.id, job.token)
        return leases.lease_of(tx, service.storage, job, base, secret=secret, lease_seconds=seconds)


@router.post("/heartbeat")
def heartbeat(
    ask: messages.HeartbeatRequest, service: AService, _: Worker
) -> messages.HeartbeatReply:
    seconds = service.settings.lease_seconds
    with service.db.as_control() as tx:
        return messages.HeartbeatReply(
            leases=[leases.heartbeat(tx, beat, lease_seconds=seconds) for beat in ask.leases]
        )


@router.post("/jobs/{job_id}/events", status_code=204)
def add_events(
    job_id: str, batch: messages.EventBatch, service: AService, token: ClaimToken
) -> None:
    with service.db.as_control() as tx:
        leases.add_events(tx, job_id, token, batch)


@router.post("/jobs/{job_id}/uploads")
def upload_target(
    job_id: str, file: messages.FileFacts, service: AService, token: ClaimToken
) -> messages.UploadTarget:
    with service.db.as_control() as tx:
        return leases.upload_target(tx, service.storage, job_id, token, file)


@router.post("/jobs/{job_id}/checkpoints", status_code=204)
def add_checkpoint(
    job_id: str, written: messages.CheckpointWritten, service: AService, token: ClaimToken
) -> None:
    with service.db.as_control() as tx:
        leases.add_checkpoint(tx, service.storage, job_id, token, written)


@router.post("/jobs/{job_id}/finish", status_code=204)
def finish(job_id: str, ask: messages.FinishRequest, service: AService, token: ClaimToken) -> None:
    with service.db.as_control() as tx:
        leases.finish(tx, service.storage, job_id, token, ask)
