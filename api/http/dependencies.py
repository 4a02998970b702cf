"""What a route asks for: the server's parts, and who is calling."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.db.listening import Listener
from api.db.session import Database
from api.http import cookies, idempotency
from api.http.awaited import AllAwaited
from api.http.edge import LEAVE, MARKS, REQUEST_ID
from api.http.rates import Rates
from api.http.request_lines import CALLER
from api.http.upstreams import Upstreams
from api.settings import Settings
from api.storage.signing import LEASE, read_lease_secret
from api.storage.storage import Storage
from api.tables import ApiKey
from api.tenants import keys, people, sessions
from api.tenants.places import RUN, WHOSE, Pace, Places
from api.tenants.projects import Caller, Scope
from api.tenants.provider import Provider
from tunery.completions import CompletionId
from tunery.errors import Forbidden, NotFound, RateLimited, Unauthenticated
from tunery.log_lines import learn
from tunery.messages import ClaimedId

KEY_CACHE_SECONDS = 3
MOST_CALLERS = 10_000
# Of lookups for keys that were never seen to be good.
LONGEST_KEY_LINE = 64

# Whom refusals to those without a good key are counted for.
STRANGERS = "strangers"
WORKERS = "workers"
# Who asks before it is known who that is.
NOBODY = Caller(project_id="", project="", scopes=frozenset(), key_id="")


class Server:
    """Everything a request needs, made once per server.

    What a project asks for takes places of its own: reads, and one at a time whatever changes
    something, because that takes the project's locks; those who wait must not hold a thread.
    Workers have threads that no tenant's request gets, so nothing keeps a heartbeat waiting. All
    of them that ask the database are together no more than its connections (`api.db.session`).
    """

    def __init__(self, settings: Settings, db: Database, storage: Storage) -> None:
        self.settings = settings
        self.db = db
        self.storage = storage
        # With a connection of its own.
        self.listener = Listener(settings.database_url.get_secret_value())
        self.awaited = AllAwaited()
        self.upstreams = Upstreams()
        self.provider = Provider(settings) if settings.oidc_issuer else None
        self.rates = Rates(settings.requests_per_minute)
        self.pace = Pace()
        self.open: Counter[str] = Counter()
        line = settings.requests_at_once
        self.reads = Places("requests", 14, each=6, line=line, seconds=15)
        self.writes = Places("changes", 6, each=1, line=line, seconds=15)
        self.estimates = Places("estimates", 2, each=1, line=16, seconds=15)
        self.worker_threads = CapacityLimiter(8)
        self.probe_threads = CapacityLimiter(1)
        self.forgetting_threads = CapacityLimiter(1)
        self.key_threads = CapacityLimiter(2)
        self.stranger_threads = CapacityLimiter(2)
        # Without a connection: each takes a core, or a disk.
        self.checks = Places("file checks", 3, each=2, line=16, seconds=60)
        self.reports = Places("token reports", 3, each=2, line=8, seconds=30)
        self.gradings = Places("gradings", 2, each=1, line=16, seconds=15)
        self.proofs = Places("downloads", 4, each=2, line=line, seconds=300)
        self.hub = Places("look-ups on the model hub", 3, each=1, line=8, seconds=60)
        self.joins = Places("uploads", 3, each=2, line=16, seconds=300)
        self.keeps = Places("uploads", 8, each=4, line=line, seconds=300)
        # Callers by their keys, remembered for a moment, so that polling costs one transaction and
        # a revoked key still dies within seconds.
        self.callers: dict[str, tuple[float, Caller]] = {}
        self.asking: dict[str, asyncio.Task[Caller]] = {}

    @property
    def secret(self) -> str:
        return self.settings.secret.get_secret_value()

    async def caller_of(self, key: str) -> Caller:
        """Who has the key. However many ask at once, the database is asked once. Raises
        `Unauthenticated`, and `RateLimited` when too many strangers come at once.
        """
        until, caller = self.callers.get(key, (0.0, None))
        if caller and until > time.monotonic():
            return caller
        keys.require_whole(key)
        if key not in self.asking:
            task = asyncio.create_task(self.look_up(key, met=caller is not None))
            self.asking[key] = task
            task.add_done_callback(lambda _: self.asking.pop(key))
        return await asyncio.shield(self.asking[key])

    async def look_up(self, key: str, *, met: bool) -> Caller:
        threads = self.key_threads if met else self.stranger_threads
        if not met and threads.statistics().tasks_waiting >= LONGEST_KEY_LINE:
            raise RateLimited("Too many new keys are being looked up. Try again.", retry_after=2)
        try:
            caller = await to_thread.run_sync(self.find, key, limiter=threads)
        except Unauthenticated:
            self.callers.pop(key, None)
            raise
        if len(self.callers) > MOST_CALLERS:
            self.callers.clear()
        self.callers[key] = (time.monotonic() + KEY_CACHE_SECONDS, caller)
        return caller

    def find(self, key: str) -> Caller:
        with self.db.as_control() as tx:
            return keys.caller_of(tx, key)

    async def meet(self, key: str) -> Caller:
        """As `caller_of`; refusals to those who only try keys are held back."""
        try:
            return await self.caller_of(key)
        except (Unauthenticated, RateLimited):
            await self.pace.wait(STRANGERS)
            raise

    async def sign_in(self, request: Request, key: str | None, code: str | None) -> sessions.Opened:
        """A session of the console, for a key or a sign-in code. Whoever only tries them is held
        back. Raises `Unauthenticated`, `Forbidden` and `RateLimited`.
        """
        caller = None
        if key is not None:
            caller = await self.meet(key.strip())
            await self.keep_rate(request, caller.project_id)
        elif self.stranger_threads.statistics().tasks_waiting >= LONGEST_KEY_LINE:
            await self.pace.wait(STRANGERS)
            raise RateLimited("Too many are signing in. Try again.", retry_after=2)

        def open_() -> sessions.Opened:
            with self.db.as_control() as tx:
                found = caller or sessions.redeem(tx, code or "")
                return sessions.open_(tx, as_sent(found, request))

        if caller:
            return await self.writes.run(caller.project_id, open_)
        try:
            return await to_thread.run_sync(open_, limiter=self.stranger_threads)
        except Unauthenticated:
            await self.pace.wait(STRANGERS)
            raise

    def require_provider(self) -> Provider:
        if self.provider is None:
            raise NotFound("People sign in to this service with API keys alone.")
        return self.provider

    async def finish_sign_in(
        self, request: Request, sealed: str | None, code: str, state: str, issuer: str | None
    ) -> sessions.Opened:
        """A session of whoever has signed in at the provider. Raises as `Provider.finish`, and
        `Forbidden` for somebody whose groups give nothing here.
        """
        try:
            known = await self.require_provider().finish(sealed, code, state, issuer)
        except Unauthenticated:
            await self.pace.wait(STRANGERS)
            raise

        def open_() -> sessions.Opened | None:
            with self.db.as_control() as tx:
                return sessions.open_for(tx, self.settings, known, as_sent(NOBODY, request))

        opened = await to_thread.run_sync(open_, limiter=self.stranger_threads)
        if opened is None:
            await self.pace.wait(STRANGERS)
            raise people.of_nothing(known)
        return opened

    async def switch(
        self, request: Request, key: str, project_id: str
    ) -> tuple[sessions.Opened, float]:
        """As `sessions.switch`."""
        caller = await self.meet(key)
        await self.keep_rate(request, caller.project_id)

        def switch() -> tuple[sessions.Opened, float]:
            with self.db.as_control() as tx:
                return sessions.switch(tx, project_id, as_sent(caller, request))

        opened = await self.writes.run(caller.project_id, switch)
        self.callers.pop(key, None)
        return opened

    async def let_in(self, request: Request, key: str, challenge: str) -> str:
        """As `sessions.let_in`."""
        caller = await self.meet(key)
        await self.keep_rate(request, caller.project_id)

        def let_in() -> str:
            with self.db.as_control() as tx:
                return sessions.let_in(tx, as_sent(caller, request), challenge)

        return await self.writes.run(caller.project_id, let_in)

    async def make_key(
        self, request: Request, code: str, verifier: str, name: str
    ) -> tuple[ApiKey, str]:
        """As `sessions.make_key`; whoever only tries codes is held back."""

        def make() -> tuple[ApiKey, str]:
            with self.db.as_control() as tx:
                return sessions.make_key(tx, code, verifier, name, as_sent(NOBODY, request))

        try:
            return await to_thread.run_sync(make, limiter=self.stranger_threads)
        except Unauthenticated:
            await self.pace.wait(STRANGERS)
            raise

    async def sign_out(self, request: Request, key: str) -> str | None:
        """Ends the session that the key is of, if it has not ended. Returns where a person ends
        the one at the provider, if that is offered. Raises `RateLimited`.
        """
        try:
            caller = await self.meet(key)
        except Unauthenticated:
            return None
        await self.keep_rate(request, caller.project_id)

        def close() -> None:
            with self.db.as_control() as tx:
                sessions.close(tx, key, as_sent(caller, request))

        await self.writes.run(caller.project_id, close)
        self.callers.pop(key, None)
        at_provider = caller.person_id and self.provider
        return self.provider.sign_out_url() if at_provider and self.provider else None

    async def keep_rate(self, request: Request, project_id: str) -> None:
        """Raises `RateLimited` for a project that asks too fast."""
        request.scope[MARKS], pause = self.rates.take(project_id)
        if pause:
            await self.pace.wait(project_id)
            raise self.rates.too_fast(pause)

    async def admit(self, request: Request) -> None:
        """A tenant's request, before anything of its body is read: its caller is known, it counts
        as open until it is answered, and what it runs takes places of its project. Raises
        `Unauthenticated` and `RateLimited`.
        """
        caller = await self.meet(await bearer(request, await sent_bearer(request)))
        request.scope[CALLER] = caller
        learn(project=caller.project_id, key=caller.key_id)
        project_id = caller.project_id
        await self.keep_rate(request, project_id)
        most = self.settings.requests_at_once
        if self.open[project_id] >= most:
            await self.pace.wait(project_id)
            raise RateLimited(
                f"This project has {most:,} requests open, streams and downloads included, which "
                "is the most. End some, or try again in 2 s; an operator sets "
                "TUNERY_REQUESTS_AT_ONCE.",
                retry_after=2,
            )
        self.open[project_id] += 1
        request.scope[LEAVE] = partial(self.leave, project_id)
        reads = request.method in {"GET", "HEAD"}
        WHOSE.set(project_id)
        RUN.set(partial((self.reads if reads else self.writes).run, project_id))

    def leave(self, project_id: str) -> None:
        self.open[project_id] -= 1
        if not self.open[project_id]:
            del self.open[project_id]

    async def admit_worker(self, request: Request) -> None:
        """As `admit`: the request bears a worker's key or the secret of a lease."""
        key = await bearer(request, await sent_bearer(request))
        if key.startswith(LEASE):
            _, token = read_lease_secret(self.secret, key)
            learn(attempt=token)
        else:
            caller = request.scope[CALLER] = await self.meet(key)
            learn(project=caller.project_id, key=caller.key_id)
        self.admit_link()

    def admit_link(self) -> None:
        """A request that needs no key: a link of storage, which only workers are given."""
        WHOSE.set(WORKERS)
        RUN.set(partial(to_thread.run_sync, limiter=self.worker_threads))


