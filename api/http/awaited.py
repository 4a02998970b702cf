"""The answers that clients of this process wait for: what workers say of them goes in here and
comes out as it is read. All of it belongs to the event loop's thread.
"""

import asyncio
import secrets
import time
from collections import deque
from dataclasses import dataclass, field

from tunery.completions import CompletionPart, Usage

# What may wait for a client that does not read. (`api.http.connection` lets it go in time.)
MOST_WAITING_BYTES = 8 << 20
# A worker may speak to several processes in turn, and what it tells this one comes sooner than what
# another passes on. So long the earlier parts are waited for.
EARLY_SECONDS = 1.0


@dataclass(eq=False)
class Awaited:
    """One of them. `token` is that of the claim that is heard, or was; while it is `held` a worker
    computes it. `early` are parts, by their numbers, that came before the one that is `expected`,
    which is lost if it is not here at `lost_at`. That and `heard_at` are in monotonic seconds.
    """

    id: str
    token: int = 0
    held: bool = False
    early: dict[int, tuple[CompletionPart, int]] = field(default_factory=dict)
    lost_at: float = float("inf")
    let_go: bool = False
    heard_at: float = 0.0
    expected: int = 0
    parts: deque[tuple[CompletionPart, int]] = field(default_factory=deque)
    waiting_bytes: int = 0
    torn: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def claimed(self, token: int) -> None:
        """Twice is once; an earlier claim is over."""
        if token > self.token:
            self.token, self.held, self.expected = token, True, 0
            self.early, self.lost_at = {}, float("inf")
            self.heard_at = time.monotonic()
            self.changed.set()

    def free(self) -> None:
        """From here on nothing is taken under this claim."""
        self.held = False
        self.parts.clear()
        self.early, self.lost_at = {}, float("inf")
        self.waiting_bytes = 0

    def take(self, token: int, part: CompletionPart, size: int) -> bool:
        """Whether the claim still holds. A part that comes again is taken once."""
        self.claimed(token)
        if token != self.token or not self.held:
            return False
        self.heard_at = now = time.monotonic()
        if part.number >= self.expected and part.number not in self.early:
            self.early[part.number] = part, size
            self.waiting_bytes += size
            come = self.expected in self.early
            while self.expected in self.early:
                self.parts.append(self.early.pop(self.expected))
                self.expected += 1
            if not self.early:
                self.lost_at = float("inf")
            elif come or self.lost_at == float("inf"):
                self.lost_at = now + EARLY_SECONDS
        self.changed.set()
        return True

    def first(self) -> CompletionPart:
        part, size = self.parts.popleft()
        self.waiting_bytes -= size
        return part


class AllAwaited:
    """`channel` is where other processes say what came of this one's answers."""

    def __init__(self) -> None:
        self.channel = f"tunery_said_{secrets.token_hex(8)}"
        self.open: dict[str, Awaited] = {}
        # Those that nobody waits for any more, until the database knows.
        self.over: set[str] = set()
        # By project what its answers took, until the database knows.
        self.usage: dict[str, list[Usage]] = {}
        self.nudged = asyncio.Event()
        # In monotonic seconds.
        self.ended_at = float("inf")
        # Set, and replaced, whenever something is free to be claimed.
        self.free = asyncio.Event()

    def begin(self, id_: str) -> Awaited:
        self.open[id_] = Awaited(id_)
        return self.open[id_]

    def close(self, awaited: Awaited) -> None:
        """Twice is once."""
        if self.open.pop(awaited.id, None):
            awaited.free()
            self.over.add(awaited.id)
            self.nudged.set()

    def answered(self, project_id: str, usage: Usage) -> None:
        self.usage.setdefault(project_id, []).append(usage)
        self.nudged.set()

    def claimed(self, id_: str, token: int) -> None:
        if awaited := self.open.get(id_):
            awaited.claimed(token)

    def take(self, id_: str, token: int, part: CompletionPart, size: int) -> bool | None:
        """None: no client here waits for it. A client that has left too much unread is let go."""
        awaited = self.open.get(id_)
        if awaited is None:
            return None
        taken = awaited.take(token, part, size)
        if awaited.waiting_bytes > MOST_WAITING_BYTES:
            awaited.let_go = True
            self.close(awaited)
        return taken

    def hear(self, word: str) -> None:
        """As `words_of` writes it."""
        id_, token, place, count, text = word.split(" ", 4)
        awaited = self.open.get(id_)
        if awaited is None:
            return
        if count == "0":
            awaited.claimed(int(token))
            return
        if place == "0":
            awaited.torn.clear()
        awaited.torn.append(text)
        if len(awaited.torn) == int(count):
            whole = "".join(awaited.torn)
            awaited.torn.clear()
            self.take(id_, int(token), CompletionPart.model_validate_json(whole), len(whole))

    def wake(self) -> None:
        self.free.set()
        self.free = asyncio.Event()

    def end(self) -> None:
        """Tells whoever waits that the process ends. Twice is once."""
        self.ended_at = min(self.ended_at, time.monotonic())
        self.nudged.set()
        for awaited in self.open.values():
            awaited.changed.set()
        self.wake()


# Of what a NOTIFY takes, 8,000 bytes, without what stands before the text.
PIECE_CHARACTERS = 7_800


def words_of(id_: str, token: int, part: CompletionPart | None) -> list[str]:
    """A part, or that the completion was claimed, in pieces that each fit into a NOTIFY."""
    if part is None:
        return [f"{id_} {token} 0 0 "]
    text = part.model_dump_json(exclude_defaults=True, ensure_ascii=True)
    pieces = range(0, len(text), PIECE_CHARACTERS)
    return [
        f"{id_} {token} {place} {len(pieces)} {text[start : start + PIECE_CHARACTERS]}"
        for place, start in enumerate(pieces)
    ]
