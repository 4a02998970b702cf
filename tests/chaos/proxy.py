"""A TCP proxy whose network can be made bad while it runs."""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

CHUNK_BYTES = 1 << 16
# Closing with this sends RST and throws away what is on its way (socket(7)).
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards `host:port` from a port of its own.

    `latency` is the longest delay of a chunk in seconds, each drawn at random. `blackhole` lets
    connections open and stand, and nothing come through: what is sent waits, as in a network that
    is cut, and arrives late when it is mended.
    """

    def __init__(self, host: str, port: int, rng: random.Random) -> None:
        self.target = (host, port)
        self.rng = rng
        self.latency = 0.0
        self.loop = asyncio.new_event_loop()
        self.writers: set[asyncio.StreamWriter] = set()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        self.open = self.call(self.make_event())
        self.server = self.call(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.port: int = self.server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.call(self.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def blackhole(self, *, on: bool) -> None:
        self.loop.call_soon_threadsafe(self.open.clear if on else self.open.set)

    def reset(self) -> None:
        """Breaks off all connections that are open now."""
        self.call(self.reset_all())

    def call(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(10)

    def chosen(self) -> tuple[str, int]:
        """Where the next connection goes."""
        return self.target

    async def make_event(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.chosen())
        except OSError:
            writer.transport.abort()
            return
        self.writers |= {writer, far_writer}
        await asyncio.gather(self.pump(reader, far_writer), self.pump(far_reader, writer))
        self.writers -= {writer, far_writer}

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await asyncio.sleep(self.rng.uniform(0, self.latency))
                await self.open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def reset_all(self) -> None:
        for writer in self.writers:
            raw = writer.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def close(self) -> None:
        self.server.close()
        self.open.set()
        await self.reset_all()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=5)