# Async, all of these: FastAPI starts a thread for each that is not.
async def server_of(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


AServer = Annotated[Server, Depends(server_of)]
sent_bearer = HTTPBearer(auto_error=False)


async def bearer(
    request: Request,
    sent: Annotated[HTTPAuthorizationCredentials | None, Depends(sent_bearer)],
) -> str:
    """The key that the request bears, or that of the console's session."""
    if sent is not None:
        return sent.credentials.strip()
    if key := cookies.key_of(request):
        return key
    raise Unauthenticated("No API key. Send it as `Authorization: Bearer KEY`.")


Bearer = Annotated[str, Depends(bearer)]


def caller_with(
    scope: Scope, *others: Scope
) -> Callable[[Request, str, Server], Awaitable[Caller]]:
    """The caller, if its key has the scope, or one of the others, which allow more."""

    async def caller(request: Request, key: Bearer, server: AServer) -> Caller:
        found = request.scope.get(CALLER) or await server.caller_of(key)
        if found.scopes.isdisjoint((scope, *others)):
            raise Forbidden(f"This key lacks the scope {scope!r}.")
        if found.in_session:
            cookies.require_shown(request, found.project_id)
        return as_sent(found, request)

    return caller


def as_sent(caller: Caller, request: Request) -> Caller:
    """The caller in this very request, for the audit."""
    address = request.client.host if request.client else None
    return replace(caller, request_id=request.scope[REQUEST_ID], address=address)


Reader = Annotated[Caller, Depends(caller_with("read"))]
Writer = Annotated[Caller, Depends(caller_with("write"))]
Admin = Annotated[Caller, Depends(caller_with("admin"))]
Worker = Annotated[Caller, Depends(caller_with("worker"))]
Scraper = Annotated[Caller, Depends(caller_with("metrics", "admin"))]


async def sent_as(
    idempotency_key: Annotated[
        str | None,
        Header(
            description="1 to 255 printable ASCII characters. The same request under the same key "
            "gets the same answer for a day, and makes nothing new."
        ),
    ] = None,
    x_stainless_retry_count: Annotated[
        str | None,
        Header(
            description="How often the client has sent this request before; OpenAI's SDKs set it. "
            "Without an `Idempotency-Key`, a number above 0 marks a repeat, which gets the answer "
            "of the first request if that came in the last 15 minutes."
        ),
    ] = None,
) -> idempotency.Sent:
    return idempotency.sent(idempotency_key, x_stainless_retry_count)


SentAs = Annotated[idempotency.Sent, Depends(sent_as)]


Order = Annotated[
    Literal["asc", "desc"], Query(description="`desc`: newest first; `asc`: oldest first.")
]
# Of a list's page. Some routes have another limit.
MOST = "Maximum number of objects on the page."
Limit = Annotated[int, Query(ge=1, le=1000, description=MOST)]
After = Annotated[
    str | None,
    Query(description="Id of an object: the page begins with the next one. Left out: the first."),
]


async def claim_token(job_id: ClaimedId, key: Bearer, server: AServer) -> int:
    """The fencing token of the lease whose secret this request bears, if it is for this job."""
    held_job, token = read_lease_secret(server.secret, key)
    if held_job != job_id:
        raise NotFound(f"This lease is not for {job_id!r}.")
    return token


ClaimToken = Annotated[int, Depends(claim_token)]


async def completion_token(completion_id: CompletionId, key: Bearer, server: AServer) -> int:
    """As `claim_token`, of a completion."""
    return await claim_token(completion_id, key, server)


CompletionClaimed = Annotated[int, Depends(completion_token)]
