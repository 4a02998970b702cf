"""A backup is made while the service runs. First the database is dumped, then the bytes are copied
that its rows lead to, as the same snapshot shows them; what is deleted meanwhile stays in storage
until the end (`api.storage.held`).
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.backup import postgres
from api.backup.manifest import (
    MANIFEST,
    Manifest,
    part_of,
    read_stored,
    write_manifest,
)
from api.db.migrating import without_limits
from api.db.revision import schema_of
from api.db.sealing import key_of
from api.db.session import Database
from api.storage import rows
from api.storage.held import hold_deletions
from api.storage.rows import Stored
from api.storage.storage import Storage
from tunery.disk import flush
from tunery.errors import Busy, BytesDamaged, BytesGone, InvalidRequest

log = logging.getLogger(__name__)


def back_up(db: Database, storage: Storage, secret: str, folder: Path) -> Manifest:
    """Into the folder. If a backup is there, only what is new is copied, and what is no longer
    needed goes. Until it is whole, the one before stays.

    Raises:
        InvalidRequest: the folder holds something else, or the database cannot be dumped from here.
        Busy: another backup is under way.
        StorageAway: storage cannot be read now.

    """
    storage.require_there()
    with alone_in(folder), without_limits(db) as connection:
        postgres.require_every_row(connection)
        hold_deletions(connection)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S-%fZ")
        dumped, listed = folder / f"database-{now}.dump", folder / f"stored-{now}.jsonl"
        connection.execution_options(isolation_level="REPEATABLE READ")
        wanted = folder / "wanted.new"
        with connection.begin(), wanted.open("w") as lines, Session(connection) as tx:
            snapshot = tx.scalars(text("SELECT pg_export_snapshot()")).one()
            postgres.dump(db, connection, snapshot, dumped)
            schema = schema_of(tx)
            assert schema  # noqa: S101 - the caller has looked
            lines.writelines(one.model_dump_json() + "\n" for one in rows.stored(tx))
        began = dumped.stat().st_mtime
        manifest = Manifest(
            version=version("tunery"),
            revision=schema.revision,
            made_at=now,
            secret=key_of(secret)[0],
            database=part_of(dumped),
            **copy_all(storage, wanted, folder, listed),
        )
        wanted.unlink()
        write_manifest(folder, manifest)
        sweep(folder, manifest, began)
    return manifest


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder if need be. Others of the machine have no business in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    strange = [path.name for path in folder.iterdir() if not is_ours(path.name)]
    if strange:
        raise InvalidRequest(f"{folder} holds something else ({strange[0]}). Name another folder.")
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"Another backup into {folder} is under way.") from error
        yield


def is_ours(name: str) -> bool:
    known = {"lock", "storage", "wanted.new", MANIFEST, f"{MANIFEST}.new"}
    known.add("lost+found")  # of a disk that is mounted there
    return name in known or name.startswith(("database-", "stored-"))


def copy_all(storage: Storage, wanted: Path, folder: Path, listed: Path) -> dict[str, object]:
    """What the manifest says of it."""
    files = size = 0
    lost = []
    with listed.open("w") as lines:
        for one in read_stored(wanted):
            try:
                found = copy(storage, one, folder / "storage" / one.key)
            except (BytesGone, BytesDamaged) as error:
                if isinstance(error, BytesGone) and one.key.startswith("tokenizers/"):
                    continue  # it was never sent: `tunery models add` does that after the row
                log.error("%s is not in the backup: %s", one.key, error.message)  # noqa: TRY400
                lost.append(one.key)
                continue
            lines.write(found.model_dump_json() + "\n")
            files, size = files + 1, size + found.bytes
    return {"stored": part_of(listed), "files": files, "bytes": size, "lost": lost}


def copy(storage: Storage, one: Stored, to: Path) -> Stored:
    """Nothing if it is there: it appeared there whole, and what a key leads to never changes.
    Raises `BytesGone` and `BytesDamaged`.
    """
    if to.is_file() and to.stat().st_size == one.bytes:
        os.utime(to)
        return one if one.sha256 else one.model_copy(update={"sha256": digest_of(to)})
    to.parent.mkdir(parents=True, exist_ok=True)
    new = to.with_name(f"{to.name}.new")
    digest = hashlib.sha256()
    try:
        with new.open("wb") as file:
            for chunk in storage.read(one.key):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if new.stat().st_size != one.bytes or one.sha256 not in {None, digest.hexdigest()}:
            raise BytesDamaged("The bytes in storage are no longer those that were stored.")
        new.rename(to)
    finally:
        new.unlink(missing_ok=True)
    flush(to.parent)
    return one.model_copy(update={"sha256": digest.hexdigest()})


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path, manifest: Manifest, began: float) -> None:
    """Deletes what the manifest does not lead to: whatever this backup has not touched."""
    for path in folder.iterdir():
        if path.name.startswith(("database-", "stored-")) and path.name not in {
            manifest.database.name,
            manifest.stored.name,
        }:
            path.unlink()
    for path in (folder / "storage").glob("**/*"):
        if path.is_file() and path.stat().st_mtime < began:
            path.unlink()
