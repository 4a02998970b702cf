"""The base models on a worker's disk: those in folders of the operator's, and those that it fetches
into a folder of its own, which has a limit. What was used longest ago makes room for what is
fetched.
"""

import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from tunery import hub, messages, traces
from tunery.base_model import revision_of
from tunery.completions import CompletionLease
from tunery.disk import flush
from tunery.facts import STORED, BaseModelFacts
from tunery.measured import Fetching
from worker.bases.order import End, Order, Repository
from worker.outbox import Outbox

log = logging.getLogger(__name__)

# Left free beside a base: for checkpoints and data.
SPARE_BYTES = 1 << 30
LOOK_SECONDS = 0.2
# A source that sends nothing new for so long is away.
PATIENCE_SECONDS = 60.0
# How often the job is told how far it is, and how often as an event.
TELL_SECONDS, EVENT_SECONDS = 2.0, 15.0
# Fetched in part, and on its way out: neither is used.
PARTIAL, GONE, USED = ".partial", ".gone", ".used"


class NotFetched(Exception):
    """The worker does not have the base model now; the message says why."""


@dataclass(frozen=True)
class Hub:
    """The model hub that the worker asks; `offline`: none."""

    endpoint: str = hub.PUBLIC
    token: str | None = None
    offline: bool = False


class Bases:
    """`folder` is this worker's own; it holds `most_bytes` of fetched bases at most. One base is
    fetched at a time.
    """

    def __init__(self, folder: Path, *, api_url: str, most_bytes: int, on: Hub) -> None:
        self.folder = folder
        self.api_url = api_url
        self.most_bytes = most_bytes
        self.on = on
        self.fetching = threading.Lock()
        self.folder.mkdir(exist_ok=True)
        for gone in self.folder.glob(f"*{GONE}"):
            shutil.rmtree(gone, ignore_errors=True)

    def place_of(self, base: BaseModelFacts) -> Path:
        """Where its files are, or are to be. What is fetched lies under its content: bases with the
        same files share them, and no name from outside is a path.
        """
        if base.source == STORED or hub.repository_of(base.source):
            return self.folder / revision_of(base.files)
        return Path(base.source)

    def ready(
        self,
        lease: messages.Lease | CompletionLease,
        outbox: Outbox | None,
        stop_if_asked: Callable[[], None],
    ) -> Path:
        """The folder with its files, fetched if need be; how far that is goes to the outbox.
        `stop_if_asked` is called all the while, and may raise.

        Raises:
            NotFetched: it cannot be had now.

        """
        place = self.place_of(lease.base_model)
        if place.parent != self.folder:
            return place
        if not place.is_dir():
            while not self.fetching.acquire(timeout=LOOK_SECONDS):
                stop_if_asked()
            try:
                if not place.is_dir():
                    with fetch_of(lease):
                        self.fetch(lease, place, outbox, stop_if_asked)
            finally:
                self.fetching.release()
        place.with_name(f"{place.name}{USED}").write_text(lease.base_model.id)
        return place

    def held(self) -> list[str]:
        """The ids that what was fetched was last used under."""
        ids = set[str]()
        for used in self.folder.glob(f"*{USED}"):
            with suppress(FileNotFoundError):  # it has just made room
                ids.add(used.read_text())
        return sorted(ids)

    def drop(self, base: BaseModelFacts) -> bool:
        """Whether it was fetched: its files are no longer what they were, and are fetched anew."""
        place = self.place_of(base)
        if place.parent != self.folder:
            return False
        self.delete(place)
        return True

    def fetch(
        self,
        lease: messages.Lease | CompletionLease,
        place: Path,
        outbox: Outbox | None,
        stop_if_asked: Callable[[], None],
    ) -> None:
        base = lease.base_model
        if self.on.offline and hub.repository_of(base.source):
            raise NotFetched(
                f"This worker does not have the base model {base.id}, and asks no model hub "
                "(HF_HUB_OFFLINE is set)."
            )
        whole = sum(file.bytes for file in base.files)
        partial = place.with_name(f"{place.name}{PARTIAL}")
        self.make_room(base, partial, whole)
        partial.mkdir(exist_ok=True)
        began = time.monotonic()
        telling = Telling(base, whole, outbox) if outbox else None
        error = self.run(self.order_of(lease, partial), telling, stop_if_asked)
        if error is None:
            partial.rename(place)
            flush(self.folder)
            if telling:
                telling.done(time.monotonic() - began)
            return
        if shutil.disk_usage(self.folder).free < SPARE_BYTES // 2:
            self.delete(partial)  # what fills the disk is in everybody's way
        raise NotFetched(f"The base model {base.id} could not be fetched: {error}")

    def order_of(self, lease: messages.Lease | CompletionLease, partial: Path) -> Order:
        base, repository = lease.base_model, None
        if name := hub.repository_of(base.source):
            repository = Repository(
                name=name,
                revision=base.revision,
                endpoint=self.on.endpoint,
                token=self.on.token,
            )
        direct = {file.name: file.direct for file in lease.base_files if file.direct}
        by_api = {file.name: urljoin(self.api_url, file.url) for file in lease.base_files}
        return Order(
            folder=partial,
            files=base.files,
            patience_seconds=PATIENCE_SECONDS,
            repository=repository,
            ways=[direct, by_api] if direct.keys() == by_api.keys() else [by_api],
        )

    def run(
        self, order: Order, telling: "Telling | None", stop_if_asked: Callable[[], None]
    ) -> str | None:
        """Why the files are not all there."""
        child = subprocess.Popen(
            [sys.executable, "-m", "worker.bases.fetch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=hub.environment(self.on.endpoint, str(self.folder / ".hub")),
            start_new_session=True,
        )
        with child:
            assert child.stdin and child.stdout  # noqa: S101, PT018 - they are pipes
            try:
                child.stdin.write(order.model_dump_json().encode() + b"\n")
                child.stdin.flush()
                while child.poll() is None:
                    stop_if_asked()
                    if telling:
                        telling.tell(size_of(order.folder))
                    time.sleep(LOOK_SECONDS)
                said = child.stdout.read()
            except BrokenPipeError:
                said = b""
            finally:
                child.kill()
        try:
            return End.model_validate_json(said).error
        except ValueError:
            return f"its process ended with {child.returncode}."

    def make_room(self, base: BaseModelFacts, partial: Path, whole: int) -> None:
        """Raises `NotFetched`, before anything is deleted or fetched, where there is none."""
        if whole > self.most_bytes:
            raise NotFetched(
                f"The base model {base.id} has {gigabytes(whole)} GB, and this worker keeps "
                f"{gigabytes(self.most_bytes)} GB of fetched ones at most (TUNERY_FETCHED_BYTES)."
            )
        others = [path for path in self.there() if path != partial]
        sizes = {path: size_of(path) for path in others}
        missing = whole - (size_of(partial) if partial.is_dir() else 0)
        free = shutil.disk_usage(self.folder).free - SPARE_BYTES
        if free + sum(sizes.values()) < missing:
            raise NotFetched(
                f"The base model {base.id} needs {gigabytes(missing)} GB, and the worker's disk "
                f"has {gigabytes(max(0, free))} GB for it."
            )
        kept = sum(sizes.values())
        for path in others:
            if kept + whole <= self.most_bytes and free >= missing:
                return
            log.info("%s makes room for %s", path.name, base.id)
            self.delete(path)
            kept, free = kept - sizes[path], free + sizes[path]

    def there(self) -> list[Path]:
        """What was fetched, whole or in part, the least recently used first."""
        return sorted(
            (path for path in self.folder.glob("sha256-*") if path.is_dir()), key=last_use
        )

    def delete(self, path: Path) -> None:
        """Whole: what is left in the middle of this is not taken for a base."""
        path.with_name(f"{path.name}{USED}").unlink(missing_ok=True)
        gone = path.with_name(f"{path.name}{GONE}")
        shutil.rmtree(gone, ignore_errors=True)
        try:
            path.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)


