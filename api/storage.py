"""Where bytes lie: data sets, checkpoints, adapters. Here a folder, with links the API signs.

A key is a relative path of plain names. A file appears under its key whole or not at all.
"""

import errno
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from api.signing import sign, verify
from tunery.errors import InvalidRequest, StorageFull, TooLarge, Unauthenticated
from tunery.failpoint import failpoint

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
LINK_SECONDS = 24 * 3600

log = logging.getLogger(__name__)


class Storage:
    def __init__(self, root: Path, secret: str) -> None:
        self.root = root.resolve()
        self.secret = secret
        self.incoming = self.root / "incoming"
        # Other users of the machine have no business here.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.incoming.mkdir(exist_ok=True)

    def path(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise InvalidRequest(f"{key!r} is not a storage key.")
        return self.root / key

    def has(self, key: str, size: int) -> bool:
        """Whether a file of that many bytes lies there. What it holds was proven on its way in."""
        try:
            return self.path(key).stat().st_size == size
        except FileNotFoundError:
            return False

    def delete(self, key: str) -> None:
        """Twice is once."""
        self.path(key).unlink(missing_ok=True)

    def discard(self, keys: Iterable[str]) -> None:
        """Deletes what no row leads to any more. What cannot be deleted now is cleared later."""
        for key in keys:
            try:
                self.delete(key)
            except OSError:
                log.exception("the bytes under %s stay behind", key)

    def copy(self, key: str, to: str) -> None:
        """The same bytes under a second key, at no cost (a hard link). Twice is once. Raises
        `StorageFull` when the disk has no room for a name.
        """
        target = self.path(to)
        with full_disk_in_words():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(self.path(key))
            except FileExistsError:
                return
            sync_folder(target.parent)

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
        return Incoming(self, limit, what)

    def download_url(self, key: str) -> str:
        until = int(time.time()) + LINK_SECONDS
        return f"/storage/{key}?until={until}&signature={sign(self.secret, 'GET', key, until)}"

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
    it appear under its key; leaving the `with` block without `keep` leaves nothing. Whatever needs
    room on the disk raises `StorageFull` when there is none.
    """

    def __init__(self, storage: Storage, limit: int, what: str) -> None:
        self.storage = storage
        self.limit = limit
        self.what = what
        self.size = 0
        self.hash = sha256()
        self.path = storage.incoming / secrets.token_hex(16)
        with full_disk_in_words():
            self.file = self.path.open("wb")

    def write(self, chunk: bytes | memoryview) -> None:
        """Raises `TooLarge` past the limit."""
        self.size += len(chunk)
        if self.size > self.limit:
            raise TooLarge(f"The {self.what} is larger than the {self.limit:,} bytes allowed here.")
        self.hash.update(chunk)
        with full_disk_in_words():
            self.file.write(chunk)

    @property
    def digest(self) -> str:
        return self.hash.hexdigest()

    def flush(self) -> Path:
        """The bytes are on disk; the file may be read where it is."""
        with full_disk_in_words():
            self.file.flush()
            os.fsync(self.file.fileno())
        return self.path

    def keep(self, key: str) -> None:
        self.flush()
        target = self.storage.path(key)
        with full_disk_in_words():
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path.rename(target)
            failpoint("storage.kept")
            sync_folder(target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.path.unlink(missing_ok=True)
        # What a full disk did not take is still in the buffer, and closing would write it.
        with suppress(OSError):
            self.file.close()


def sync_folder(folder: Path) -> None:
    """Makes a rename in the folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def full_disk_in_words() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StorageFull("The server's disk is full; nothing was stored.") from error
        raise
