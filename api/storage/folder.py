"""Storage in a folder, with links the API signs."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

from api.db.session import Database
from api.storage.incoming import Incoming
from api.storage.storage import (
    CHUNK_BYTES,
    DISK_FULL,
    KEY,
    MARK,
    Storage,
    clear_old,
    damaged,
    is_older,
    require_key,
    slowly,
)
from tunery.disk import flush
from tunery.errors import BytesDamaged, BytesGone, InvalidRequest, StorageFull
from tunery.failpoint import failpoint

# What was read and found whole is read again after this: a disk may rot under an unchanged file.
PROVEN_SECONDS = 3600
MOST_PROVEN = 10_000


class Folder(Storage):
    def __init__(self, root: Path, secret: str, db: Database | None = None) -> None:
        self.root = root.resolve()
        super().__init__(str(self.root), self.root / "incoming", secret, db)
        # By key: the digest that was found, and of which state of the file, when.
        self.proven: dict[str, tuple[str, tuple[int, ...], float]] = {}

    def require_there(self) -> None:
        with self.in_words(), self.marked_folder():
            pass

    @contextmanager
    def marked_folder(self) -> Iterator[int]:
        """A descriptor of the folder with the right mark: what is asked of it is answered by that
        folder, even if it is away in the next moment.
        """
        self.expect_mark()
        folder = os.open(self.root, os.O_PATH | os.O_DIRECTORY)
        try:
            self.require_mark(mark_in(folder, MARK))
            yield folder
        finally:
            os.close(folder)

    def read_mark(self, name: str = MARK) -> str | None:
        with self.in_words():
            folder = os.open(self.root, os.O_PATH | os.O_DIRECTORY)
            try:
                return mark_in(folder, name)
            finally:
                os.close(folder)

    def make_mark(self, mark: str) -> str:
        """And the folder."""
        # Other users of the machine have no business here.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.incoming.mkdir(exist_ok=True)
        made = self.incoming / secrets.token_hex(16)
        try:
            made.write_text(mark)
            with suppress(FileExistsError):
                (self.root / MARK).hardlink_to(made)
        finally:
            made.unlink(missing_ok=True)
        return (self.root / MARK).read_text()

    def rename_mark(self, old: str, new: str) -> None:
        with self.in_words():
            (self.root / old).rename(self.root / new)
            flush(self.root)

    @contextmanager
    def in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in DISK_FULL:
                message = "The server's disk is full; nothing was stored."
                raise StorageFull(message) from error
            raise self.lost(str(error)) from error

    def path(self, key: str) -> Path:
        return self.root / require_key(key)

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
        try:
            with self.open(key) as file, self.in_words():
                return os.fstat(file.fileno()).st_size == size
        except BytesGone:
            return False

    def read(self, key: str) -> Iterator[bytes]:
        with self.open(key) as file, self.in_words():
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def prove(self, key: str, digest: str) -> None:
        """Reads it through, unless that was done within an hour and the file is as it was then."""
        with self.open(key) as file, self.in_words():
            state = state_of(file)
            found, proven, until = self.proven.get(key, ("", (), 0.0))
            if (found, proven) != (digest, state) or until < time.monotonic():
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:  # type: ignore[arg-type]
                    raise damaged()
                self.note_proven(key, digest, state)

    def note_proven(self, key: str, digest: str, state: tuple[int, ...]) -> None:
        if len(self.proven) >= MOST_PROVEN:
            self.proven.clear()
        self.proven[key] = (digest, state, time.monotonic() + PROVEN_SECONDS)

    def local(self, key: str, digest: str) -> Path:  # noqa: ARG002 - of a copy's bytes
        return self.path(key)

    def read_again(self, key: str, digest: str) -> None:
        """From the disk, not from memory, as far as the system lets us. A file that cannot be read
        in storage that is well is damaged.
        """
        found = hashlib.sha256()
        with self.open(key) as file:
            try:
                forget_cached(file.fileno())
                for chunk in slowly(iter(lambda: file.read(CHUNK_BYTES), b"")):
                    found.update(chunk)
                forget_cached(file.fileno())
            except OSError as error:
                self.require_there()
                raise BytesDamaged(f"It cannot be read: {error}") from error
        if found.hexdigest() != digest:
            raise BytesDamaged("Its bytes are others.")

    def keep(self, incoming: Incoming, key: str) -> None:
        target = self.path(key)
        with self.in_words():
            with self.marked_folder():
                target.parent.mkdir(parents=True, exist_ok=True)
                incoming.path.rename(target)
                failpoint("storage.kept")
                flush(target.parent)
                self.note_proven(key, incoming.digest, state_of(incoming.file))
            # What is kept while the mark goes may not be moved with the rest.
            self.require_there()

    def copy(self, key: str, to: str) -> None:
        """At no cost (a hard link)."""
        target = self.path(to)
        with self.in_words():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(self.path(key))
            except FileExistsError:
                return
            flush(target.parent)

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)

    def keys(self, older_than_seconds: float) -> Iterator[str]:
        """What else lies there, on the top or under a name that is no key, is not ours."""
        for path in self.root.glob("*/**/*"):
            key = path.relative_to(self.root).as_posix()
            ours = path.parent != self.incoming and KEY.fullmatch(key)
            if ours and is_older(path, older_than_seconds):
                yield key

    def clear_incoming(self, older_than_seconds: float) -> None:
        clear_old(self.incoming, older_than_seconds)

    def link_for_worker(self, key: str) -> None:
        pass

    def link_for_user(self, key: str, name: str) -> None:
        pass

    def target(self, key: str, *, size: int, digest: str) -> None:
        pass

    def part_bytes(self, size: int) -> None:
        pass

    def begin_parts(self, key: str, **_: object) -> NoReturn:
        raise InvalidRequest(f"Storage takes no parts. Send {key} to its `url`.")

    def end_parts(self, key: str, *_: object) -> NoReturn:
        raise InvalidRequest(f"Storage takes no parts. Send {key} to its `url`.")


def mark_in(folder: int, name: str) -> str | None:
    """Of the folder with this descriptor."""
    try:
        mark = os.open(name, os.O_RDONLY, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(mark) as file:
        return file.read()


def state_of(file: IO[bytes]) -> tuple[int, ...]:
    """Changes whenever the file does, as far as the system can tell."""
    now = os.fstat(file.fileno())
    return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


def forget_cached(file: int) -> None:
    """What is read once must not push out of memory what is read often."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
