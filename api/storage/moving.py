"""Moves an installation's bytes to another storage. Most of them while the service runs; for the
last ones everybody waits, because the old storage loses its mark. A move that was broken off goes
on where it was.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sqlalchemy import update
from sqlalchemy.orm import Session

from api.db.session import Database
from api.settings import Bucket, Settings
from api.storage import kept, rows
from api.storage.opened import open_storage
from api.storage.signing import sign
from api.storage.storage import JUST_NOW, MARK, MOVING, Storage
from api.tables import StorageFolder
from tunery.errors import BytesDamaged, BytesGone, InvalidRequest, StorageAway

# Until everybody has seen that the mark is gone, and what was being written is there.
SETTLE_SECONDS = 10
BATCH = 500

Tell = Callable[[str], object]

log = logging.getLogger(__name__)


@dataclass
class Round:
    """What lies in the target now, how much of it was sent, and what could not be."""

    seen: set[str] = field(default_factory=set)
    copied: int = 0
    damaged: list[str] = field(default_factory=list)


def move(settings: Settings, db: Database, to: Path | Bucket, tell: Tell) -> None:
    """From the storage of the settings. Idempotent.

    Raises:
        StorageAway: one of the two cannot be reached; call it again.
        InvalidRequest: one of the two is another installation's storage.

    """
    own = settings.model_copy(update={"storage_cache_bytes": 0})
    source, target = open_storage(own, None), open_storage(own, None, to)
    with db.as_control() as tx:
        row = tx.get(StorageFolder, 1)
        known = row.mark if row else None
    if not known:
        raise InvalidRequest("Nothing has been stored yet. Set TUNERY_STORAGE to the new place.")
    # What was moved is known by it: to a place where another installation is, nothing goes.
    mark = sign(known, "moved to", target.name)[:32]
    found = target.make_mark(mark)
    if found == known:
        raise InvalidRequest(f"{target.name} is this installation's storage already.")
    if found != mark:
        raise InvalidRequest(f"{target.name} is another installation's. Name another place.")
    source.mark, target.mark = known, mark
    if known not in {source.read_mark(), source.read_mark(MOVING)}:
        raise InvalidRequest(
            f"{source.name} is not the storage that the database knows. Set TUNERY_STORAGE as the "
            "service has it."
        )
    first = Round()
    if source.read_mark() == known:
        first = copy_all(db, source, target, set())
        tell(f"{first.copied:,} files copied while the service ran; from now on it waits.")
        source.rename_mark(MARK, MOVING)
        time.sleep(SETTLE_SECONDS)
    last = copy_all(db, source, target, first.seen)
    with db.as_control() as tx:
        missing = missing_of(tx, last)
        tx.execute(update(StorageFolder).values(mark=mark))
    for key in missing:
        log.error("%s is gone from %s", key, source.name)
    for key in last.damaged:
        log.error("%s is damaged in %s and was not copied", key, source.name)
    tell(
        f"{len(last.seen):,} files are in {target.name}, {last.copied:,} of them came last; "
        f"{len(missing):,} were gone before, and {len(last.damaged):,} were damaged and stay. "
        f"Start the API and the janitor with TUNERY_STORAGE={target.name} now."
    )


def copy_all(db: Database, source: Storage, target: Storage, there: set[str]) -> Round:
    """What rows lead to, and may lead to. What is `there`, copied or compared by an earlier round,
    is not looked at again: everybody waits for the last round, and a key's bytes never change.
    """
    found = Round()
    for keys in batches(source.keys(JUST_NOW)):
        found.seen |= keys & there
        with db.as_control() as tx:
            wanted = kept.led_to(tx, keys - there)
            digests = kept.digests_of(tx, wanted)
        for key in sorted(wanted):
            try:
                found.copied += copied(source, target, key, digests.get(key))
            except BytesDamaged:
                found.damaged.append(key)
            except BytesGone:  # deleted since it was listed
                pass
            else:
                found.seen.add(key)
    return found


def missing_of(tx: Session, last: Round) -> list[str]:
    """What rows lead to and the old storage does not have. A tokenizer is not missed: it may never
    have been sent.
    """
    known = last.seen.union(last.damaged)
    keys = {one.key for one in rows.stored(tx) if one.key not in known}
    return sorted(key for key in keys if not key.startswith("tokenizers/"))


def copied(source: Storage, target: Storage, key: str, digest: str | None) -> bool:
    """False: it is there already. Raises `BytesDamaged` for one that is no longer as it was."""
    if digest:
        try:
            target.prove(key, digest)
        except (BytesGone, BytesDamaged):
            pass
        else:
            return False
    with target.receive(limit=1 << 60) as incoming:
        for chunk in chunks_of(source, key):
            incoming.write(chunk)
        if digest and incoming.digest != digest:
            raise BytesDamaged(f"The bytes under {key} are others.")
        incoming.keep(key)
    return True


def chunks_of(source: Storage, key: str) -> Iterator[bytes]:
    """Of storage whose mark has gone already, too: there, what is missing looks like all is."""
    try:
        yield from source.read(key)
    except StorageAway:
        if source.read_mark(MOVING) == source.mark and key not in source.keys(JUST_NOW):
            raise BytesGone(f"{key} was deleted.") from None
        raise


def batches(keys: Iterable[str]) -> Iterator[set[str]]:
    rest = iter(keys)
    while batch := set(islice(rest, BATCH)):
        yield batch
