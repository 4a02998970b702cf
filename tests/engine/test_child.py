"""The engine as its agent sees it: a process and two pipes."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunery.states import FailureClass
from worker.engine.child import Engine, in_words
from worker.protocol import REPORT, Broke, Finished, Line, Ready, Report, Stop, Stopped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60  # seconds, of which imports on a busy machine take most
PARENT = """
import subprocess, sys, time
fds = [int(fd) for fd in sys.argv[1:]]
engine = [sys.executable, "-m", "worker.engine", f"--commands={fds[0]}", f"--reports={fds[1]}"]
print(subprocess.Popen(engine, pass_fds=fds).pid, flush=True)
time.sleep(600)
"""


class Wire:
    """The agent's ends of the two pipes, and the engine's ends until it has them."""

    def __init__(self) -> None:
        self.engine_in, self.commands = os.pipe()
        self.reports, self.engine_out = os.pipe()
        self.unread = b""

    @property
    def fds(self) -> tuple[int, int]:
        return self.engine_in, self.engine_out

    def given_away(self) -> None:
        os.close(self.engine_in)
        os.close(self.engine_out)

    def send(self, line: Line | bytes) -> None:
        text = line if isinstance(line, bytes) else line.model_dump_json().encode()
        os.write(self.commands, text + b"\n")

    def next(self) -> Report:
        end = time.monotonic() + PATIENCE
        while b"\n" not in self.unread:
            ready, _, _ = select.select([self.reports], [], [], max(0, end - time.monotonic()))
            assert ready, "the engine says nothing"
            chunk = os.read(self.reports, 1 << 16)
            assert chunk, "the engine is gone"
            self.unread += chunk
        line, self.unread = self.unread.split(b"\n", 1)
        return REPORT.validate_json(line)

    def until(self, *kinds: type[Line]) -> list[Report]:
        seen = [self.next()]
        while not isinstance(seen[-1], kinds):
            seen.append(self.next())
        return seen

    def close(self) -> None:
        os.close(self.commands)
        os.close(self.reports)


class Running(Wire):
    """An engine process that is ready."""

    def __init__(self) -> None:
        super().__init__()
        engine_in, engine_out = self.fds
        pipes = [f"--commands={engine_in}", f"--reports={engine_out}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker.engine", *pipes],
            pass_fds=self.fds,
            cwd=ROOT,
        )
        self.given_away()
        assert self.next() == Ready(device="cpu")


@pytest.fixture(scope="module")
def engines() -> Iterator[list[Running]]:
    """At most one, kept for the next test that wants one."""
    engines: list[Running] = []
    yield engines
    for engine in engines:
        engine.close()
        assert engine.process.wait(PATIENCE) == 0


@pytest.fixture
def wire(engines: list[Running]) -> Running:
    if not engines:
        engines.append(Running())
    return engines[0]


@pytest.fixture
def endless(make_order: MakeOrder, rows: Rows) -> Train:
    """A job of 500 steps."""
    return make_order(rows, n_epochs=50, batch_size=1)


def test_an_engine_trains_one_job_after_another_as_any_process_would(
    wire: Running, run: Run, make_order: MakeOrder, rows: Rows
) -> None:
    here = run(make_order(rows))[-1]
    for _ in range(2):
        order = make_order(rows)
        wire.send(order)
        reports = wire.until(Finished, Broke)
        assert [line.type for line in reports] == [
            *("noted", "started"),
            *("stepped", "stepped", "stepped", "checkpointed") * 2,
            "finished",
        ]
        assert {(line.job_id, line.token) for line in reports if not isinstance(line, Ready)} == {
            (order.job_id, order.token)
        }
        assert weights(reports[-1]) == weights(here)


def weights(last: Report) -> bytes:
    assert isinstance(last, Finished)
    return (last.folder / "adapter_model.safetensors").read_bytes()


def test_a_stop_ends_the_attempt_at_once_and_a_late_one_nothing(
    wire: Running, endless: Train, make_order: MakeOrder, rows: Rows
) -> None:
    stop = Stop(job_id=endless.job_id, token=endless.token, checkpoint=False)
    wire.send(endless)
    while wire.next().type != "stepped":
        pass
    wire.send(stop)
    reports = wire.until(Stopped, Finished, Broke)
    assert isinstance(reports[-1], Stopped)
    assert len(reports) < 100
    wire.send(stop)
    order = make_order(rows, n_epochs=1)
    wire.send(order)
    last = wire.until(Stopped, Finished, Broke)[-1]
    assert isinstance(last, Finished)
    assert last.token == order.token


def test_a_job_that_waits_is_stopped_before_it_begins(
    wire: Running, endless: Train, make_order: MakeOrder, rows: Rows
) -> None:
    waiting = make_order(rows)
    wire.send(endless)
    wire.send(waiting)
    wire.send(Stop(job_id=waiting.job_id, token=waiting.token, checkpoint=False))
    assert wire.until(Stopped)[-1] == Stopped(job_id=waiting.job_id, token=waiting.token)
    wire.send(Stop(job_id=endless.job_id, token=endless.token, checkpoint=False))
    assert wire.until(Stopped)[-1] == Stopped(job_id=endless.job_id, token=endless.token)


def test_a_bad_job_breaks_alone_and_says_whose_fault_it_is(
    wire: Running, make_order: MakeOrder, rows: Rows, tmp_path: Path
) -> None:
    order = make_order(rows, n_epochs=1)
    (tmp_path / "empty").mkdir()
    wire.send(order.model_copy(update={"base_folder": tmp_path / "empty"}))
    broke = wire.next()
    assert isinstance(broke, Broke)
    assert (broke.failure_class, broke.code) == (FailureClass.INFRA, "base_model_refused")
    assert "holds no .safetensors file" in broke.message

    wire.send(make_order(rows, max_length=4096))
    broke = wire.next()
    assert isinstance(broke, Broke)
    assert (broke.failure_class, broke.code) == (FailureClass.USER, "max_length_over_context")

    wire.send(b'{"type": "train", "job_id": "job-9", "token": 3, "spec": {}}')
    broke = wire.next()
    assert isinstance(broke, Broke)
    assert (broke.job_id, broke.token, broke.code) == ("job-9", 3, "unreadable_command")

    wire.send(order)
    assert isinstance(wire.until(Finished, Broke)[-1], Finished)


def test_an_engine_dies_with_its_parent_even_while_it_imports() -> None:
    """The pipes stay open in this process, so that nothing but the parent's death tells it."""
    wire = Wire()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *map(str, wire.fds)],
        pass_fds=wire.fds,
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    wire.given_away()
    assert parent.stdout is not None
    engine = int(parent.stdout.readline())
    while "libtorch" not in Path(f"/proc/{engine}/maps").read_text():
        time.sleep(0.01)
    parent.kill()
    parent.communicate(timeout=PATIENCE)
    ready, _, _ = select.select([wire.reports], [], [], PATIENCE)
    assert ready
    assert os.read(wire.reports, 1) == b"", "the engine went on without its parent"
    wire.close()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_full_memory_has_its_own_word(error: Exception) -> None:
    code, message = in_words(error)
    assert code == "out_of_memory"
    assert "ran out of memory" in message


def test_a_closed_command_pipe_ends_the_engine() -> None:
    wire = Wire()
    engine = Engine(*wire.fds)
    os.close(wire.commands)
    with pytest.raises(SystemExit) as exit_:
        engine.read_commands(wait=True)
    assert exit_.value.code == 0
    engine.reports.close()
    os.close(wire.engine_in)
    os.close(wire.reports)


def test_sigterm_ends_the_training_and_then_the_engine(
    engines: list[Running], wire: Running, endless: Train
) -> None:
    engines.clear()
    wire.send(endless)
    while wire.next().type != "stepped":
        pass
    wire.process.send_signal(signal.SIGTERM)
    assert isinstance(wire.until(Stopped, Finished, Broke)[-1], Stopped)
    assert wire.process.wait(PATIENCE) == 0
    wire.close()
