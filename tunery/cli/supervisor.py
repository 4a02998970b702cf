"""Runs services as child processes: starts them, waits for them, restarts them, stops them all."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

PR_SET_PDEATHSIG = 1
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
HEALTHY_AFTER_S = 60.0
GROUP_GONE_S = 5.0
TICK_S = 0.05
TAIL_LINES = 20
# Of each service's log, and how many such files are kept beside it.
LOG_BYTES, OLD_LOGS = 10 << 20, 2

_libc = ctypes.CDLL(None, use_errno=True)

# The death signal reaches only each service's first process. The guard outlives the supervisor,
# and kills what is left of each service's group once its grace is over.
_GUARD = """
import os, sys, time
graces = {}
for line in sys.stdin:
    group, grace = line.split()
    graces.pop(int(group), None)
    if grace != "stopped":
        graces[int(group)] = float(grace)
died = time.monotonic()
while graces:
    for group, grace in list(graces.items()):
        over = time.monotonic() - died >= grace
        try:
            os.killpg(group, 9 if over else 0)
        except OSError:
            over = True
        if over:
            del graces[group]
    time.sleep(0.05)
"""


class ServiceError(Exception):
    """A service cannot run here, or did not get ready: the text says why, with the tail of its log
    if it has one.
    """


@dataclass(frozen=True)
class Service:
    """One program to run: `env` is its whole environment, `at` the words for where it answers.

    `child_setup` runs in the child before the program; it may change user or namespace.
    `stop_signal` asks it to end, and is also what it gets when the supervisor itself is killed;
    `grace_s` seconds later its process group is killed. Those of a `group` are asked at once. One
    that `may_end` is not started again after it has ended with status 0. Without a `log` it writes
    where the supervisor does.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    ready: Callable[[], bool]
    log: Path | None
    at: str = ""
    ready_within_s: float = 60.0
    grace_s: float = 10.0
    stop_signal: signal.Signals = signal.SIGTERM
    child_setup: Callable[[], None] | None = None
    group: str = ""
    may_end: bool = False

    @property
    def look_at(self) -> str:
        return f" (log: {self.log})" if self.log else ""


@dataclass
class _Running:
    service: Service
    child: subprocess.Popen[bytes]
    log_start: int
    launched: float
    ready: bool = False
    backoff_s: float = FIRST_BACKOFF_S
    restart_at: float | None = None
    asked_at: float | None = None


