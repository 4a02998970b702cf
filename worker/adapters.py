"""Adapters on a worker's disk, for answers. What was used longest ago makes room."""

import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunery.messages import AdapterLink
from worker.client import Client

MOST_ADAPTERS = 64
# Storage that does not answer for so long is away.
PATIENCE_SECONDS = 5.0
PARTIAL = ".partial"
LOOK_SECONDS = 0.2


class Adapters:
    """`folder` is this worker's own. An adapter lies under its content, whoever asks for it. One is
    fetched at a time.
    """

    def __init__(self, folder: Path, client: Client) -> None:
        self.folder = folder
        self.client = client
        self.folder.mkdir(exist_ok=True)
        self.used: Counter[Path] = Counter()
        self.counting = threading.Lock()
        self.fetching = threading.Lock()

    @contextmanager
    def ready(self, link: AdapterLink, stop_if_asked: Callable[[], None]) -> Iterator[Path]:
        """The folder with PEFT's two files, which stays for as long as it is used. `stop_if_asked`
        is called while it is fetched, and may raise. Raises what `Client.download` does.
        """
        digests = sorted(f"{file.sha256}  {file.name}" for file in link.files)
        place = self.folder / hashlib.sha256("\n".join(digests).encode()).hexdigest()
        with self.counting:
            self.used[place] += 1
        try:
            if not place.is_dir():
                while not self.fetching.acquire(timeout=LOOK_SECONDS):
                    stop_if_asked()
                try:
                    if not place.is_dir():
                        self.fetch(link, place, stop_if_asked)
                finally:
                    self.fetching.release()
            os.utime(place)
            yield place
        finally:
            with self.counting:
                self.used[place] -= 1

    def fetch(self, link: AdapterLink, place: Path, stop_if_asked: Callable[[], None]) -> None:
        self.make_room()
        partial = place.with_name(f"{place.name}{PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for file in link.files:
            self.client.download(
                file, partial / file.name, patience=PATIENCE_SECONDS, stop_if_asked=stop_if_asked
            )
        partial.rename(place)

    def make_room(self) -> None:
        with self.counting:
            there = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime)
            free = [path for path in there if not self.used[path]]
            for path in free[: max(0, len(there) + 1 - MOST_ADAPTERS)]:
                shutil.rmtree(path)
