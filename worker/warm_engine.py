"""The engine child as the agent sees it: started once, kept warm between jobs, replaced when it
dies or must be killed. Nothing but the current attempt is ever lost with it.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from tunery.completions import CompletionPart
from tunery.states import FailureClass
from worker.oom import oom_kills
from worker.protocol import (
    REPORT,
    Attempt,
    Broke,
    Complete,
    Drop,
    Entered,
    Export,
    Ready,
    Report,
    Said,
    Serves,
    Started,
    Stop,
    Train,
    without_folders,
)

if TYPE_CHECKING:
    from tunery.messages import Phase

log = logging.getLogger(__name__)

LOG_TAIL_BYTES = 4_000
LOG_LIMIT_BYTES = 50 << 20
GRACE_SECONDS = 5.0
# An engine that says more than is read waits, as at a full pipe.
MOST_WAITING = 10_000
# What happens to an engine so soon after an answer may be the answer's doing.
ANSWER_SECONDS = 5.0
DUMP_SECONDS = 1.0

# The engine sends itself neither, and no data makes it.
FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


class EngineDied(Exception):
    """The engine child is gone in the middle of an attempt: ended by the kernel for want of memory,
    by somebody else `from_outside`, or by itself.
    """

    def __init__(
        self, message: str, *, for_memory: bool = False, from_outside: bool = False
    ) -> None:
        super().__init__(message)
        self.for_memory = for_memory
        self.from_outside = from_outside


class Child(Protocol):
    """The engine's process: its own session, so that its group can be killed."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class WarmEngine:
    """One thread has it train and export, any has it answer; a thread of its own reads what the
    child reports. The child ends with the thread that started it.

    For a job on several GPUs it is another child, which starts a process for each of them and lives
    for that one attempt.
    """

    def __init__(self, argv: list[str], environment: dict[str, str], log_file: Path) -> None:
        """`argv` is the child's command line, to which the two descriptors are added."""
        self.argv = argv
        self.environment = environment
        self.log_file = log_file
        self.log_file.touch()
        self.child: Child | None = None
        self.commands = -1
        # Whether everything that the child has reported is here, and nothing more will come.
        self.ended = False
        # Whether an attempt has it: then it is only started anew by that.
        self.at_work = False
        self.waiting: deque[Report] = deque()
        self.ready: Ready | None = None
        # The id of the base model that the child has loaded, and of the one it is to load.
        self.base: str | None = None
        self.next_base: str | None = None
        # What it is at; None before it is at anything.
        self.phase: Phase | None = None
        self.log_start = 0
        # What the attempt is that the log is of; None before the child is told.
        self.order: Train | Export | None = None
        self.oom_kills: int | None = None
        # How many processes the child trains in.
        self.ranks = 1
        # What it can answer from; None before it says so.
        self.serves: Serves | None = None
        # By completion and token what is said of those that are answered.
        self.answers: dict[tuple[str, int], deque[CompletionPart]] = {}
        self.answered_at = float("-inf")
        # Notified of whatever changes.
        self.news = threading.Condition(threading.RLock())
        self.writing = threading.Lock()

    def start(self) -> None:
        """Starts the child if it is not running. It imports torch by itself; nobody waits here."""
        with self.news:
            self.cap_log()
            if self.child is None or self.child.poll() is not None:
                self.kill()  # what a dead child has started may live on
                self.open()

    def open(self) -> None:
        child_commands, self.commands = os.pipe()
        reports, child_reports = os.pipe()
        self.oom_kills = oom_kills()
        try:
            with self.log_file.open("ab") as log:
                self.child = self.launch(child_commands, child_reports, log)
        except OSError:
            os.close(reports)
            raise
        finally:
            os.close(child_commands)
            os.close(child_reports)
        threading.Thread(
            target=self.listen, args=(self.child, reports), name="engine", daemon=True
        ).start()

    def launch(self, commands: int, reports: int, log: IO[bytes]) -> Child:
        """The child, given its ends of the two pipes."""
        several = ["--ranks", str(self.ranks)] if self.ranks > 1 else []
        return subprocess.Popen(
            [*self.argv, *several, "--commands", str(commands), "--reports", str(reports)],
            pass_fds=(commands, reports),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self.environment,
            start_new_session=True,
        )

    def begin_log(self) -> None:
        """From here on `log_tail`, `log_since` and `phase` are of the attempt that begins now."""
        self.phase = self.order = None
        self.cap_log()
        self.log_start = self.log_file.stat().st_size

    def cap_log(self) -> None:
        """Empties a log that has grown too large, so that no library's chatter fills the disk."""
        size = self.log_file.stat().st_size
        if size > LOG_LIMIT_BYTES:
            os.truncate(self.log_file, 0)
            self.log_start -= size

    def train(self, command: Train) -> None:
        """Hands over an attempt. What it reports comes out of `read`."""
        self.begin(command)
        self.next_base = command.spec.base_model
        self.write(command)

    def export(self, command: Export) -> None:
        """As `train`. It leaves the child with another base, or none."""
        self.begin(command)
        self.base = None
        self.write(command)

    def begin(self, command: Train | Export) -> None:
        with self.news:
            self.at_work = True
            ranks = command.spec.gpus if isinstance(command, Train) else 1
            if ranks > 1 or self.ranks > 1:
                self.kill()
            self.ranks = ranks
            self.start()
            self.waiting.clear()
            self.phase, self.order = None, command

    def rest(self) -> None:
        """The attempt is over."""
        with self.news:
            self.at_work = False
            if self.ranks > 1:
                self.kill()
                self.ranks = 1
            self.waiting.clear()
            self.news.notify_all()

    def complete(self, command: Complete) -> None:
        """Hands over a completion to a child that runs. What is said of it comes out of `said`.
        Raises `EngineDied`.
        """
        with self.news:
            self.answers[command.completion_id, command.token] = deque()
        self.write(command)

    def drop(self, completion_id: str, token: int) -> None:
        """Nobody wants its answer any more, if there is more of it to come."""
        with self.news:
            if self.answers.pop((completion_id, token), None) is None:
                return
            self.answered_at = time.monotonic()
        with suppress(EngineDied):
            self.write(Drop(completion_id=completion_id, token=token))

    def said(self, completion_id: str, token: int, *, seconds: float) -> list[CompletionPart]:
        """What it has said since, as soon as there is anything; none if nothing comes in that time.

        Raises:
            EngineDied: the child is gone, and everything it said has been read.

        """
        key = completion_id, token
        with self.news:
            self.news.wait_for(
                lambda: self.ended or key not in self.answers or self.answers[key], seconds
            )
            parts = list(self.answers.get(key, ()))
            if not parts and (self.ended or key not in self.answers):
                raise EngineDied("The engine that answered is gone.")
            self.answers[key].clear()
            if parts and parts[-1].is_last:
                del self.answers[key]
            return parts

    @property
    def answered_lately(self) -> bool:
        return bool(self.answers) or time.monotonic() < self.answered_at + ANSWER_SECONDS

    def write(self, command: Train | Export | Stop | Complete | Drop) -> None:
        line = command.model_dump_json().encode() + b"\n"
        try:
            # A long one takes the child's reading: meanwhile no other may come between.
            with self.writing:
                if self.commands < 0:
                    raise EngineDied("The engine is not running.")
                while line:
                    line = line[os.write(self.commands, line) :]
        except BrokenPipeError as error:
            raise self.death() from error

    def read(self, job_id: str, token: int, *, seconds: float) -> Report | None:
        """The next report about this attempt, or None if none comes in that time.

        Raises:
            EngineDied: the child is gone, and everything it said has been read.

        """
        until = time.monotonic() + seconds
        with self.news:
            while True:
                while self.waiting:
                    report = self.waiting.popleft()
                    self.news.notify_all()
                    if isinstance(report, Attempt) and is_about(report, job_id, token):
                        return report
                if self.ended or self.child is None:
                    break
                if not self.news.wait(until - time.monotonic()):
                    return None
        raise self.death()

    def look(self) -> Ready | None:
        """What the engine is, if it has said so yet. Never waits."""
        return self.ready

    def listen(self, child: Child, reports: int) -> None:
        """What the child says, until its end, or until another one has its place."""
        try:
            with os.fdopen(reports, "rb") as pipe:
                for line in pipe:
                    if not line.endswith(b"\n"):
                        return  # its last one, in the midst of which it ended
                    report = REPORT.validate_json(line)
                    with self.news:
                        self.news.wait_for(
                            lambda: self.child is not child or len(self.waiting) < MOST_WAITING
                        )
                        if self.child is not child:
                            return
                        self.hear(report)
                        self.news.notify_all()
        finally:
            with self.news:
                self.ended = self.ended or self.child is child
                self.news.notify_all()

    def hear(self, report: Report) -> None:
        if self.ranks > 1 and isinstance(report, Ready | Serves):
            return  # it has the worker's GPUs for this attempt, and answers nobody
        match report:
            case Said():
                self.answered_at = time.monotonic()
                waiting = self.answers.get((report.completion_id, report.token))
                if waiting is not None:
                    waiting.append(report.part)
                return
            case Serves():
                self.serves = report
                if not report.held:
                    self.base = report.base_model
                return
            case Ready():
                log.info("the engine is ready on %s", report.device)
                self.ready = report
                return
            case Entered():
                self.phase = report.phase
            case Started():
                self.base = self.next_base
            case Broke() if report.failure_class is not FailureClass.USER:
                self.base = None
        if self.at_work:
            self.waiting.append(report)

    def death(self) -> EngineDied:
        """How the child ended."""
        child = self.child  # another thread may end it meanwhile
        if child is None:
            return EngineDied("The engine is not running.")
        try:
            code = child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return EngineDied("The engine closed its pipe and did not end.")
        now = oom_kills()
        killed = code == -signal.SIGKILL or self.ranks > 1  # whose launcher ends by itself
        if killed and None not in (self.oom_kills, now) and now != self.oom_kills:
            words = "The kernel ended the engine for want of memory (SIGKILL)."
            return EngineDied(words, for_memory=True)
        if code >= 0:
            return EngineDied(f"The engine ended with exit code {code}.")
        name = signal.Signals(-code).name
        if code in FROM_OUTSIDE:
            return EngineDied(f"The engine was ended from outside by {name}.", from_outside=True)
        return EngineDied(f"The engine was ended by {name}.")

    def log_tail(self) -> str:
        """The last words of this attempt's log."""
        with self.log_file.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self.log_start, end - LOG_TAIL_BYTES, 0))
            return self.told(file.read())

    def log_since(self, position: int, *, most: int, behind: int) -> tuple[int, bytes]:
        """Up to `most` bytes of this attempt's log from that position on, and the position that
        they have: a later one, if the log has been emptied or is further `behind`.
        """
        with self.log_file.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = max(self.log_start + position, end - behind, 0)
            file.seek(start)
            return start - self.log_start, file.read(most)

    def told(self, log: bytes) -> str:
        """A piece of the log, as the job's owner reads it."""
        text = log.decode(errors="replace")
        return without_folders(text, self.order) if self.order else text

    def dump_stacks(self) -> None:
        """Has the child write its threads' stacks to its log, if it still can."""
        if self.child and self.child.poll() is None:
            os.kill(self.child.pid, signal.SIGUSR1)
            time.sleep(DUMP_SECONDS)

    def kill(self) -> None:
        """Ends the child and all it started, at once."""
        with self.news:
            if self.child:
                try:
                    os.killpg(self.child.pid, signal.SIGKILL)
                except ProcessLookupError:
                    log.debug("the engine was gone already")
                try:
                    self.child.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    # A driver holds it; nothing more can be done from here.
                    log.error("the engine %d cannot be killed", self.child.pid)  # noqa: TRY400
            self.close()

    def close(self) -> None:
        """Lets go of the pipes; an idle child ends when its commands do."""
        with self.writing:
            if self.commands >= 0:
                os.close(self.commands)
            self.commands = -1
        self.ended = False
        self.waiting.clear()
        self.answers.clear()
        self.ready = self.serves = self.base = self.child = None
        self.news.notify_all()


def is_about(report: Attempt, job_id: str, token: int) -> bool:
    return (report.job_id, report.token) == (job_id, token)


def real_engine(environment: dict[str, str], log_file: Path, **options: object) -> WarmEngine:
    """The options are those of `worker.engine`."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    argv = [sys.executable, "-m", "worker.engine", "--alone", *given]
    return WarmEngine(argv, environment, log_file)
