"""A connection that waits for its client no longer than is decent, and lets the kernel send whole
files. `python -m api` serves with it.
"""

import asyncio
import os
import resource
from pathlib import Path
from typing import Any, ClassVar

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.http import errors

HEAD_SECONDS = 30
# Of an answer, the client must take so many bytes, or the rest, in so many seconds. (The kernel
# takes a file in larger pieces.)
STRETCH_BYTES, STRETCH_SECONDS = 32 << 10, 60
PIECE_BYTES = 256 << 10

# More would be of no use to one process.
MOST_CONNECTIONS = 8_192
# What the process itself has open: its parts, the database, checks under way.
OWN_DESCRIPTORS = 128
# The event loop takes in so many connections before it gives the first of them to us.
BACKLOG = 32
ROUNDS = 4
# Beyond the others, for whoever watches over the service and for workers.
RESERVED = 32
RESERVED_FOR = ("/healthz", "/readyz", "/worker/", "/storage/")
# A new connection may be without a request for so long, however many come.
FRESH_SECONDS = 1.0


def connections_within(descriptors: int) -> int:
    """How many connections there may be beside the reserved ones. Each may have a file open."""
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    left = (descriptors - OWN_DESCRIPTORS - ROUNDS * BACKLOG) // 2 - RESERVED
    return max(RESERVED, min(left, MOST_CONNECTIONS))


class Connection(H11Protocol):
    """uvicorn's own waits without end for a head that has begun, and for what is left of a body
    that was answered already. Here both have `HEAD_SECONDS`, from the connection's beginning or
    the last answer's end. How long a body may take is `api.http.edge`'s affair. A client that does
    not take its answer is let go.

    There are at most `most` connections, and `RESERVED` more for health and workers. Beyond that
    the one that has been without a request for longest is closed for a new one.

    It offers ASGI's `http.response.pathsend`, which Starlette uses for a file that is sent whole.
    """

    most: ClassVar[int] = connections_within(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    # Those without a request, and since when; the longest first.
    idle: ClassVar[dict["Connection", float]] = {}

    deadline: asyncio.TimerHandle | None = None
    stretch: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **named: Any) -> None:  # noqa: ANN401
        super().__init__(*given, **named)
        self.inner, self.app = self.app, self.answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.wait_for_head()
        self.make_room()

    def make_room(self) -> None:
        longest, since = next(iter(self.idle.items()))
        fresh = self.loop.time() < since + FRESH_SECONDS
        if len(self.connections) > self.most + (RESERVED if fresh else 0):
            longest.let_go()

    def crowded(self) -> bool:
        return len(self.connections) > self.most

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.answering():
            self.idle.pop(self, None)

    def answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        self.wait_for_head()
        super().on_response_complete()
        if self.answering():  # the next one was here already
            self.idle.pop(self, None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.idle.pop(self, None)
        for timer in (self.deadline, self.stretch):
            if timer:
                timer.cancel()

    def wait_for_head(self) -> None:
        self.idle[self] = self.loop.time()
        if self.deadline:
            self.deadline.cancel()
        self.deadline = self.loop.call_later(HEAD_SECONDS, self.close_without_request)

    def close_without_request(self) -> None:
        if self.answering():
            return
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.timeout_keep_alive_handler()

    def let_go(self) -> None:
        """At once: its descriptor is needed."""
        self.connections.discard(self)
        self.idle.pop(self, None)
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.stretch:
            self.stretch.cancel()

    def watch(self, left: int) -> None:
        """Nothing is added to what is `left` to be sent before the client has taken most of it."""
        self.stretch = self.loop.call_later(STRETCH_SECONDS, self.require_progress, left)

    def require_progress(self, left: int) -> None:
        size = self.transport.get_write_buffer_size()
        if size > left - STRETCH_BYTES:
            self.transport.abort()
        else:
            self.watch(size)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.crowded() and not scope["path"].startswith(RESERVED_FOR):
            refusal = errors.envelope(503, "Too many connections are open. Try again in a moment.")
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.pathsend":
                await self.send_file(Path(message["path"]))
                message = {"type": "http.response.body"}
            await send(message)

        scope["extensions"] = {"http.response.pathsend": {}}
        await self.inner(scope, receive, send_on)

    async def send_file(self, path: Path) -> None:
        """A client that leaves meanwhile is noticed as in any other answer."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                # What goes past h11 it must count all the same.
                self.conn.send_with_data_passthrough(h11.Data(data=Length(size)))  # type: ignore[arg-type]
                for start in range(0, size, PIECE_BYTES):
                    async with asyncio.timeout(STRETCH_SECONDS):
                        await self.loop.sendfile(self.transport, file, start, PIECE_BYTES)
            except (h11.LocalProtocolError, ConnectionError, RuntimeError, TimeoutError):
                self.transport.abort()


class Length:
    """Stands for so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size
