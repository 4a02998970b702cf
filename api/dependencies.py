"""What a route asks for: the server's parts, and who is calling."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api import creations, projects
from api.db import Database
from api.live import Live
from api.projects import Caller, Scope
from api.settings import Settings
from api.signing import read_lease_secret
from api.storage import Storage
from tunery.errors import Forbidden, NotFound, Unauthenticated

KEY_CACHE_SECONDS = 3


@dataclass
class Server:
    """Everything a request needs, made once per server. `keys` remembers callers for a moment, so
    that polling costs one transaction and a revoked key still dies within seconds.
    """

    settings: Settings
    db: Database
    storage: Storage
    live: Live
    keys: dict[str, tuple[float, Caller]] = field(default_factory=dict)

    @property
    def secret(self) -> str:
        return self.settings.secret.get_secret_value()

    def caller_of(self, key: str) -> Caller:
        until, caller = self.keys.get(key, (0.0, None))
        if caller and until > time.monotonic():
            return caller
        with self.db.as_control() as tx:
            caller = projects.caller_of(tx, key)
        if caller is None:
            self.keys.pop(key, None)
            raise Unauthenticated(
                "This API key is unknown or revoked. Check OPENAI_API_KEY; an operator makes keys "
                "with `python -m api.admin create-key`."
            )
        if len(self.keys) > 10_000:
            self.keys.clear()
        self.keys[key] = (time.monotonic() + KEY_CACHE_SECONDS, caller)
        return caller


def server_of(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


AServer = Annotated[Server, Depends(server_of)]


def bearer(
    sent: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> str:
    if sent is None:
        raise Unauthenticated("No API key. Send it as `Authorization: Bearer KEY`.")
    return sent.credentials.strip()


Bearer = Annotated[str, Depends(bearer)]


def caller_with(scope: Scope) -> Callable[[str, Server], Caller]:
    """The caller, if its key has the scope."""

    def caller(key: Bearer, server: AServer) -> Caller:
        found = server.caller_of(key)
        if scope not in found.scopes:
            raise Forbidden(f"This key lacks the scope {scope!r}.")
        return found

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


def claim_token(job_id: str, key: Bearer, server: AServer) -> int:
    """The fencing token of the lease whose secret this request bears, if it is for this job."""
    held_job, token = read_lease_secret(server.secret, key)
    if held_job != job_id:
        raise NotFound(f"This lease is not for job {job_id!r}.")
    return token


ClaimToken = Annotated[int, Depends(claim_token)]
