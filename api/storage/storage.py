"""Where bytes lie: data sets, checkpoints, adapters. What every kind of storage does is said here;
`folder.py` and `s3.py` are the kinds, and `opened.py` chooses.

A key is a relative path of plain names. A file appears under its key whole or not at all.

Storage has a mark that the database knows. Where the mark is not, storage is away, whatever else is
there: a mount that was lost leaves an empty folder in its place, and that is no proof that anything
is gone.
"""

import errno
import logging
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import psycopg
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from api.db.session import Database
from api.storage.held import deleting
from api.storage.incoming import Incoming
from api.storage.signing import sign, verify
from api.tables import StorageFolder
from tunery.errors import (
    BytesDamaged,
    InvalidRequest,
    StorageAway,
    StorageFull,
    Unauthenticated,
)

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
LINK_SECONDS = 24 * 3600
MARK = ".tunery-storage"
# The mark of storage whose bytes are being moved elsewhere: nobody finds the other one there.
MOVING = ".tunery-moving"
# What the database knows instead of a mark when an operator has said that any will do.
FORGOTTEN = ""
CHUNK_BYTES = 1 << 20
# As many as S3 deletes in one request.
DISCARDED_AT_ONCE = 1000
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Listed are also files that came this very moment, by whichever clock.
JUST_NOW = -3600
# API and janitor may be the first at the same time: one makes the mark, the other waits for it.
FIRST_SECONDS = 2.0

# For those who read much that nobody waits for. A terabyte takes 18 hours, and a disk has most of
# its time for others.
BYTES_PER_SECOND = 16 << 20

log = logging.getLogger(__name__)


class Target(NamedTuple):
    """Where to PUT bytes, with which headers."""

    url: str
    headers: dict[str, str]


