"""What the database's other users say is heard."""

import asyncio

import pytest
from sqlalchemy import text

from api.db import listening
from api.db.listening import Listener
from api.db.session import Database
from api.settings import Settings


def test_a_word_that_cannot_be_heard_costs_no_other(
    db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "AWAY_SECONDS", 0)

    async def hear() -> list[str]:
        listener, words = Listener(settings.database_url.get_secret_value()), list[str]()
        there, heard = asyncio.Event(), asyncio.Event()

        def bad(word: str) -> None:
            raise ValueError(word)

        def good(word: str) -> None:
            words.append(word)
            heard.set()

        listener.hear("tunery_bad", bad)
        listener.hear("tunery_good", good, missed=there.set)
        running = asyncio.create_task(listener.run())
        async with asyncio.timeout(5):
            for channel in ("tunery_bad", "tunery_good"):
                await there.wait()
                there.clear()
                with db.as_control() as tx:
                    tx.execute(text("SELECT pg_notify(:channel, 'a word')"), {"channel": channel})
            await heard.wait()
        running.cancel()
        return words

    assert asyncio.run(hear()) == ["a word"]
