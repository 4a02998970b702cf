"""Where bytes lie: data sets, checkpoints, adapters. Here a folder, with links the API signs.

A key is a relative path of plain names. A file appears under its key whole or not at all.

The folder has a mark that the database knows. Where the mark is not, storage is away, whatever else
is there: a mount that was lost leaves an empty folder in its place, and that is no proof that
anything is gone.
"""

import errno
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import psycopg
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from api.db.session import Database
from api.storage.held import deleting
from api.storage.signing import sign, verify
from api.tables import StorageFolder
from tunery.disk import flush
from tunery.errors import (
    BytesDamaged,
    BytesGone,
    InvalidRequest,
    StorageAway,
    StorageFull,
    TooLarge,
    Unauthenticated,
)
from tunery.failpoint import failpoint

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
LINK_SECONDS = 24 * 3600
MARK = ".tunery-storage"
CHUNK_BYTES = 1 << 20
BATCH = 500
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# What was read and found whole is read again after this: a disk may rot under an unchanged file.
PROVEN_SECONDS = 3600
MOST_PROVEN = 10_000

log = logging.getLogger(__name__)


class Storage:
    """`db` knows the folder's mark; without one any mark will do. `away` is what was last seen."""

    def __init__(self, root: Path, secret: str, db: Database | None = None) -> None:
        self.root = root.resolve()
        self.secret = secret
        self.db = db
        self.incoming = self.root / "incoming"
        self.mark: str | None = None
        self.away = False
        # By key: the digest that was found, and of which state of the file, when.
        self.proven: dict[str, tuple[str, tuple[int, ...], float]] = {}

    def require_there(self) -> None:
        """Raises `StorageAway` unless this is the folder that the database knows. The very first
        time, it makes the folder and its mark.
        """
        with self.in_words(), self.marked_folder():
            pass

    def is_away(self) -> bool:
        try:
            self.require_there()
        except (StorageAway, StorageFull):
            return True
        return False

    @contextmanager
    def marked_folder(self) -> Iterator[int]:
        """A descriptor of the folder with the right mark: what is asked of it is answered by that
        folder, even if it is away in the next moment.
        """
        if self.mark is None:
            self.mark = self.known_mark() or self.begin()
        folder = os.open(self.root, os.O_PATH | os.O_DIRECTORY)
        try:
            found = read_mark(folder)
            if found is not None and found != self.mark:
                self.mark = self.known_mark() or self.begin()
            if found != self.mark:
                raise self.lost(f"its mark {MARK} is {'missing' if found is None else 'another'}")
            if self.away:
                log.warning("storage %s is back", self.root)
                self.away = False
            yield folder
        finally:
            os.close(folder)

    def known_mark(self) -> str | None:
        if self.db is None:
            return None
        with self.db.as_control() as tx:
            return tx.scalar(select(StorageFolder.mark))

    def begin(self) -> str:
        """Makes the folder and its mark, and has the database know it. Two at once make one."""
        # Other users of the machine have no business here.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.incoming.mkdir(exist_ok=True)
        made = self.incoming / secrets.token_hex(16)
        try:
            made.write_text(secrets.token_hex(16))
            with suppress(FileExistsError):
                (self.root / MARK).hardlink_to(made)
        finally:
            made.unlink(missing_ok=True)
        mark = (self.root / MARK).read_text()
        if self.db is None:
            return mark
        with self.db.as_control() as tx:
            tx.execute(insert(StorageFolder).values(id=1, mark=mark).on_conflict_do_nothing())
            return tx.scalars(select(StorageFolder.mark)).one()

    def lost(self, why: str) -> StorageAway:
        if not self.away:
            log.error(
                "storage %s is away: %s. Jobs and requests wait until it is back. If its bytes are "
                "lost for good: python -m api.admin forget-storage",
                self.root,
                why,
            )
        self.away = True
        return StorageAway("The service's storage is away. Try again in a moment.")

    @contextmanager
    def in_words(self) -> Iterator[None]:
        """What the system says of files, as `StorageFull` or `StorageAway`."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                message = "The server's disk is full; nothing was stored."
                raise StorageFull(message) from error
            raise self.lost(str(error)) from error

    def path(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise InvalidRequest(f"{key!r} is not a storage key.")
        return self.root / key

    def open(self, key: str) -> IO[bytes]:
        """Raises `StorageAway`, or `BytesGone` where it is proven that nothing is there."""
        path = self.path(key)
        with self.in_words():
            try:
                return path.open("rb", buffering=0)
            except FileNotFoundError:
                with self.marked_folder() as folder:
                    try:
                        found = os.open(key, os.O_RDONLY, dir_fd=folder)
                    except FileNotFoundError:
                        raise BytesGone("The file's bytes are gone from storage.") from None
                return os.fdopen(found, "rb", buffering=0)

    def has(self, key: str, size: int) -> bool:
        """Whether a file of that many bytes lies there. What it holds was proven on its way in."""
        try:
            with self.open(key) as file, self.in_words():
                return os.fstat(file.fileno()).st_size == size
        except BytesGone:
            return False

    def read(self, key: str) -> Iterator[bytes]:
        """Raises as `open`."""
        with self.open(key) as file, self.in_words():
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def prove(self, key: str, digest: str) -> Path:
        """The path of a file whose bytes are those of this SHA-256. It is read through for that,
        unless it was, within an hour, and is as it was then.

        Raises:
            StorageAway: it cannot be read now.
            BytesGone: nothing is there.
            BytesDamaged: its bytes are others.

        """
        with self.open(key) as file, self.in_words():
            state = state_of(file)
            found, proven, until = self.proven.get(key, ("", (), 0.0))
            if (found, proven) != (digest, state) or until < time.monotonic():
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:  # type: ignore[arg-type]
                    raise damaged()
                self.note_proven(key, digest, state)
        return self.path(key)

    def note_proven(self, key: str, digest: str, state: tuple[int, ...]) -> None:
        if len(self.proven) >= MOST_PROVEN:
            self.proven.clear()
        self.proven[key] = (digest, state, time.monotonic() + PROVEN_SECONDS)

    def delete(self, key: str) -> None:
        """Idempotent."""
        self.path(key).unlink(missing_ok=True)

    def discard(self, keys: Iterable[str]) -> None:
        """Deletes what no row leads to any more. What cannot be deleted now is cleared later, and
        so is what is discarded during a backup.
        """
        rest = iter(keys)
        while batch := list(islice(rest, BATCH)):
            try:
                with deleting(self.db) as may:
                    for key in batch if may else ():
                        self.delete_or_leave(key)
            except (SQLAlchemyError, psycopg.Error):
                log.exception("the bytes under %s and others stay behind", batch[0])

    def delete_or_leave(self, key: str) -> None:
        try:
            self.delete(key)
        except OSError:
            log.exception("the bytes under %s stay behind", key)

    def copy(self, key: str, to: str) -> None:
        """The same bytes under a second key, at no cost (a hard link). Idempotent. Raises
        `StorageFull` when the disk has no room for a name.
        """
        target = self.path(to)
        with self.in_words():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(self.path(key))
            except FileExistsError:
                return
            flush(target.parent)

    def keys(self, older_than_seconds: float) -> Iterator[str]:
        """All keys whose files have not been touched for so long. What else lies there, on the top
        or under a name that is no key, is not ours.
        """
        for path in self.root.glob("*/**/*"):
            key = path.relative_to(self.root).as_posix()
            ours = path.parent != self.incoming and KEY.fullmatch(key)
            if ours and self.is_older(path, older_than_seconds):
                yield key

    def clear_incoming(self, older_than_seconds: float) -> None:
        """Deletes what was on its way in when a server died."""
        for path in self.incoming.iterdir():
            if self.is_older(path, older_than_seconds):
                path.unlink(missing_ok=True)

    def is_older(self, path: Path, seconds: float) -> bool:
        try:
            return path.is_file() and path.stat().st_mtime < time.time() - seconds
        except FileNotFoundError:  # it has just been renamed or deleted
            return False

    def receive(self, *, limit: int, what: str = "file") -> "Incoming":
        """Raises `StorageAway` before anything is sent."""
        self.require_there()
        return Incoming(self, limit, what)

    def download_url(self, key: str, *, digest: str) -> str:
        """A link to these very bytes."""
        until = int(time.time()) + LINK_SECONDS
        signature = sign(self.secret, "GET", key, until, digest)
        return f"/storage/{key}?until={until}&sha256={digest}&signature={signature}"

    def upload_url(self, key: str, *, size: int, digest: str) -> str:
        """A link that takes these very bytes and no others."""
        until = int(time.time()) + LINK_SECONDS
        signature = sign(self.secret, "PUT", key, until, size, digest)
        return f"/storage/{key}?until={until}&size={size}&sha256={digest}&signature={signature}"

    def verify_link(
        self, verb: Literal["GET", "PUT"], key: str, until: int, signature: str, *facts: object
    ) -> None:
        """Raises `Unauthenticated` if the link is forged or over its time."""
        verify(self.secret, signature, verb, key, until, *facts)
        if until < time.time():
            raise Unauthenticated("The link has expired; ask the API for a fresh one.")


class Incoming:
    """A file on its way in: written to a temporary file in storage, hashed on the way. `keep` makes
    it appear under its key; leaving the `with` block without `keep` leaves nothing. Each of its
    steps raises `StorageFull` when the disk has no room, and `StorageAway` when it is away.
    """

    def __init__(self, storage: Storage, limit: int, what: str) -> None:
        self.storage = storage
        self.limit = limit
        self.what = what
        self.size = 0
        self.hash = hashlib.sha256()
        self.path = storage.incoming / secrets.token_hex(16)
        with storage.in_words():
            storage.incoming.mkdir(exist_ok=True)
            self.file = self.path.open("wb")

    def write(self, chunk: bytes | memoryview) -> None:
        """Raises `TooLarge` past the limit."""
        self.size += len(chunk)
        if self.size > self.limit:
            raise TooLarge(f"The {self.what} is larger than the {self.limit:,} bytes allowed here.")
        self.hash.update(chunk)
        with self.storage.in_words():
            self.file.write(chunk)

    @property
    def digest(self) -> str:
        return self.hash.hexdigest()

    def flush(self) -> Path:
        """The bytes are on disk; the file may be read where it is."""
        with self.storage.in_words():
            self.file.flush()
            os.fsync(self.file.fileno())
        return self.path

    def keep(self, key: str) -> None:
        self.flush()
        target = self.storage.path(key)
        with self.storage.in_words(), self.storage.marked_folder():
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path.rename(target)
            failpoint("storage.kept")
            flush(target.parent)
            self.storage.note_proven(key, self.digest, state_of(self.file))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        # Storage that is away keeps it for the janitor.
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        # What a full disk did not take is still in the buffer, and closing would write it.
        with suppress(OSError):
            self.file.close()


def read_mark(folder: int) -> str | None:
    """Of the folder with this descriptor."""
    try:
        mark = os.open(MARK, os.O_RDONLY, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(mark) as file:
        return file.read()


def state_of(file: IO[bytes]) -> tuple[int, ...]:
    """Changes whenever the file does, as far as the system can tell."""
    now = os.fstat(file.fileno())
    return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


def damaged() -> BytesDamaged:
    return BytesDamaged(
        "The file's bytes in storage are no longer those that were stored. Restore them from a "
        "backup, or store the file again."
    )
