"""Jobs as they happen. Each server process hears the database's word that a job has news (a
trigger's NOTIFY in the transaction that writes the event), reads it once, and passes it on to all
who follow that job here. A follower is a position in the job's events: nothing is queued for
it, and no transaction or connection is held for it.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from anyio import CapacityLimiter, to_thread
from sqlalchemy import ARRAY, BigInteger, Text, cast, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.db.listening import Listener
from api.db.session import JOB_CHANNEL, Database
from api.jobs.part_schemas import EventObject
from api.tables import Event, Job
from api.tenants.keys import live_caller
from api.tenants.places import in_thread_patiently
from api.tenants.projects import Caller
from tunery.states import JobState

log = logging.getLogger(__name__)

# What a lost notification costs, and how soon a revoked key is noticed.
LOOK_SECONDS = 3.0
# What comes this close together is read at once.
GATHER_SECONDS = 0.05
HEARTBEAT_SECONDS = 15.0
AWAY_SECONDS = 1.0
PAGE = 500
# Events of a job kept at hand for those who are nearly up to date.
KEPT = 500

Message = tuple[int, bytes]  # an event's number, and the event as it is sent

# Without an empty line: the openai SDK would take that for a message without data.
HEARTBEAT = b": nothing new\n"
REVOKED = {
    "message": "This API key was revoked, or has expired, while the stream was open.",
    "type": "invalid_request_error",
    "param": None,
    "code": "invalid_api_key",
}


@dataclass(eq=False)
class Follower:
    """One open stream; `key` is what it was opened with."""

    key: str
    refused: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Followed:
    """A job that is followed here: its state, its number of events, and the newest of them."""

    job_id: str
    project_id: str
    state: str
    count: int
    newest: deque[Message] = field(default_factory=lambda: deque(maxlen=KEPT))
    followers: set[Follower] = field(default_factory=set)

    def since(self, position: int) -> list[Message]:
        """All events after that position; none if some of them are not at hand."""
        if not self.newest or self.newest[0][0] > position + 1:
            return []
        return [message for message in self.newest if message[0] > position]

    def take(self, news: "News") -> None:
        """A look that finds nothing wakes nobody: who is woken waits anew for the heartbeat."""
        known = self.count, self.state
        self.newest.extend(news.events)
        if news.events:
            self.count = news.events[-1][0]
        if news.whole:
            self.state = news.state
        if (self.count, self.state) != known:
            self.wake()

    def wake(self) -> None:
        for follower in self.followers:
            follower.changed.set()


@dataclass(frozen=True)
class News:
    """Of one job: its state, and its events since the last look; `whole` if there are no more."""

    job_id: str
    state: str
    events: list[Message]
    whole: bool


class Live:
    """All of it but `end` belongs to the event loop's thread."""

    def __init__(self, db: Database, listener: Listener) -> None:
        self.db = db
        listener.hear(
            JOB_CHANNEL,
            lambda job_id: self.mark([job_id]),
            missed=lambda: self.mark(self.followed),
        )
        self.followed: dict[str, Followed] = {}
        self.stale: set[str] = set()
        self.nudged = asyncio.Event()
        self.ended = asyncio.Event()
        self.threads = CapacityLimiter(1)

    async def run(self) -> None:
        """Until `end`, or until it is cancelled."""
        passing_on = asyncio.create_task(self.pass_on())
        try:
            await self.ended.wait()
        finally:
            passing_on.cancel()
            await asyncio.gather(passing_on, return_exceptions=True)

    def end(self) -> None:
        """Ends every stream: its client comes back to another server, or to the next one here."""
        self.ended.set()
        for followed in self.followed.values():
            followed.wake()

    def mark(self, job_ids: Iterable[str]) -> None:
        """Those of the jobs that are followed here have news, or may have."""
        news = self.followed.keys() & set(job_ids)
        if news:
            self.stale |= news
            self.nudged.set()

    async def pass_on(self) -> None:
        look_at = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.nudged.wait()
            self.nudged.clear()
            keys: set[str] = set()
            if time.monotonic() >= look_at:
                self.stale |= self.followed.keys()
                keys = {follower.key for follower in self.followers()}
            stale, self.stale = self.stale & self.followed.keys(), set()
            if not stale:
                continue
            seen = {job_id: self.followed[job_id].count for job_id in stale}
            try:
                news, callers = await to_thread.run_sync(
                    self.look, seen, keys, limiter=self.threads
                )
            except SQLAlchemyError as error:
                log.warning("the database is away (%s)", error)
                await asyncio.sleep(AWAY_SECONDS)
                self.mark(stale)
                continue
            if keys:
                look_at = time.monotonic() + LOOK_SECONDS
            self.refuse(callers)
            for one in news:
                if followed := self.followed.get(one.job_id):
                    followed.take(one)
                if not one.whole:
                    self.mark([one.job_id])
            await asyncio.sleep(GATHER_SECONDS)

    def look(
        self, seen: dict[str, int], keys: set[str]
    ) -> tuple[list[News], dict[str, Caller | None]]:
        """The news of jobs of which so many events are known, and who the keys are of by now."""
        with self.db.as_control() as tx:
            news = read_news(tx, seen)
            return news, {key: live_caller(tx, key) for key in keys}

    def followers(self) -> Iterator[Follower]:
        for followed in self.followed.values():
            yield from followed.followers

    def refuse(self, callers: dict[str, Caller | None]) -> None:
        for follower in self.followers():
            if follower.key not in callers:
                continue
            caller = callers[follower.key]
            if caller is None or "read" not in caller.scopes:
                follower.refused = True
                follower.changed.set()

    async def follow(self, job: Job, *, after: int, key: str) -> AsyncIterator[bytes]:
        """The job's events after number `after` as they come, and its state at the beginning and
        at each change, in the form of server-sent events. Ends with the job.
        """
        position, state = after, None
        with self.following(job, key) as (followed, follower):
            while not self.ended.is_set():
                follower.changed.clear()
                if follower.refused:
                    yield named("error", {"error": REVOKED})
                    return
                if position < followed.count:
                    page = followed.since(position) or await in_thread_patiently(
                        self.read_page, followed, position
                    )
                    # None: they are over their time.
                    position = page[-1][0] if page else followed.count
                    yield b"".join(message for _, message in page)
                    continue
                if followed.state != state:
                    state = followed.state
                    yield named("status", {"job_id": job.id, "status": state})
                if JobState(state).terminal:
                    return
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await follower.changed.wait()
                except TimeoutError:
                    yield HEARTBEAT

    @contextmanager
    def following(self, job: Job, key: str) -> Iterator[tuple[Followed, Follower]]:
        follower = Follower(key)
        known = Followed(job.id, job.project_id, state=job.state, count=job.event_count)
        followed = self.followed.setdefault(job.id, known)
        followed.followers.add(follower)
        # What came since the job was read, and before its notifications were heeded.
        self.mark([job.id])
        try:
            yield followed, follower
        finally:
            followed.followers.discard(follower)
            if not followed.followers:
                self.followed.pop(job.id, None)

    def read_page(self, followed: Followed, position: int) -> list[Message]:
        query = (
            select(Event)
            .where(Event.job_id == followed.job_id, Event.number > position)
            .order_by(Event.number)
            .limit(PAGE)
        )
        with self.db.as_project(followed.project_id) as tx:
            return [message_of(event) for event in tx.scalars(query)]


def read_news(tx: Session, seen: dict[str, int]) -> list[News]:
    """In one statement, so that a job's state and its events are of the same moment."""
    known = (
        func.unnest(cast([*seen], ARRAY(Text)), cast([*seen.values()], ARRAY(BigInteger)))
        .table_valued("job_id", "count")
        .render_derived()
    )
    fresh = (
        (Event.job_id == Job.id)
        & (Event.number > known.c.count)
        & (Event.number <= known.c.count + PAGE)
    )
    rows = tx.execute(
        select(Job.id, Job.state, Job.event_count, Event)
        .select_from(known)
        .join(Job, Job.id == known.c.job_id)
        .outerjoin(Event, fresh)
        .order_by(Job.id, Event.number)
    )
    news: dict[str, News] = {}
    for job_id, state, count, event in rows:
        whole = count <= seen[job_id] + PAGE
        one = news.setdefault(job_id, News(job_id, state, [], whole))
        if event is not None:
            one.events.append(message_of(event))
    return list(news.values())


def message_of(event: Event) -> Message:
    shown = EventObject.of(event)
    return event.number, f"id: {shown.id}\ndata: {shown.model_dump_json()}\n\n".encode()


def named(event: str, data: dict[str, object]) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()
