"""Uploads while their bytes come in. A project's quota counts them before they are on the disk:
what a request announces, before its first byte; of one that announces nothing what has come, step
by step. So uploads at once pass a limit together by a step or two each, and no more.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from anyio import CancelScope
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.db.session import Database
from api.ids import new_id
from api.storage.incoming import Incoming
from api.tables import NOW, Arrival, from_now
from api.tenants.places import in_thread, in_thread_patiently

log = logging.getLogger(__name__)

STEP_BYTES = 4 << 20
NEWS_SECONDS = 60
# A body may stand still for half a minute; its check and its storing take less than this too.
FORGOTTEN_SECONDS = 15 * 60

Require = Callable[[Session, str, int], object]


class Arriving:
    """One upload on its way in. `first` is asked before its bytes come, `later` while they do: with
    the transaction, the row's id and its bytes it raises where these leave no room.
    """

    def __init__(self, db: Database, project_id: str, first: Require, later: Require) -> None:
        self.db = db
        self.project_id = project_id
        self.first = first
        self.later = later
        self.id = new_id("arrival_")
        self.counted = 0
        self.told_at = time.monotonic()

    def begin(self, announced: int, upload_id: str | None = None) -> None:
        with self.db.as_project(self.project_id) as tx:
            self.first(tx, self.id, announced)
            tx.add(
                Arrival(
                    id=self.id, project_id=self.project_id, upload_id=upload_id, bytes=announced
                )
            )
        self.counted = announced

    def grow(self, size: int) -> None:
        """Its row first: of two that grow at once, each counts what the other had before."""
        with self.db.as_project(self.project_id) as tx:
            news: dict[str, Any] = {"bytes": size, "heard_at": NOW}
            tx.execute(update(Arrival).where(Arrival.id == self.id).values(**news))
            self.later(tx, self.id, size)
        self.counted, self.told_at = size, time.monotonic()

    def end(self) -> None:
        try:
            with self.db.as_project(self.project_id) as tx:
                forget(tx, self.id)
        except SQLAlchemyError:
            log.exception("%s counts for some more minutes", self.id)

    async def counting(
        self, body: AsyncIterator[bytes], incoming: Incoming
    ) -> AsyncIterator[bytes]:
        async for chunk in body:
            yield chunk
            size = max(incoming.size, self.counted)
            if size >= self.counted + STEP_BYTES or time.monotonic() > self.told_at + NEWS_SECONDS:
                await in_thread_patiently(self.grow, size)


@asynccontextmanager
async def arriving(
    db: Database,
    project_id: str,
    announced: int,
    *,
    first: Require,
    later: Require,
    upload_id: str | None = None,
) -> AsyncIterator[Arriving]:
    """Counts it until the end of the block, or until `forget` in the transaction that stores it."""
    one = Arriving(db, project_id, first, later)
    await in_thread(one.begin, announced, upload_id)
    try:
        yield one
    finally:
        # Also when its client has left.
        with CancelScope(shield=True):
            await in_thread_patiently(one.end)


def forget(tx: Session, arrival_id: str) -> None:
    """Idempotent."""
    tx.execute(delete(Arrival).where(Arrival.id == arrival_id))


def heard_of() -> ColumnElement[bool]:
    return Arrival.heard_at > from_now(-FORGOTTEN_SECONDS)


def of_upload(tx: Session, upload_id: str, *, but: str) -> int:
    """The bytes of the other parts of an upload that are on their way."""
    query = select(func.coalesce(func.sum(Arrival.bytes), 0)).where(
        Arrival.upload_id == upload_id, Arrival.id != but, heard_of()
    )
    return int(tx.scalars(query).one())


def sweep(tx: Session) -> None:
    """Forgets those of servers that died. Idempotent."""
    tx.execute(delete(Arrival).where(Arrival.heard_at < from_now(-FORGOTTEN_SECONDS)))
