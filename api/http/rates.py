"""How fast a project may send requests: a bucket per project in each process, refilled steadily.
The processes tell each other once a second what they have taken out, so that all keep one limit
together but for that second. No request waits for that; while the database is away, each keeps the
limit alone.
"""

import asyncio
import json
import logging
import math
import secrets
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from api.db.session import RATE_CHANNEL, Database
from tunery.errors import RateLimited

log = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 60
SHARE_SECONDS = 1.0
# Projects of one word: Postgres takes no more than 8,000 bytes. The others are in the next one.
MOST_TOLD = 100

Header = tuple[bytes, bytes]


@dataclass
class Bucket:
    """`left` requests at time `at` of the monotonic clock."""

    left: float
    at: float


class Rates:
    """`per_minute` is both what flows in and what fits; 0: no limit. For all threads at once."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.buckets: dict[str, Bucket] = {}
        self.id = secrets.token_hex(8)
        # Requests of which the other processes have not been told.
        self.untold: Counter[str] = Counter()
        self.lock = threading.Lock()

    def take(self, project_id: str) -> tuple[list[Header], int]:
        """Takes one request out. Headers that tell what is left, and how many seconds the caller
        has to wait because nothing was: 0 when it has not.
        """
        if not self.per_minute:
            return [], 0
        per_second = self.per_minute / 60
        with self.lock:
            bucket = self.refilled(project_id)
            left = bucket.left
            pause = 0 if left >= 1 else math.ceil((1 - left) / per_second)
            if not pause:
                left = bucket.left = left - 1
                self.untold[project_id] += 1
        headers = told(self.per_minute, left, (self.per_minute - left) / per_second)
        return headers, min(pause, LONGEST_PAUSE_SECONDS)

    def refilled(self, project_id: str) -> Bucket:
        now = time.monotonic()
        bucket = self.buckets.setdefault(project_id, Bucket(self.per_minute, now))
        more = (now - bucket.at) * self.per_minute / 60
        bucket.left, bucket.at = min(self.per_minute, bucket.left + more), now
        return bucket

    def tell(self) -> Counter[str]:
        """What the other processes are to be told now, by project."""
        with self.lock:
            said = Counter(dict(self.untold.most_common(MOST_TOLD)))
            self.untold -= said
        return said

    def word(self, said: Counter[str]) -> str:
        return json.dumps([self.id, said])

    def hear(self, word: str) -> None:
        """What another process has taken out is gone here, too."""
        of, taken = json.loads(word)
        if of == self.id or not self.per_minute:
            return
        with self.lock:
            for project_id, requests in taken.items():
                bucket = self.refilled(project_id)
                # Whoever has had too much waits for no more than two minutes.
                bucket.left = max(bucket.left - requests, -self.per_minute)

    async def share(self, db: Database, threads: CapacityLimiter, ended: asyncio.Event) -> None:
        """Tells the others, until this process ends."""
        while not ended.is_set():
            if said := self.tell():
                try:
                    await to_thread.run_sync(notify, db, self.word(said), limiter=threads)
                except SQLAlchemyError as error:
                    log.warning("the other processes count requests alone (%s)", error)
                    with self.lock:
                        self.untold += said
            with suppress(TimeoutError):
                async with asyncio.timeout(SHARE_SECONDS):
                    await ended.wait()

    def too_fast(self, pause: int) -> RateLimited:
        return RateLimited(
            f"This project sends more than {self.per_minute:,} requests a minute. Try again in "
            f"{pause} s; an operator sets TUNERY_REQUESTS_PER_MINUTE.",
            retry_after=pause,
        )


def notify(db: Database, word: str) -> None:
    with db.as_control() as tx:
        tx.execute(select(func.pg_notify(RATE_CHANNEL, word)))


def told(limit: int, left: float, full_in: float) -> list[Header]:
    """OpenAI's headers; `full_in` seconds the bucket is full again."""
    return [
        (b"x-ratelimit-limit-requests", str(limit).encode()),
        (b"x-ratelimit-remaining-requests", str(max(0, int(left))).encode()),
        (b"x-ratelimit-reset-requests", duration(full_in).encode()),
    ]


def duration(seconds: float) -> str:
    """As OpenAI writes it: 12ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
