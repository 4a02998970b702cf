"""The engine's side of the pipes: commands in, reports out, one job at a time,
and answers beside it.
"""

import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import torch
from pydantic import ConfigDict, ValidationError

from tunery.completions import CompletionPart, Refusal
from tunery.errors import DoesNotFit
from tunery.messages import BASE_BROKEN, BASE_DIFFERS, DATA_PHASES, ENGINE_ERROR, Phase
from tunery.states import FailureClass
from worker.engine.alone import taken_by_another
from worker.engine.answers.answering import Answers
from worker.engine.device import device_memory, device_name, is_out_of_memory, unusable
from worker.engine.errors import (
    BaseDiffers,
    BaseRefused,
    CheckpointRefused,
    DiskFull,
    MemoryDamaged,
    StopAsked,
    Untrainable,
)
from worker.engine.model.base import Base, WarmBase
from worker.engine.ranks import together
from worker.engine.results import exports
from worker.engine.train import train
from worker.protocol import (
    CHECKPOINT_REFUSED,
    COMMAND,
    Alive,
    Attempt,
    Broke,
    Complete,
    Drop,
    Entered,
    Export,
    Line,
    Ready,
    Report,
    Said,
    Serves,
    Stop,
    Stopped,
    Train,
    without_folders,
)

if TYPE_CHECKING:
    from pathlib import Path

ALIVE_SECONDS = 1.0
# CPU time in a second that is more than looking for it takes.
AT_WORK_SECONDS = 0.01
# What a job waits for answers that it would break off.
LAST_SECONDS = 3.0
UNREADABLE = "unreadable_command"
MACHINE_ERROR = "machine_error"
# What torch and its libraries say of a device that fails.
OF_DEVICES = ("CUDA", "CUBLAS", "cuDNN", "CUDNN", "NVML")


class Sender(Attempt):
    """Whose line it was, where the rest of it cannot be read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Asker(Line):
    """As `Sender`, of a completion."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    completion_id: str
    token: int


