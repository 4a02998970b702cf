"""A connection that waits for its client no longer than is decent, and lets the kernel send whole
files: `uvicorn --http`.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30


class Connection(H11Protocol):
    """uvicorn's own waits without end for a head that has begun, and for what is left of a body
    that was answered already. Here both have `HEAD_SECONDS`, from the connection's beginning or
    the last answer's end. How long a body may take is `api.http.edge`'s affair.

    It offers ASGI's `http.response.pathsend`, which Starlette uses for a file that is sent whole.
    """

    deadline: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **named: Any) -> None:  # noqa: ANN401
        super().__init__(*given, **named)
        self.inner, self.app = self.app, self.offer_files

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.wait_for_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.deadline:
            self.deadline.cancel()

    def wait_for_head(self) -> None:
        if self.deadline:
            self.deadline.cancel()
        self.deadline = self.loop.call_later(HEAD_SECONDS, self.close_without_request)

    def close_without_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.timeout_keep_alive_handler()

    async def offer_files(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            # What goes past h11 it must count all the same.
            self.conn.send_with_data_passthrough(h11.Data(data=Length(size)))  # type: ignore[arg-type]
            try:
                await self.loop.sendfile(self.transport, file)
            except (ConnectionError, RuntimeError):
                self.transport.abort()


class Length:
    """Stands for so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size
