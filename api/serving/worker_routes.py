"""/worker/v1/completions: what workers ask and say of completions. `claim` takes a worker's key,
`parts` the secret of one lease.
"""

import asyncio
import time
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.http import errors
from api.http.dependencies import AServer, CompletionClaimed, Server, Worker
from api.http.routing import WorkerRoute
from api.serving import completions
from api.tenants.places import in_thread
from tunery.completions import CompletionClaim, CompletionId, CompletionLease, CompletionPart
from tunery.errors import LeaseLost

router = APIRouter(
    prefix="/worker/v1/completions",
    route_class=WorkerRoute,
    responses=errors.documented(426),
    tags=["For workers"],
)

# What a lost notification costs.
LOOK_SECONDS = 5.0


@router.post(
    "/claim",
    response_model=CompletionLease,
    responses={204: {"description": "Nothing is asked"}},
)
async def claim(
    ask: CompletionClaim,
    request: Request,
    server: AServer,
    _: Worker,
    wait: Annotated[
        float, Query(ge=0, le=30, description="Seconds to wait for something to answer.")
    ] = 0,
) -> CompletionLease | Response:
    """A lease, or 204 when nothing is asked within `wait` seconds."""
    until = time.monotonic() + wait
    woken = True
    while not await request.is_disconnected():
        free = server.awaited.free
        if lease := await in_thread(claim_now, server, ask):
            server.awaited.claimed(lease.id, lease.token)
            return lease
        left = until - time.monotonic()
        if left <= 0 or time.monotonic() >= server.awaited.ended_at:
            break
        # What is not warm here may be had a moment later.
        look = completions.COLD_SECONDS * 1.1 if woken else LOOK_SECONDS
        woken = False
        with suppress(TimeoutError):
            await asyncio.wait_for(free.wait(), min(left, look))
            woken = True
    return Response(status_code=204)


def claim_now(server: Server, ask: CompletionClaim) -> CompletionLease | None:
    # Without its bytes nobody could compute it.
    if server.storage.is_away():
        return None
    with server.db.as_control() as tx:
        return completions.claim(tx, server.storage, server.settings, ask)


@router.post("/{completion_id}/parts", status_code=204)
async def add_part(
    completion_id: CompletionId, part: CompletionPart, server: AServer, token: CompletionClaimed
) -> None:
    """Sends the next part of the answer to whoever waits for it."""
    size = len(part.model_dump_json(exclude_defaults=True))
    taken = server.awaited.take(completion_id, token, part, size)
    if taken is None:
        await in_thread(pass_on, server, completion_id, token, part)
    elif not taken:
        raise LeaseLost(f"{completion_id} is another claim's now.")


def pass_on(server: Server, completion_id: str, token: int, part: CompletionPart) -> None:
    with server.db.as_control() as tx:
        completions.pass_on(tx, completion_id, token, part)
