"""What each project may do at once in this process. All that takes a thread, a database connection
or a core is done in a place; there are few of them, and projects take turns at them. Who waits
holds nothing but its request.

All of it belongs to the event loop's thread.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from tunery.errors import RateLimited

RETRY_SECONDS = 2

# So many refusals to one project are sent at once, and then so many a second: an answer costs
# this process more than a client needs to send its next request.
REFUSALS_AT_ONCE, REFUSALS_PER_SECOND = 50, 25
LONGEST_PAUSE_SECONDS = 30.0

T = TypeVar("T")
Run = Callable[[Callable[[], Any]], Awaitable[Any]]

# Of the request that is being answered: whose it is (a project's, or the workers'), and how it runs
# what takes a thread.
WHOSE: ContextVar[str] = ContextVar("WHOSE")
RUN: ContextVar[Run] = ContextVar("RUN")


async def in_thread(do: Callable[..., T], *given: Any) -> T:  # noqa: ANN401
    """What `do` returns. It runs in a thread, at a place of the request's project or in a worker's
    thread. May raise `RateLimited`.
    """
    found: T = await RUN.get()(partial(do, *given))
    return found


async def in_thread_patiently(do: Callable[..., T], *given: Any) -> T:  # noqa: ANN401
    """As `in_thread`, for an answer that has begun: it can no longer be refused."""
    while True:
        try:
            return await in_thread(do, *given)
        except RateLimited:
            await asyncio.sleep(RETRY_SECONDS)


class Places:
    """`count` places, at most `each` of them for one project. A free one goes to the project that
    has the fewest, and among equals to the one whose last turn was longest ago. A project's line
    is `line` long, and nobody stands in it for more than `seconds`.
    """

    def __init__(self, what: str, count: int, *, each: int, line: int, seconds: float) -> None:
        self.what = what
        self.count = count
        self.each = each
        self.line = line
        self.seconds = seconds
        self.taken: Counter[str] = Counter()
        # In the order of their turns.
        self.lines: dict[str, deque[asyncio.Future[None]]] = {}
        self.threads = CapacityLimiter(count)

    async def run(self, project_id: str, do: Callable[[], T]) -> T:
        """What `do` returns, run in a thread."""
        async with self.place(project_id):
            return await to_thread.run_sync(do, limiter=self.threads)

    @asynccontextmanager
    async def place(self, project_id: str) -> AsyncIterator[None]:
        """Raises `RateLimited` if the line is full, or does not come on."""
        await self.take(project_id)
        try:
            yield
        finally:
            self.give_back(project_id)

    async def take(self, project_id: str) -> None:
        if self.taken.total() < self.count and self.taken[project_id] < self.each:
            self.taken[project_id] += 1
            return
        line = self.lines.setdefault(project_id, deque())
        if len(line) >= self.line:
            raise self.crowded()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            async with asyncio.timeout(self.seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give_back(project_id)
            else:
                self.leave(project_id, turn)
            if isinstance(error, TimeoutError):
                raise self.crowded() from None
            raise

    def leave(self, project_id: str, turn: asyncio.Future[None]) -> None:
        line = self.lines.get(project_id)
        if line and turn in line:
            line.remove(turn)
            if not line:
                del self.lines[project_id]

    def give_back(self, project_id: str) -> None:
        self.taken[project_id] -= 1
        if not self.taken[project_id]:
            del self.taken[project_id]
        while self.taken.total() < self.count:
            waiting = (each for each in self.lines if self.taken[each] < self.each)
            next_one = min(waiting, key=self.taken.__getitem__, default=None)
            if next_one is None:
                return
            line = self.lines.pop(next_one)
            turn = line.popleft()
            if not turn.done():  # else who stood there has just left
                turn.set_result(None)
                self.taken[next_one] += 1
            if line:
                self.lines[next_one] = line

    def crowded(self) -> RateLimited:
        return RateLimited(
            f"Too many {self.what} of this project are waiting. Try again in {RETRY_SECONDS} s, or "
            "send fewer at once.",
            retry_after=RETRY_SECONDS,
        )


class Pace:
    """Holds refusals back: the first ones go out at once, those of a storm wait."""

    def __init__(self) -> None:
        self.next: dict[str, float] = {}

    async def wait(self, who: str) -> None:
        now = time.monotonic()
        interval = 1 / REFUSALS_PER_SECOND
        earliest = now - REFUSALS_AT_ONCE * interval
        at = max(self.next.get(who, earliest), earliest) + interval
        self.next[who] = min(at, now + LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(max(0, self.next[who] - now))
