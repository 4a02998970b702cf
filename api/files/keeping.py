"""What came in is stored before a row says so: a crash between leaves bytes without a row, never a
row without bytes.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from anyio import CancelScope, to_thread

from api.http.dependencies import Server
from api.storage.incoming import Incoming


@dataclass
class Kept:
    """`used`: a row leads to the key."""

    key: str
    used: bool = False


@asynccontextmanager
async def kept(
    server: Server, project_id: str, incoming: Incoming, key: str
) -> AsyncIterator[Kept]:
    """The bytes lie under the key. What no row came to use, as of a request that was answered
    before, is deleted. It may take a while, and so has places of its own.
    """
    await server.keeps.run(project_id, partial(incoming.keep, key))
    made = Kept(key)
    try:
        yield made
    finally:
        if not made.used:
            # Also when its client has left.
            with CancelScope(shield=True):
                await to_thread.run_sync(server.storage.discard, [key])
