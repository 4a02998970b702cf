"""How fast a project may send requests: a bucket per project in this process, refilled steadily."""

import math
import threading
import time
from dataclasses import dataclass

from tunery.errors import RateLimited

LONGEST_PAUSE_SECONDS = 60

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
        self.lock = threading.Lock()

    def take(self, project_id: str) -> tuple[list[Header], int]:
        """Takes one request out. Headers that tell what is left, and how many seconds the caller
        has to wait because nothing was: 0 when it has not.
        """
        if not self.per_minute:
            return [], 0
        per_second = self.per_minute / 60
        with self.lock:
            now = time.monotonic()
            bucket = self.buckets.setdefault(project_id, Bucket(self.per_minute, now))
            left = min(self.per_minute, bucket.left + (now - bucket.at) * per_second)
            pause = 0 if left >= 1 else math.ceil((1 - left) / per_second)
            left -= 0 if pause else 1
            bucket.left, bucket.at = left, now
        headers = told(self.per_minute, left, (self.per_minute - left) / per_second)
        return headers, min(pause, LONGEST_PAUSE_SECONDS)

    def too_fast(self, pause: int) -> RateLimited:
        return RateLimited(
            f"This project sends more than {self.per_minute:,} requests a minute. Try again in "
            f"{pause} s; an operator sets TUNERY_REQUESTS_PER_MINUTE.",
            retry_after=pause,
        )


def told(limit: int, left: float, full_in: float) -> list[Header]:
    """OpenAI's headers; `full_in` seconds the bucket is full again."""
    return [
        (b"x-ratelimit-limit-requests", str(limit).encode()),
        (b"x-ratelimit-remaining-requests", str(int(left)).encode()),
        (b"x-ratelimit-reset-requests", duration(full_in).encode()),
    ]


def duration(seconds: float) -> str:
    """As OpenAI writes it: 12ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
