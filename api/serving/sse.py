"""Answers that are sent as they are written, and what ends them: their last word, a fault, or a
client that goes away.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

from anyio import CancelScope
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import Send

from api.http.errors import STATUS, envelope
from tunery.completions import CompletionPart
from tunery.errors import TuneryError

# Also how long a fault may take that is still told by the answer's status.
HEARTBEAT_SECONDS = 15.0
# Without an empty line: the openai SDK would take that for a message without data.
HEARTBEAT = b": nothing new\n"
# Proxies that gather an answer before they pass it on would hold up a stream.
UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}

Parts = AsyncIterator[CompletionPart]
Object = dict[str, Any]
T = TypeVar("T")


class Writer(Protocol):
    """What the events of an answer are, in OpenAI's words."""

    def said(self, part: CompletionPart) -> Iterator[bytes]: ...

    def ended(self) -> Iterator[bytes]: ...

    def failed(self, error: TuneryError) -> Iterator[bytes]: ...


class EventStream(StreamingResponse):
    """When it is over, so are its events, however it ends."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            await closed(self.body_iterator)


def event(data: Object, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return head.encode() + b"data: " + to_json(data, inf_nan_mode="null") + b"\n\n"


def error_of(error: TuneryError) -> Object:
    """Its envelope, as it would be answered before the first part."""
    answer = envelope(STATUS[type(error)], error.message, param=error.param, code=error.code)
    found: Object = json.loads(bytes(answer.body))
    return found


async def stream(request: Request, parts: Parts, writer: Writer) -> Response:
    """The answer as events. Raises what ends it before its first part, if that comes soon."""
    written = events(parts, writer)
    first = await while_there(request, next_of(written))
    return EventStream(behind(first or b"", written), headers=UNBUFFERED)


async def events(parts: Parts, writer: Writer) -> AsyncIterator[bytes]:
    begun = False
    beats = beating(parts, HEARTBEAT_SECONDS)
    try:
        async for part in beats:
            if written := b"".join(writer.said(part)) if part else HEARTBEAT:
                begun = True
                yield written
        yield b"".join(writer.ended())
    except TuneryError as error:
        if not begun:
            raise
        yield b"".join(writer.failed(error))
    finally:
        await closed(beats)


async def beating(parts: Parts, seconds: float) -> AsyncGenerator[CompletionPart | None, None]:
    """The parts, with a None after so many seconds of silence, each time."""
    upcoming: asyncio.Task[CompletionPart | None] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.create_task(next_of(parts))
            done, _ = await asyncio.wait({upcoming}, timeout=seconds)
            if not done:
                yield None
                continue
            part, upcoming = upcoming.result(), None
            if part is None:
                return
            yield part
    finally:
        with CancelScope(shield=True):
            if upcoming:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)
        await closed(parts)


async def behind(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for other in others:
            yield other
    finally:
        await closed(others)


async def next_of(items: AsyncIterator[T]) -> T | None:
    """None: there are no more."""
    return await anext(items, None)


async def closed(items: Any) -> None:  # noqa: ANN401 - an iterator, which may have no end to call
    if close := getattr(items, "aclose", None):
        with CancelScope(shield=True):
            await close()


async def while_there(request: Request, doing: Coroutine[Any, Any, T]) -> T:
    """What `doing` returns. Raises `ClientDisconnect`, and ends it, when the client goes away."""
    tasks = asyncio.create_task(doing), asyncio.create_task(gone(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        with CancelScope(shield=True):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
