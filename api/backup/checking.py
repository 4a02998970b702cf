"""Whether a backup is whole. It is read through, and nothing is restored: that needs neither the
database nor TUNERY_SECRET.
"""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.backup.manifest import Manifest, prove_part, read_manifest, read_stored
from api.storage.rows import Stored
from tunery.errors import Busy, InvalidRequest


def check(folder: Path) -> tuple[Manifest, list[str]]:
    """What the backup says of itself, and what is wrong with it, each thing in words.

    Raises:
        InvalidRequest: it is no backup.
        Busy: it is being made just now.

    """
    with nobody_in(folder):
        manifest = read_manifest(folder)
        faults, files, size = [], 0, 0
        for part in (manifest.database, manifest.stored):
            try:
                prove_part(folder, part)
            except InvalidRequest as error:
                faults.append(error.message)
        if not faults:
            for one in read_stored(folder / manifest.stored.name):
                files, size = files + 1, size + one.bytes
                if not is_whole(one, folder / "storage" / one.key):
                    faults.append(f"{folder / 'storage' / one.key} is missing or damaged.")
            if (files, size) != (manifest.files, manifest.bytes):
                faults.append(f"It lists {files:,} files, not the {manifest.files:,} that it has.")
    return manifest, faults


@contextmanager
def nobody_in(folder: Path) -> Iterator[None]:
    """While it is read, no backup is made into the folder, if that can be told from here."""
    lock = folder / "lock"
    if not lock.is_file():
        yield
        return
    with lock.open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"A backup into {folder} is under way. Wait for its end.") from error
        yield


def is_whole(one: Stored, path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == one.sha256
    except OSError:  # it is not there, or the disk cannot read it
        return False
