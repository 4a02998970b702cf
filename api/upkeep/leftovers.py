"""What crashes, lost claims and deletions leave behind. Cleared after a day, when whoever was
writing it is done or gone; and only what nothing leads to.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from api.db.session import Database
from api.http import idempotency
from api.jobs.live import logs
from api.storage import kept
from api.storage.storage import Storage
from api.tables import StorageFault
from api.tenants import arrivals, sessions
from api.webhooks import deliveries
from api.workers import workers

OLD_SECONDS = 24 * 3600
BATCH = 500


def clear(db: Database, storage: Storage) -> int:
    """Deletes stored files that no row leads to, and rows that are over their time; returns how
    many files. Any number may do it at once. Raises `StorageAway`.
    """
    storage.require_there()
    storage.clear_incoming(OLD_SECONDS)
    cleared = 0
    for keys in batches(storage.keys(OLD_SECONDS)):
        with db.as_control() as tx:
            leftover = keys - kept.led_to(tx, keys)
        storage.discard(leftover)
        cleared += len(leftover)
    with db.as_control() as tx:
        workers.forget_gone(tx)
        idempotency.sweep(tx)
        deliveries.forget_old(tx)
        logs.clear(tx)
        arrivals.sweep(tx)
        sessions.sweep(tx)
        forget_faults(tx)
    return cleared


def forget_faults(tx: Session) -> None:
    """Of bytes that have been deleted since."""
    faulty = set(tx.scalars(select(StorageFault.key)))
    gone = faulty - kept.led_to(tx, faulty)
    tx.execute(delete(StorageFault).where(StorageFault.key.in_(gone)))


def batches(keys: Iterable[str]) -> Iterator[set[str]]:
    rest = iter(keys)
    while batch := set(islice(rest, BATCH)):
        yield batch