class Engine:
    """Trains and exports what the command pipe orders, and answers, until that pipe ends. Beside a
    training, answers take at most this share of its time. `alone` on its GPU it takes no order
    while another engine has that.
    """

    def __init__(
        self, commands: int, reports: int, answer_share: float = 0.05, *, alone: bool = False
    ) -> None:
        self.commands = commands
        self.alone = alone
        self.reports = os.fdopen(reports, "wb")
        self.unread = b""
        self.orders: deque[Train | Export] = deque()
        self.current: Train | Export | None = None
        self.phase: Phase | None = None
        self.stop: Stop | None = None
        self.terminated = False
        self.reported = 0.0
        self.writing = threading.Lock()
        self.ended = threading.Event()
        self.unusable: str | None = None
        self.warm = WarmBase()
        look = partial(self.read_commands, wait=False)
        self.answers = Answers(self.warm, self.report, look, answer_share)
        # By the folders of bases, what they are called.
        self.names: dict[Path, str] = {}
        self.serves: Serves | None = None

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self.terminate)
        own = unusable() or (taken_by_another() if self.alone else None)
        self.unusable = together.any_of(own)
        self.report(
            Ready(
                device=device_name(),
                memory_bytes=device_memory(),
                gpus=max(1, torch.cuda.device_count()),
                unusable=self.unusable,
            )
        )
        threading.Thread(target=self.tell_while_loading, name="loading", daemon=True).start()
        try:
            self.carry_out()
        finally:
            self.ended.set()

    def carry_out(self) -> None:
        while not self.terminated:
            self.tell_serves()
            if not self.orders:
                self.read_commands(wait=not self.answers.busy)
                if self.answers.busy and not self.orders:
                    self.answers.work(self.answers_on)
                continue
            self.stop = None
            self.current, self.phase = self.orders.popleft(), None
            self.begin(self.current)
            end = self.attempt(self.current)
            if end is not None:
                self.report(end)
            if isinstance(end, Broke) and end.failure_class is not FailureClass.USER:
                # Whatever went wrong may have left its mark on the model in memory. A device that
                # is lost for good fails in this, too, when its end is already told.
                self.answers.let_go()
                self.warm.drop()
            self.current = None

    def begin(self, order: Train | Export) -> None:
        """Of what is asked, what may be answered beside this order waits for it. Else answers that
        are half said are ended first, if that does not take long; the rest is released.
        """
        self.names[order.base_folder] = order.spec.base_model
        self.answers.keep(lambda asked: self.may_wait(asked) or asked in self.answers.half_said)
        last = time.monotonic() + LAST_SECONDS
        while not all(map(self.may_wait, self.answers.half_said)) and time.monotonic() < last:
            self.read_commands(wait=False)
            if self.stop or self.terminated:
                break
            self.answers.work()
        self.answers.keep(self.may_wait)
        self.answers.make_room()
        self.answers.let_go()
        self.tell_serves()

    def may_wait(self, asked: Complete) -> bool:
        """Whether it may be answered before the present order is over, if that is one."""
        order = self.current
        if order is None:
            return True
        where = (order.base_folder, order.spec.base_revision)
        return self.answers_beside(order) and (asked.base_folder, asked.base_revision) == where

    @property
    def base(self) -> Base | None:
        """The one that can be answered from now."""
        if self.current is None:
            return self.warm.base
        beside = self.phase == "training" and self.answers_beside(self.current)
        return self.warm.base if beside else None

    def answers_on(self) -> bool:
        self.read_commands(wait=False)
        self.tell_serves()
        return not self.orders

    def answers_beside(self, order: Train | Export) -> bool:
        """Not where the base itself is changed, or another one made of it."""
        trains_adapter = isinstance(order, Train) and order.spec.lora is not None
        return trains_adapter and self.answers.share > 0

    def tell_serves(self) -> None:
        base = self.base
        serves = Serves(
            base_model=self.names.get(base.folder.path) if base else None,
            quantization=base.quantization if base else None,
            double_quant=base.double_quant if base else True,
            held=self.current is not None or self.unusable is not None,
        )
        if serves != self.serves:
            self.serves = serves
            self.report(serves)

    def attempt(self, order: Train | Export) -> Stopped | Broke | None:
        """Does what is ordered; returns how it ended, None if it has finished."""
        if self.unusable:
            return broke(order, FailureClass.INFRA, "device_unusable", self.unusable)
        stop_if_asked = partial(self.stop_if_asked, order)
        try:
            if isinstance(order, Train):
                together.told(order.model_dump_json())
                train(order, self.warm, self.report, stop_if_asked)
            else:
                exports.make(order, self.warm, self.report, stop_if_asked)
        except StopAsked:
            return Stopped(job_id=order.job_id, token=order.token)
        except Untrainable as error:
            message = without_folders(str(error), order)
            return broke(order, FailureClass.USER, error.code, message)
        except DiskFull as error:
            # No traceback: the log is likely on that disk too.
            message = f"The result could not be written: {error}. Free some space on it."
            return broke(order, FailureClass.INFRA, "disk_full", message)
        except SystemExit:
            raise  # nobody is left to report to
        except BaseException as error:  # noqa: BLE001  (it may fail in any way; a panic is no Exception)
            traceback.print_exc()
            sys.stderr.flush()
            phase = None if is_machines(error) else self.phase
            failure_class, code, message = in_words(error, phase)
            return broke(order, failure_class, code, without_folders(message, order), phase)
        return None

    def read_commands(self, *, wait: bool) -> None:
        """Takes what has arrived.

        Raises:
            SystemExit: the agent closed the pipe, or has died.
            ValidationError: a line names no job, so nobody can be told of it.

        """
        while select.select([self.commands], [], [], None if wait else 0)[0]:
            chunk = os.read(self.commands, 1 << 16)
            if not chunk:
                raise SystemExit(0)
            *lines, self.unread = (self.unread + chunk).split(b"\n")
            for line in lines:
                self.take(line)
            wait = False

    def take(self, line: bytes) -> None:
        try:
            command = COMMAND.validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            message = f"unreadable command: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            self.report(refused_line(line, message))
            return
        if isinstance(command, Train | Export):
            self.orders.append(command)
        elif isinstance(command, Complete):
            self.names[command.base_folder] = command.base_model
            self.answers.take(command)
            self.answers.keep(lambda asked: asked is not command or self.may_wait(asked))
        elif isinstance(command, Drop):
            self.answers.drop(command)
        elif self.current is not None and same(command, self.current):
            self.stop = command
        else:
            # Not begun yet, or already over: a late stop finds nothing to end.
            for order in [order for order in self.orders if same(command, order)]:
                self.orders.remove(order)
                self.report(Stopped(job_id=order.job_id, token=order.token))

    def stop_if_asked(self, order: Attempt) -> None:
        """Else says now and then that the attempt goes on.

        Raises:
            StopAsked: by the agent's word, or by a signal to this process.

        """
        self.read_commands(wait=False)
        if self.stop is not None:
            raise StopAsked(checkpoint=self.stop.checkpoint)
        if self.terminated:
            raise StopAsked(checkpoint=True)
        if self.base is not None:
            self.answers.between_steps()
        if time.monotonic() - self.reported >= ALIVE_SECONDS:
            self.report(Alive(job_id=order.job_id, token=order.token))

    def tell_while_loading(self) -> None:
        """In a thread: a large base on a slow disk takes many minutes, in which nothing else is
        said. A disk that hangs costs neither CPU time nor page faults, and then nothing is said.
        """
        before = work_done()
        while not self.ended.wait(ALIVE_SECONDS):
            now = work_done()
            cpu, faults = (new - old for new, old in zip(now, before, strict=True))
            before, order = now, self.current
            if order and self.phase == "base" and (cpu > AT_WORK_SECONDS or faults):
                self.report(Alive(job_id=order.job_id, token=order.token))

    def report(self, line: Report) -> None:
        try:
            with self.writing:
                self.reports.write(line.model_dump_json().encode() + b"\n")
                self.reports.flush()
        except BrokenPipeError:
            raise SystemExit(0) from None  # the agent has hung up, or has died
        self.reported = time.monotonic()
        if isinstance(line, Entered):
            self.phase = line.phase
            self.tell_serves()

    def terminate(self, _signal: int, _frame: FrameType | None) -> None:
        """SIGTERM, which may reach a whole group: what trains is stopped with a checkpoint."""
        if self.current is None:
            raise SystemExit(0)
        self.terminated = True


