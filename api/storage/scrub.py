"""Stored bytes are read again, slowly and for ever, to learn of rot before somebody needs them; and
what is found gone or damaged is noted, for `/metrics`.
"""

import logging
from collections.abc import Iterator

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.db.session import Database
from api.storage.kept import base_keys, files_of, led_to
from api.storage.storage import Storage
from api.tables import NOW, Artifact, Checkpoint, File, Job, StorageFault, StorageFolder, from_now
from tunery.errors import BytesDamaged, BytesGone, StorageAway

PAUSE_SECONDS = 24 * 3600
BATCH = 20

# Keys in storage and the SHA-256 of what lies there.
Stored = dict[str, str]

log = logging.getLogger(__name__)


def note(db: Database, key: str, error: BytesGone | BytesDamaged) -> None:
    """Keeps for `/metrics` that these bytes are not as they were stored; but not if they may go,
    which can have happened at this very moment.
    """
    with db.as_control() as tx:
        if not led_to(tx, {key}):
            return
        facts = {"fault": error.code, "found_at": NOW}
        known = insert(StorageFault).values(key=key, **facts)
        tx.execute(known.on_conflict_do_update(index_elements=[StorageFault.key], set_=facts))
    log.error("stored bytes are not as they were: %s: %s", key, error.code)


def is_due(tx: Session) -> bool:
    """Whether the last round is over for long enough, or under way."""
    folder = tx.get(StorageFolder, 1)
    if folder is None:
        return False
    under_way = folder.scrubbed_file or folder.scrubbed_job or folder.scrubbed_base
    if folder.scrubbed_at is None or under_way:
        return True
    return folder.scrubbed_at < tx.scalars(select(from_now(-PAUSE_SECONDS))).one()


def scrub(db: Database, storage: Storage) -> None:
    """One round, or the rest of one that was broken off. Any number may be at it: each takes other
    bytes. Raises `StorageAway`.
    """
    while (batch := next_batch(db)) is not None:
        for key, digest in batch.items():
            try:
                storage.read_again(key, digest)
            except (BytesGone, BytesDamaged) as error:
                note(db, key, error)
            else:
                with db.as_control() as tx:
                    tx.execute(delete(StorageFault).where(StorageFault.key == key))


def next_batch(db: Database) -> Stored | None:
    """What is to be read next: of files, then of jobs, then of base models that were pushed. None:
    the round is over.
    """
    with db.as_control() as tx:
        folder = tx.get(StorageFolder, 1, with_for_update=True)
        if folder is None:
            return None
        stored: Stored = {}
        for sequence, key, digest in files_after(tx, folder.scrubbed_file):
            folder.scrubbed_file = sequence
            stored[key] = digest
        if stored:
            return stored
        jobs = tx.execute(
            select(Job.sequence, Job.id)
            .where(Job.sequence > folder.scrubbed_job)
            .order_by(Job.sequence)
            .limit(BATCH)
        ).all()
        for sequence, job_id in jobs:
            folder.scrubbed_job = sequence
            stored |= of_job(tx, job_id)
        if jobs:
            return stored
        bases = sorted(key for key in base_keys(tx) if key > folder.scrubbed_base)[:BATCH]
        if bases:
            folder.scrubbed_base = bases[-1]
            return {key: key.rpartition("/")[2] for key in bases}
        folder.scrubbed_file = folder.scrubbed_job = 0
        folder.scrubbed_base = ""
        tx.flush()
        tx.execute(update(StorageFolder).values(scrubbed_at=NOW))
        return None


def files_after(tx: Session, sequence: int) -> Iterator[tuple[int, str, str]]:
    query = select(File.sequence, File.key, File.sha256).where(
        File.sequence > sequence, File.deleted_at.is_(None)
    )
    for row in tx.execute(query.order_by(File.sequence).limit(BATCH)):
        yield row.sequence, row.key, row.sha256


def of_job(tx: Session, job_id: str) -> Stored:
    """Its artifacts and its checkpoints."""
    artifacts = select(Artifact.key, Artifact.sha256).where(Artifact.job_id == job_id)
    stored: Stored = {row.key: row.sha256 for row in tx.execute(artifacts)}
    for checkpoint in tx.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)):
        stored |= {key: fact.sha256 for key, fact in files_of(checkpoint)}
    return stored


def scrub_if_due(db: Database, storage: Storage) -> None:
    try:
        with db.as_control() as tx:
            due = is_due(tx)
        if not due:
            return
        scrub(db, storage)
    except (StorageAway, OperationalError) as error:
        log.warning("the scrub is broken off and goes on later: %s", error)
    else:
        log.info("all stored bytes have been read again")
