"""Bytes on their way into storage."""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tunery.errors import TooLarge

if TYPE_CHECKING:
    from api.storage.storage import Storage


class Incoming:
    """A file on its way in: written to a temporary file, hashed on the way. `keep` makes it appear
    under its key; leaving the `with` block without `keep` leaves nothing. Each of its steps raises
    `StorageFull` when the disk has no room, and `StorageAway` when it is away.
    """

    def __init__(self, storage: "Storage", limit: int, what: str) -> None:
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
        self.storage.keep(self, key)

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
