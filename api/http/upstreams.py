"""What an API process remembers of the servers that answer in the place of workers. All of it
belongs to the event loop's thread.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

# So long what is known of a model's places is taken to be so, so that an answer costs no questions
# to the database.
KNOWN_SECONDS = 1.0
MOST_KNOWN = 10_000


class Upstreams:
    """`at_work` counts the answers of each endpoint that are under way, by its id; `locks` keep a
    model at an endpoint from being loaded twice at once.
    """

    def __init__(self) -> None:
        self.at_work: Counter[str] = Counter()
        self.of_project: Counter[str] = Counter()
        self.locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self.known: dict[Hashable, tuple[float, Any]] = {}
        self.client: httpx.AsyncClient | None = None

    def recall(self, what: Hashable) -> Any:  # noqa: ANN401 (as it was noted)
        until, found = self.known.get(what, (0.0, None))
        return found if until > time.monotonic() else None

    def note(self, what: Hashable, found: object) -> None:
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        self.known[what] = (time.monotonic() + KNOWN_SECONDS, found)

    async def close(self) -> None:
        if self.client is not None:
            await self.client.aclose()