class Supervisor:
    """Starts services and stops them in reverse order on exit, however the block ends.

    Use it from the main thread: the kernel ends a child when the thread that started it ends.
    Restarts happen inside `wait` (or `tend`, for a caller with its own loop).
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: list[_Running] = []

    def __enter__(self) -> Self:
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._guard.communicate()

    def start(self, *services: Service) -> None:
        """Start all given services at once, and return when all are ready.

        Raises ServiceError when one cannot run, ends, or is not ready within its `ready_within_s`.
        """
        first = len(self._running)
        for service in services:
            self._running.append(self._launch(service))
        waiting = self._running[first:]
        while waiting := [running for running in waiting if not running.ready]:
            for running in waiting:
                if fault := self._look(running):
                    raise ServiceError(f"{running.service.name} {fault}\n{_tail(running)}")
            time.sleep(TICK_S)

    def tend(self) -> None:
        """Look at every service once: restart the dead, with a back-off, and say so."""
        for running in list(self._running):
            if running.restart_at is None:
                if fault := self._look(running):
                    self._lay_down(running)
                    if running.service.may_end and running.child.returncode == 0:
                        self._say(f"{running.service.name} has ended")
                        self._running.remove(running)
                        continue
                    healthy = time.monotonic() - running.launched > HEALTHY_AFTER_S
                    delay = FIRST_BACKOFF_S if healthy else running.backoff_s
                    running.backoff_s = min(delay * 2, LONGEST_BACKOFF_S)
                    running.restart_at = time.monotonic() + delay
                    self._say(
                        f"{running.service.name} {fault}; starting it again in {delay:g} s"
                        f"{running.service.look_at}"
                    )
            elif time.monotonic() >= running.restart_at:
                fresh = self._launch(running.service)
                running.child, running.log_start = fresh.child, fresh.log_start
                running.launched, running.ready, running.restart_at = fresh.launched, False, None

    def wait(self) -> None:
        """Tend the services until SIGINT, SIGTERM or SIGHUP arrives, or none is left."""
        with _counted_signals() as arrived:
            while self._running and not arrived:
                self.tend()
                time.sleep(TICK_S)

    def stop(self) -> None:
        """Stop all services, the last started first. A signal meanwhile ends every grace."""
        with _counted_signals() as arrived:
            while self._running:
                running = self._running[-1]
                if running.restart_at is not None:  # laid down already; its number may be another's
                    self._running.pop()
                    continue
                service, child = running.service, running.child
                for one in self._running if service.group else [running]:
                    if one.service.group == service.group:
                        _ask(one)
                end = (running.asked_at or 0.0) + service.grace_s
                while child.poll() is None and time.monotonic() < end and not arrived:
                    _cap_log(running)
                    time.sleep(TICK_S / 5)
                if child.poll() is None:
                    self._say(f"{service.name} did not stop in {service.grace_s:g} s: killed")
                self._lay_down(running)
                self._running.pop()

    def _launch(self, service: Service) -> _Running:
        parent = os.getpid()

        def prepare_child() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            if service.child_setup:
                service.child_setup()
            # Last, because a change of user or namespace disarms it.
            die_with_parent(parent, service.stop_signal)

        with _opened(service.log) as log:
            log_start = log.tell() if log else 0
            try:
                child = subprocess.Popen(
                    service.argv,
                    env=dict(service.env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=prepare_child,  # noqa: PLW1509 - no threads here, see the class
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise ServiceError(f"{service.name} cannot be started: {error}") from error
        running = _Running(service, child, log_start, launched=time.monotonic())
        self._tell_guard(running, f"{service.grace_s}")
        return running

    def _look(self, running: _Running) -> str | None:
        """Notice readiness, and say so once; return what is wrong, or None."""
        service, taken = running.service, time.monotonic() - running.launched
        _cap_log(running)
        answered = running.ready or service.ready()
        # Asked after `ready`: another program on the same port may have answered for a dead one.
        status = running.child.poll()
        if status is not None:
            ended = (
                f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            )
            return f"ended ({ended})"
        if not answered:
            late = taken > service.ready_within_s
            return f"was not ready within {service.ready_within_s:g} s" if late else None
        if not running.ready:
            running.ready = True
            self._say(f"{service.name:<10} {service.at} ({taken:.1f} s)")
        return None

    def _lay_down(self, running: _Running) -> None:
        """End whatever is left of the service's process group, and take in its exit status."""
        group, deadline = running.child.pid, time.monotonic() + GROUP_GONE_S
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
            # Until they are truly gone they hold ports and GPU memory.
            while _lives(group) and time.monotonic() < deadline:
                time.sleep(TICK_S / 10)
        running.child.wait()
        self._tell_guard(running, "stopped")

    def _tell_guard(self, running: _Running, word: str) -> None:
        # Somebody may have killed the guard; the services still have their death signal.
        with contextlib.suppress(BrokenPipeError):
            print(running.child.pid, word, file=self._guard.stdin, flush=True)


def _ask(running: _Running) -> None:
    """Ask it to end, once; not one that is laid down already."""
    if running.asked_at is None and running.restart_at is None:
        if running.child.poll() is None:
            running.child.send_signal(running.service.stop_signal)
        running.asked_at = time.monotonic()


def _opened(log: Path | None) -> contextlib.AbstractContextManager[IO[bytes] | None]:
    if log is None:
        return contextlib.nullcontext()
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("ab")


def die_with_parent(parent: int, death_signal: signal.Signals) -> None:
    """In a fresh child: have the kernel send `death_signal` when `parent` ends (Linux only)."""
    if sys.platform == "linux" and _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def _lives(group: int) -> bool:
    """Whether a process of the group is left; a zombie, which some containers keep, is not."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            state, _parent, its_group = file.read_text().rpartition(") ")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


@contextlib.contextmanager
def _counted_signals() -> Iterator[list[int]]:
    """Collect stop signals in a list, so that none of them breaks the block off half way."""
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in stops}
    try:
        yield arrived
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _cap_log(running: _Running) -> None:
    """Copies a log that is full and empties it. The service goes on writing, at its end, to the
    same open file: it need not know, and waits for nobody. What it writes between the copy and the
    emptying is lost.
    """
    log = running.service.log
    if log is None or not log.exists() or log.stat().st_size < LOG_BYTES:
        return
    olds = [log.with_name(f"{log.name}.{number}") for number in range(1, OLD_LOGS + 1)]
    for older, newer in zip(olds[:0:-1], olds[-2::-1], strict=True):
        if newer.exists():
            newer.replace(older)
    try:
        shutil.copyfile(log, olds[0])
    except OSError:  # a full disk: room is worth more than the copy
        olds[0].unlink(missing_ok=True)
    os.truncate(log, 0)
    running.log_start = 0


def _tail(running: _Running) -> str:
    if running.service.log is None:
        return ""
    with running.service.log.open("rb") as log:
        log.seek(running.log_start)
        lines = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join([*(f"  {line}" for line in lines), f"  (log: {running.service.log})"])