class Telling:
    """How far the fetching is, for the job: as a figure, and now and then as an event."""

    def __init__(self, base: BaseModelFacts, whole: int, outbox: Outbox) -> None:
        self.base = base
        self.whole = whole
        self.outbox = outbox
        self.due = self.event_due = 0.0

    def tell(self, size: int) -> None:
        now = time.monotonic()
        if now >= self.due:
            self.due = now + TELL_SECONDS
            self.outbox.fetching = Fetching(bytes=min(size, self.whole), total_bytes=self.whole)
        if now >= self.event_due:
            self.event_due = now + EVENT_SECONDS
            done, unit = in_unit(size, self.whole), unit_of(self.whole)
            words = f"Fetching the base: {done} of {in_unit(self.whole, self.whole)} {unit}"
            self.outbox.add(level="info", message=words)
        self.outbox.flush_if_due()

    def done(self, seconds: float) -> None:
        self.outbox.fetching = Fetching(bytes=self.whole, total_bytes=self.whole)
        size = f"{in_unit(self.whole, self.whole)} {unit_of(self.whole)}"
        words = f"Fetched the base {self.base.id}: {size} in {seconds:.0f} s"
        self.outbox.add(level="info", message=words)


def last_use(path: Path) -> float:
    used = path.with_name(f"{path.name}{USED}")
    return (used if used.exists() else path).stat().st_mtime


def size_of(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # it has just been renamed
            size += path.stat().st_size
    return size


def unit_of(whole: int) -> str:
    return "GB" if whole >= 10**9 else "MB"


def in_unit(size: int, whole: int) -> str:
    return f"{size / (10**9 if whole >= 10**9 else 10**6):.1f}"


def gigabytes(size: int) -> str:
    return f"{size / 10**9:.1f}"


def fetch_of(lease: messages.Lease | CompletionLease) -> AbstractContextManager[None]:
    """A job's trace shows it; what is only asked has none."""
    if not isinstance(lease, messages.Lease):
        return nullcontext()
    attempt, base = traces.attempt(lease.job_id, lease.token), lease.base_model.id
    return traces.timed("fetch of the base model", within=attempt, base_model=base)
