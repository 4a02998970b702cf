"""The one connection of a server process that listens for what the database's other users say."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from api.db.session import REACH

log = logging.getLogger(__name__)

AWAY_SECONDS = 1.0


@dataclass(frozen=True)
class Hearer:
    """`heard` is told each word of a channel; `missed`, that words may have been lost."""

    heard: Callable[[str], None]
    missed: Callable[[], None]


class Listener:
    """Belongs to the event loop's thread. Whoever wants to hear says so before it runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.hearers: dict[str, Hearer] = {}

    def hear(
        self, channel: str, heard: Callable[[str], None], missed: Callable[[], None] = lambda: None
    ) -> None:
        self.hearers[channel] = Hearer(heard, missed)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self.url, autocommit=True, **REACH
                )
                async with connection:
                    for channel in self.hearers:
                        await connection.execute(f"LISTEN {channel}".encode())
                    for hearer in self.hearers.values():
                        hearer.missed()
                    async for word in connection.notifies():
                        self.hearers[word.channel].heard(word.payload)
            except psycopg.Error as error:
                log.warning("the database is away (%s)", error)
            except Exception as error:  # noqa: BLE001 - its words may be somebody's answer
                # Whoever else hears by this connection is told that words may be lost.
                log.error("a word could not be heard (%s)", type(error).__name__)  # noqa: TRY400
            await asyncio.sleep(AWAY_SECONDS)
