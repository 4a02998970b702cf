"""Whether a base model's folder holds what was registered. A file is read whole once, and again
when its stamp has changed: what is known of it is kept on disk, beside the quantized copies.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tunery.facts import FileFacts

log = logging.getLogger(__name__)

# Inode, size, and the times of the last change of its content and of anything about it, in ns.
Stamp = tuple[int, int, int, int]

CHUNK_BYTES = 16 << 20
# What a loader looks for by itself. Such a file that was not registered may change what is loaded.
LOADED = (".safetensors", ".json", ".jinja")
# Within one tick of the file system's clock a file may change and keep its stamp.
SETTLED_NS = 2_000_000_000
KNOWN = "known_files.json"


def stamp_of(path: Path) -> Stamp | None:
    """None if there is no such file, or none that can be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def stamps_of(folder: Path, files: Iterable[FileFacts]) -> tuple[Stamp | None, ...]:
    """Of the folder, whose own stamp changes with its list of files, and of these files."""
    return stamp_of(folder), *(stamp_of(folder / file.name) for file in files)


def read_whole(path: Path, stop_if_asked: Callable[[], None]) -> str:
    """Its SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if len(chunk) == CHUNK_BYTES:
                stop_if_asked()
    return digest.hexdigest()


class KnownFiles:
    """The SHA-256 of files by their path and stamp, in memory and in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / KNOWN
        self.known: dict[str, tuple[Stamp, str]] = {}
        try:
            for path, (stamp, digest) in json.loads(self.path.read_text()).items():
                self.known[path] = (tuple(stamp), digest)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read, the files are read again: %s", self.path, error)

    def sha256(self, path: Path, stop_if_asked: Callable[[], None] = lambda: None) -> str:
        """Raises `OSError`, and what `stop_if_asked` raises, which a large file calls at times."""
        stamp = stamp_of(path)
        known = self.known.get(str(path))
        if known and known[0] == stamp:
            return known[1]
        digest = read_whole(path, stop_if_asked)
        if stamp and stamp == stamp_of(path) and time.time_ns() - max(stamp[2:]) > SETTLED_NS:
            self.known[str(path)] = (stamp, digest)
            self.keep()
        return digest

    def keep(self) -> None:
        """Without it the next engine reads the files again, and nothing else."""
        there = {path: known for path, known in self.known.items() if Path(path).exists()}
        partial = self.path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(there))
            partial.rename(self.path)
        except OSError as error:
            log.warning("what is known of files is not kept: %s", error)

    def difference(
        self, folder: Path, files: Iterable[FileFacts], stop_if_asked: Callable[[], None]
    ) -> str | None:
        """In what the folder is not as it was registered, as a sentence; None if it is."""
        registered = {file.name for file in files}
        try:
            for file in files:
                path = folder / file.name
                if not path.is_file():
                    return f"{path} is missing."
                if (size := path.stat().st_size) != file.bytes:
                    return f"{path} has {size:,} bytes, {file.bytes:,} were registered."
            for file in files:
                path = folder / file.name
                if self.sha256(path, stop_if_asked) != file.sha256:
                    return f"{path} has another content than was registered."
            for path in sorted(folder.iterdir()):
                if path.suffix in LOADED and path.name not in registered:
                    return f"{path} was not there when the model was registered. Remove it."
        except OSError as error:
            return f"{folder} cannot be read: {error}."
        return None