class Storage(ABC):
    """`name` is for logs. What comes in is written to `incoming` first. `db` knows the mark;
    without one any mark will do. `away` is what was last seen.
    """

    def __init__(self, name: str, incoming: Path, secret: str, db: Database | None) -> None:
        self.name = name
        self.incoming = incoming
        self.secret = secret
        self.db = db
        self.mark: str | None = None
        self.away = False

    @abstractmethod
    def require_there(self) -> None:
        """Raises `StorageAway` unless this is the storage that the database knows. The very first
        time, it makes the mark.
        """

    @abstractmethod
    def in_words(self) -> AbstractContextManager[None]:
        """What the system says of bytes, as `StorageFull` or `StorageAway`."""

    @abstractmethod
    def has(self, key: str, size: int) -> bool:
        """Whether a file of that many bytes lies there. What it holds was proven on its way in."""

    @abstractmethod
    def read(self, key: str) -> Iterator[bytes]:
        """Raises `StorageAway`, or `BytesGone` where it is proven that nothing is there."""

    @abstractmethod
    def prove(self, key: str, digest: str) -> None:
        """That its bytes are those of this SHA-256.

        Raises:
            StorageAway: it cannot be read now.
            BytesGone: nothing is there.
            BytesDamaged: its bytes are others.

        """

    @abstractmethod
    def local(self, key: str, digest: str) -> Path:
        """Where a program on this machine finds the bytes, for an hour at least. Keys of one folder
        are in one folder here, by their names. A folder's own files are as they are (`prove` says
        how); copies have been proven. May raise as `prove`.
        """

    @abstractmethod
    def read_again(self, key: str, digest: str) -> None:
        """As `prove`, for the scrub: slowly, and of what remembers, as little as possible."""

    @abstractmethod
    def keep(self, incoming: Incoming, key: str) -> None:
        """Has what came appear under the key."""

    @abstractmethod
    def copy(self, key: str, to: str) -> None:
        """The same bytes under a second key. Idempotent. Raises `StorageFull`, `StorageAway` and
        `BytesGone`.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Idempotent."""

    @abstractmethod
    def keys(self, older_than_seconds: float) -> Iterator[str]:
        """All keys whose files have not been touched for so long."""

    @abstractmethod
    def clear_incoming(self, older_than_seconds: float) -> None:
        """Deletes what was on its way in when a server died."""

    @abstractmethod
    def read_mark(self, name: str = MARK) -> str | None:
        """None: it is not there. Raises `StorageAway`."""

    @abstractmethod
    def make_mark(self, mark: str) -> str:
        """Makes the mark, unless there is one, and returns it. Two at once make one."""

    @abstractmethod
    def rename_mark(self, old: str, new: str) -> None:
        """Once `MARK` has another name, storage is away for all who use it."""

    def is_away(self) -> bool:
        try:
            self.require_there()
        except (StorageAway, StorageFull):
            return True
        return False

    def expect_mark(self) -> None:
        """The very first time, makes it."""
        if self.mark is None:
            self.mark = self.known_mark() or self.begin()

    def require_mark(self, found: str | None) -> None:
        """Raises `StorageAway` unless what was found is the mark that the database knows."""
        if found is not None and found != self.mark:
            self.mark = self.known_mark() or self.begin()
        if found != self.mark:
            raise self.lost(f"its mark {MARK} is {'missing' if found is None else 'another'}")
        if self.away:
            log.warning("storage %s is back", self.name)
            self.away = False

    def known_mark(self) -> str | None:
        if self.db is None:
            return None
        with self.db.as_control() as tx:
            return tx.scalar(select(StorageFolder.mark))

    def begin(self) -> str:
        """Makes the mark, and has the database know it. A database that never had any storage takes
        none that holds something: whatever no row leads to would be deleted as left behind.
        """
        new = secrets.token_hex(16)
        if self.db is None:
            return self.make_mark(new)
        if self.known_mark() is None and (self.holds_files() or self.make_mark(new) != new):
            return self.known_soon()
        mark = self.make_mark(new)
        with self.db.as_control() as tx:
            row = insert(StorageFolder).values(id=1, mark=mark)
            tx.execute(
                row.on_conflict_do_update(
                    index_elements=[StorageFolder.id],
                    set_={"mark": mark},
                    where=StorageFolder.mark == FORGOTTEN,
                )
            )
            return tx.scalars(select(StorageFolder.mark)).one()

    def holds_files(self) -> bool:
        return next(iter(self.keys(JUST_NOW)), None) is not None

    def known_soon(self) -> str:
        """The mark that another process has just made. Raises `StorageAway` if none has."""
        until = time.monotonic() + FIRST_SECONDS
        while not (mark := self.known_mark()):
            if time.monotonic() > until:
                raise self.lost(
                    "there is something in it, and this database has never had a storage. Is "
                    "DATABASE_URL or TUNERY_STORAGE another installation's?",
                    "If the two belong together",
                )
            time.sleep(FIRST_SECONDS / 20)
        return mark

    def lost(self, why: str, if_so: str = "If its bytes are lost for good") -> StorageAway:
        if not self.away:
            log.error(
                "storage %s is away: %s. Jobs and requests wait until it is back. %s: "
                "python -m api.admin forget-storage",
                self.name,
                why,
                if_so,
            )
        self.away = True
        return StorageAway("The service's storage is away. Try again in a moment.")

    def discard(self, keys: Iterable[str]) -> None:
        """Deletes what no row leads to any more. What cannot be deleted now is cleared later, and
        so is what is discarded during a backup.
        """
        rest = iter(keys)
        while batch := list(islice(rest, DISCARDED_AT_ONCE)):
            try:
                with deleting(self.db) as may:
                    if may:
                        self.delete_all(batch)
            except (SQLAlchemyError, psycopg.Error, StorageAway, StorageFull):
                log.exception("the bytes under %s and others stay behind", batch[0])

    def delete_all(self, keys: list[str]) -> None:
        """Up to `DISCARDED_AT_ONCE` of them, as many as can be."""
        for key in keys:
            try:
                self.delete(key)
            except (OSError, StorageAway):
                log.exception("the bytes under %s stay behind", key)

    def receive(self, *, limit: int, what: str = "file") -> Incoming:
        """Raises `StorageAway` before anything is sent."""
        self.require_there()
        return Incoming(self, limit, what)

    def download_url(self, key: str, *, digest: str) -> str:
        """A link to these very bytes, by way of the API."""
        until = int(time.time()) + LINK_SECONDS
        signature = sign(self.secret, "GET", key, until, digest)
        return f"/storage/{key}?until={until}&sha256={digest}&signature={signature}"

    def upload_url(self, key: str, *, size: int, digest: str) -> str:
        """A link that takes these very bytes and no others, by way of the API."""
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

    # A bucket takes and gives bytes itself, by links; None where it does not, as of a folder.

    @abstractmethod
    def link_for_worker(self, key: str) -> str | None:
        """To the bytes where they lie."""

    @abstractmethod
    def link_for_user(self, key: str, name: str) -> str | None:
        """The same, saved under that name."""

    @abstractmethod
    def target(self, key: str, *, size: int, digest: str) -> Target | None:
        """Where to PUT these very bytes. None also for what is too large to be sent at once."""

    @abstractmethod
    def part_bytes(self, size: int) -> int | None:
        """In parts of how many bytes a file of so many is sent, if it is so large."""

    @abstractmethod
    def begin_parts(
        self, key: str, *, size: int, digest: str, parts: list[str]
    ) -> tuple[str, list[Target]]:
        """Where to PUT the parts, each by its SHA-256, and how the upload is called."""

    @abstractmethod
    def end_parts(self, key: str, upload_id: str, parts: list[str]) -> None:
        """All parts are there: the file appears. Idempotent."""


def require_key(key: str) -> str:
    if not KEY.fullmatch(key):
        raise InvalidRequest(f"{key!r} is not a storage key.")
    return key


def slowly(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """At most `BYTES_PER_SECOND`."""
    began, count = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        count += len(chunk)
        time.sleep(max(0.0, began + count / BYTES_PER_SECOND - time.monotonic()))


def clear_old(folder: Path, seconds: float) -> None:
    """Deletes its files that have not been touched for so long."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_older(path, seconds):
            path.unlink(missing_ok=True)


def is_older(path: Path, seconds: float) -> bool:
    try:
        return path.is_file() and path.stat().st_mtime < time.time() - seconds
    except FileNotFoundError:  # it has just been renamed or deleted
        return False


def damaged() -> BytesDamaged:
    return BytesDamaged(
        "The file's bytes in storage are no longer those that were stored. Restore them from a "
        "backup, or store the file again."
    )