def work_done() -> tuple[float, int]:
    """(seconds of CPU time, page faults that read a disk), of this process since its start."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_majflt


def same(one: Attempt, other: Attempt) -> bool:
    return (one.job_id, one.token) == (other.job_id, other.token)


def broke(
    attempt: Attempt,
    failure_class: FailureClass,
    code: str,
    message: str,
    phase: Phase | None = None,
) -> Broke:
    return Broke(
        job_id=attempt.job_id,
        token=attempt.token,
        failure_class=failure_class,
        code=code,
        message=message,
        phase=phase,
    )


def refused_line(line: bytes, message: str) -> Report:
    """Raises `ValidationError` if it cannot be told whose it is."""
    try:
        sender = Sender.model_validate_json(line)
    except ValidationError:
        asker = Asker.model_validate_json(line)
        part = CompletionPart(number=0, refusal=Refusal(code=UNREADABLE, message=message))
        return Said(completion_id=asker.completion_id, token=asker.token, part=part)
    return broke(sender, FailureClass.INFRA, UNREADABLE, message)


def is_machines(error: BaseException) -> bool:
    """Whether such an error is the machine's, whatever it was at."""
    named = isinstance(error, OSError | ImportError | MemoryDamaged | torch.AcceleratorError)
    return named or any(word in str(error) for word in OF_DEVICES)


def in_words(error: BaseException, phase: Phase | None) -> tuple[FailureClass, str, str]:
    """(class, code, message) of a failure other than `Untrainable`."""
    if isinstance(error, BaseDiffers):
        return FailureClass.BASE, BASE_DIFFERS, str(error)
    if isinstance(error, BaseRefused):
        return FailureClass.BASE, BASE_BROKEN, str(error)
    if isinstance(error, CheckpointRefused):
        return FailureClass.INFRA, CHECKPOINT_REFUSED, str(error)
    if isinstance(error, DoesNotFit):
        return FailureClass.OOM, "does_not_fit", str(error)
    if phase in DATA_PHASES:
        what = phase.replace("_", " ")
        at = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        kind, why = FailureClass.INFRA, named(error)
        if is_out_of_memory(error):
            kind, why = FailureClass.OOM, f"the engine ran out of memory ({why})."
        words = f"The {what} could not be read and turned into tokens{at}: {why}"
        return kind, ENGINE_ERROR, words
    if is_out_of_memory(error):
        message = (
            "The worker ran out of memory. Lower training.max_length or lora.r, or choose a "
            f"smaller base model. ({str(error) or type(error).__name__})"
        )
        return FailureClass.OOM, "out_of_memory", message
    code = MACHINE_ERROR if is_machines(error) else ENGINE_ERROR
    return FailureClass.INFRA, code, named(error)


def named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
