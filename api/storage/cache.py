"""Copies on this machine of what lies in a bucket, for programs that read files. Each lies under
its key, whole and proven. Any number of processes may share the folder.
"""

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from api.storage.storage import damaged

# Whoever asked for a copy may still be reading it.
IN_USE_SECONDS = 3600


class Cache:
    """At most so many bytes of copies, and those of the last hour beyond them."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        # What has come since room was made. The folder may be full from before.
        self.added = most_bytes
        # Of two who want the same copy one fetches it.
        self.locks = [threading.Lock() for _ in range(16)]

    def path(self, key: str) -> Path:
        return self.folder / key

    def find(self, key: str) -> Path | None:
        """It counts as used now."""
        path = self.path(key)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def fetch(self, key: str, digest: str, chunks: Iterable[bytes]) -> Path:
        """The copy, made of the chunks unless it is there. Raises `BytesDamaged` where they are not
        those of the digest.
        """
        with self.locks[hash(key) % len(self.locks)]:
            if found := self.find(key):
                return found
            path, came = self.path(key), hashlib.sha256()
            partial = path.with_name(f".{secrets.token_hex(16)}")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    for chunk in chunks:
                        came.update(chunk)
                        file.write(chunk)
                if came.hexdigest() != digest:
                    raise damaged()
                self.take(key, partial)
            finally:
                partial.unlink(missing_ok=True)
            return path

    def take(self, key: str, path: Path) -> None:
        """A proven file becomes the copy."""
        size = path.stat().st_size
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        self.added += size
        if self.added > self.most_bytes // 50:
            self.make_room()

    def forget(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)

    def make_room(self) -> None:
        """What was used longest ago goes first."""
        self.added = 0
        copies = []
        for path in self.folder.rglob("*"):
            try:
                seen = path.stat()
            except FileNotFoundError:  # another process makes room, too
                continue
            if path.is_file():
                copies.append((seen.st_mtime, seen.st_size, path))
        total = sum(size for _, size, _ in copies)
        for used, size, path in sorted(copies):
            if total <= self.most_bytes or used > time.time() - IN_USE_SECONDS:
                return
            path.unlink(missing_ok=True)
            total -= size
