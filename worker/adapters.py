"""Adapters on a worker's disk, for answers. What was used longest ago makes room."""

import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunery.messages import AdapterLink
from worker.client import Client

MOST_ADAPTERS = 64
# Storage that does not answer for so long is away.
PATIENCE_SECONDS = 5.0
PARTIAL = ".partial"


class Adapters:
    """`folder` is this worker's own. An adapter lies under its content, whoever asks for it."""

    def __init__(self, folder: Path, client: Client) -> None:
        self.folder = folder
        self.client = client
        self.folder.mkdir(exist_ok=True)
        self.used: Counter[Path] = Counter()
        self.lock = threading.Lock()

    @contextmanager
    def ready(self, link: AdapterLink) -> Iterator[Path]:
        """The folder with PEFT's two files, which stays for as long as it is used. Raises what
        `Client.download` does.
        """
        digests = sorted(f"{file.sha256}  {file.name}" for file in link.files)
        place = self.folder / hashlib.sha256("\n".join(digests).encode()).hexdigest()
        with self.lock:
            if not place.is_dir():
                self.make_room()
                self.fetch(link, place)
            self.used[place] += 1
            os.utime(place)
        try:
            yield place
        finally:
            with self.lock:
                self.used[place] -= 1

    def fetch(self, link: AdapterLink, place: Path) -> None:
        partial = place.with_name(f"{place.name}{PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for file in link.files:
            self.client.download(file, partial / file.name, patience=PATIENCE_SECONDS)
        partial.rename(place)

    def make_room(self) -> None:
        there = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime)
        free = [path for path in there if not self.used[path]]
        for path in free[: max(0, len(there) + 1 - MOST_ADAPTERS)]:
            shutil.rmtree(path)
