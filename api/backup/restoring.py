"""Makes of a backup what it was made of: first the bytes, then, at once, the database. A restore
that is broken off is begun again with the same command.
"""

import logging
from pathlib import Path

from sqlalchemy import text

from api.backup import postgres
from api.backup.manifest import Manifest, prove_part, read_manifest, read_stored
from api.db.invariants import violations
from api.db.migrating import migrate, without_limits
from api.db.revision import revisions
from api.db.roles import create_roles
from api.db.sealing import key_of
from api.db.session import Database
from api.storage.rows import Stored
from api.storage.storage import CHUNK_BYTES, Storage
from api.tables import StorageFolder
from tunery.errors import Conflict, InvalidRequest

log = logging.getLogger(__name__)


def restore(
    db: Database, storage: Storage, secret: str, folder: Path, *, other_secret: bool = False
) -> Manifest:
    """Into an empty database and an empty storage. `other_secret` takes another TUNERY_SECRET than
    the backup's.

    Raises:
        InvalidRequest: the backup is damaged, or not for this version or secret.
        Conflict: the database or the storage is not empty.

    """
    manifest = read_manifest(folder)
    if manifest.revision not in revisions():
        raise InvalidRequest(
            f"The backup is of version {manifest.version}, at schema {manifest.revision}, which "
            f"this version does not know. Restore it with that version, or a newer one."
        )
    if manifest.secret != key_of(secret)[0] and not other_secret:
        raise InvalidRequest(
            "TUNERY_SECRET is another one than the backup was made under: the keys of webhooks, "
            "trackers and answering servers could not be read. Set that one, or restore with "
            "--other-secret and make those keys anew."
        )
    dumped = prove_part(folder, manifest.database)
    listed = prove_part(folder, manifest.stored)
    require_empty(db, storage, folder)
    for one in read_stored(listed):
        put_back(storage, one, folder / "storage" / one.key)
    with without_limits(db) as connection:
        with connection.begin():
            create_roles(connection)
        postgres.load(db, connection, dumped)
    migrate(db)
    with db.as_control() as tx:
        tx.add(StorageFolder(id=1, mark=storage.mark))
        broken = [rule for rule, count in violations(tx).items() if count]
    if broken:
        log.error("the restored rows break rules: %s. Please report it", ", ".join(broken))
    return manifest


def require_empty(db: Database, storage: Storage, folder: Path) -> None:
    """Raises `Conflict`. What this backup has put into storage before may be there."""
    with without_limits(db) as connection:
        tables = connection.scalar(
            text("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        )
    if tables:
        raise Conflict(
            "The database is not empty: a restore would mix two services. Make a new one "
            "(createdb), and let DATABASE_URL name it."
        )
    storage.require_there()
    for key in storage.keys(-60):
        if not (folder / "storage" / key).is_file():
            raise Conflict(
                f"Storage is not empty: {key} is there, which the backup does not have. Name an "
                "empty one in TUNERY_STORAGE."
            )


def put_back(storage: Storage, one: Stored, path: Path) -> None:
    """Raises `InvalidRequest` for other bytes than were backed up, and `BytesDamaged` for other
    bytes that are there already.
    """
    if one.sha256 and storage.has(one.key, one.bytes):
        storage.prove(one.key, one.sha256)
        return
    if path.is_file() and path.stat().st_size == one.bytes:
        with path.open("rb") as file, storage.receive(limit=one.bytes) as incoming:
            while chunk := file.read(CHUNK_BYTES):
                incoming.write(chunk)
            if incoming.digest == one.sha256:
                incoming.keep(one.key)
                return
    raise InvalidRequest(f"{path} is missing or damaged: this backup cannot be restored.")
