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
from api.models import bases
from api.storage import kept
from api.storage.folder import Storage
from api.tables import Artifact, Checkpoint, File, Job, StorageFault, UploadPart
from api.tenants import arrivals
from api.webhooks import deliveries
from api.workers import workers
from tunery.states import JobState

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
            leftover = keys - led_to(tx, keys)
        for key in leftover:
            storage.delete(key)
        cleared += len(leftover)
    with db.as_control() as tx:
        workers.forget_gone(tx)
        idempotency.sweep(tx)
        deliveries.forget_old(tx)
        logs.clear(tx)
        arrivals.sweep(tx)
        forget_faults(tx)
    return cleared


def forget_faults(tx: Session) -> None:
    """Of bytes that have been deleted since."""
    faulty = set(tx.scalars(select(StorageFault.key)))
    gone = faulty - led_to(tx, faulty)
    tx.execute(delete(StorageFault).where(StorageFault.key.in_(gone)))


def batches(keys: Iterable[str]) -> Iterator[set[str]]:
    rest = iter(keys)
    while batch := set(islice(rest, BATCH)):
        yield batch


def led_to(tx: Session, keys: set[str]) -> set[str]:
    """Those of the keys that a file, a part of one, a checkpoint, an artifact or a base model has,
    or that may be the results of a job that still runs.
    """
    found = set(tx.scalars(select(File.key).where(File.key.in_(keys), File.deleted_at.is_(None))))
    found |= set(tx.scalars(select(UploadPart.key).where(UploadPart.key.in_(keys))))
    found |= set(tx.scalars(select(Artifact.key).where(Artifact.key.in_(keys))))
    if any(key.startswith("tokenizers/") for key in keys):
        found |= keys & bases.tokenizer_keys(tx)
    jobs = {key.split("/")[1] for key in keys if key.startswith("jobs/")}
    for checkpoint in tx.scalars(select(Checkpoint).where(Checkpoint.job_id.in_(jobs))):
        found |= kept.keys_of(checkpoint)
    running = set(tx.scalars(select(Job.id).where(Job.id.in_(jobs), Job.state == JobState.RUNNING)))
    return found | {key for key in keys if key.split("/")[1] in running}
