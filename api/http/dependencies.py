"""What a route asks for: the server's parts, and who is calling."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api import creations
from api.db import Database
from api.http.edge import MARKS, REQUEST_ID
from api.http.rates import Rates
from api.http.request_lines import CALLER
from api.live.stream import Live
from api.settings import Settings
from api.signing import read_lease_secret
from api.storage import Storage
from api.tenants import keys
from api.tenants.projects import Caller, Scope
from tunery.errors import Forbidden, NotFound, Unauthenticated

KEY_CACHE_SECONDS = 3


@dataclass
class Server:
    """Everything a request needs, made once per server. `callers` remembers them by their keys for
    a moment, so that polling costs one transaction and a revoked key still dies within seconds.
    """

    settings: Settings
    db: Database
    storage: Storage
    live: Live

    def __post_init__(self) -> None:
        self.callers: dict[str, tuple[float, Caller]] = {}
        self.rates = Rates(self.settings.requests_per_minute)

    @property
    def secret(self) -> str:
        return self.settings.secret.get_secret_value()

    def known(self, key: str) -> Caller | None:
        until, caller = self.callers.get(key, (0.0, None))
        return caller if until > time.monotonic() else None

    def caller_of(self, key: str) -> Caller:
        self.callers.pop(key, None)
        with self.db.as_control() as tx:
            caller = keys.caller_of(tx, key)
        if len(self.callers) > 10_000:
            self.callers.clear()
        self.callers[key] = (time.monotonic() + KEY_CACHE_SECONDS, caller)
        return caller


# Async, all of these: FastAPI starts a thread for each that is not.
async def server_of(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


AServer = Annotated[Server, Depends(server_of)]


async def bearer(
    sent: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> str:
    if sent is None:
        raise Unauthenticated("No API key. Send it as `Authorization: Bearer KEY`.")
    return sent.credentials.strip()


Bearer = Annotated[str, Depends(bearer)]


def caller_with(scope: Scope) -> Callable[[Request, str, Server], Awaitable[Caller]]:
    """The caller, if its key has the scope and its project does not ask too fast. Workers must not
    be kept from saying what they did.
    """

    async def caller(request: Request, key: Bearer, server: AServer) -> Caller:
        found = server.known(key)
        if found is None:
            found = await to_thread.run_sync(server.caller_of, key)
        request.scope[CALLER] = found
        if scope != "worker":
            request.scope[MARKS], pause = server.rates.take(found.project_id)
            if pause:
                raise server.rates.too_fast(pause)
        if scope not in found.scopes:
            raise Forbidden(f"This key lacks the scope {scope!r}.")
        address = request.client.host if request.client else None
        return replace(found, request_id=request.scope[REQUEST_ID], address=address)

    return caller


Reader = Annotated[Caller, Depends(caller_with("read"))]
Writer = Annotated[Caller, Depends(caller_with("write"))]
Admin = Annotated[Caller, Depends(caller_with("admin"))]
Worker = Annotated[Caller, Depends(caller_with("worker"))]


async def sent_as(
    idempotency_key: Annotated[str | None, Header()] = None,
    x_stainless_retry_count: Annotated[str | None, Header()] = None,
) -> creations.Sent:
    return creations.sent(idempotency_key, x_stainless_retry_count)


SentAs = Annotated[creations.Sent, Depends(sent_as)]


async def claim_token(job_id: str, key: Bearer, server: AServer) -> int:
    """The fencing token of the lease whose secret this request bears, if it is for this job."""
    held_job, token = read_lease_secret(server.secret, key)
    if held_job != job_id:
        raise NotFound(f"This lease is not for job {job_id!r}.")
    return token


ClaimToken = Annotated[int, Depends(claim_token)]
