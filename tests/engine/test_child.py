"""The engine as its agent sees it: a process and two pipes."""

import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engine.asking import complete
from tests.engine.conftest import on_base, same_adapter
from tests.engine.wire import PATIENCE, ROOT, Running, Wire, weights
from tunery.states import FailureClass
from worker.protocol import (
    Attempt,
    Broke,
    Checkpointed,
    Finished,
    Noted,
    Report,
    Said,
    Serves,
    Stepped,
    Stop,
    Stopped,
    Train,
)

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]
PARENT = """
import subprocess, sys, time
fds = [int(fd) for fd in sys.argv[1:]]
engine = [sys.executable, "-m", "worker.engine", f"--commands={fds[0]}", f"--reports={fds[1]}"]
print(subprocess.Popen(engine, pass_fds=fds).pid, flush=True)
time.sleep(600)
"""


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
    """A job of one epoch with 500 steps."""
    return make_order(rows * 50, n_epochs=1, batch_size=1)


def test_an_engine_trains_one_job_after_another_as_any_process_would(
    wire: Running, run: Run, make_order: MakeOrder, rows: Rows
) -> None:
    here = run(make_order(rows))[-1]
    for _ in range(2):  # the second time its rows are known
        order = make_order(rows).model_copy(update={"project_id": "project-1"})
        wire.send(order)
        reports = wire.until(Finished, Broke)
        assert [line.type for line in reports] == [
            *("noted", "noted", "started"),
            *("stepped", "stepped", "stepped", "checkpointed") * 2,
            "finished",
        ]
        assert {(line.job_id, line.token) for line in reports if isinstance(line, Attempt)} == {
            (order.job_id, order.token)
        }
        assert same_adapter(weights(reports[-1]), weights(here))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_stop_ends_the_attempt_at_once_with_a_checkpoint_only_if_asked(
    wire: Running, endless: Train, *, checkpoint: bool
) -> None:
    wire.send(endless)
    seen = wire.until(Stepped)
    wire.send(Stop(job_id=endless.job_id, token=endless.token, checkpoint=checkpoint))
    seen += wire.until(Stopped, Finished, Broke)
    assert isinstance(seen[-1], Stopped)
    steps = [line.metrics.step for line in seen if isinstance(line, Stepped)]
    assert len(steps) < 100
    kept = [line.metrics.step for line in seen if isinstance(line, Checkpointed)]
    assert kept == (steps[-1:] if checkpoint else [])


def test_it_answers_when_idle_and_beside_a_training_on_the_same_base(
    wire: Running, endless: Train, tiny: Path
) -> None:
    wire.send(complete(tiny, "The sea", completion_id="idle", cache=endless.cache))
    assert said_of("idle", wire)
    wire.send(endless)
    while not (isinstance(line := wire.next(), Serves) and line.held and line.base_model):
        assert not isinstance(line, Finished | Broke)
    wire.send(complete(tiny, "The sea", completion_id="beside", quantization=line.quantization))
    assert said_of("beside", wire)
    wire.send(b'{"type": "complete", "completion_id": "unread", "token": 2}')
    refused = wire.until(Said)[-1]
    assert isinstance(refused, Said)
    assert refused.part.refusal
    assert (refused.completion_id, refused.part.refusal.code) == ("unread", "unreadable_command")
    wire.send(Stop(job_id=endless.job_id, token=endless.token, checkpoint=False))
    wire.until(Stopped)
    assert wire.next() == line.model_copy(update={"held": False})


def test_an_answer_that_a_job_would_break_off_is_ended_first(
    wire: Running, make_order: MakeOrder, rows: Rows, tiny: Path, tmp_path: Path
) -> None:
    other = on_base(make_order(rows, n_epochs=1), shutil.copytree(tiny, tmp_path / "other"))
    wire.send(complete(tiny, "The sea", completion_id="half", cache=other.cache, max_tokens=12))
    while not isinstance(wire.next(), Said):
        pass
    wire.send(other)
    assert said_of("half", wire)
    wire.until(Finished)


def said_of(completion_id: str, wire: Wire) -> str:
    """What it is answered, which comes before any training ends."""
    text = ""
    while True:
        line = wire.next()
        assert not isinstance(line, Finished | Broke | Stopped)
        if isinstance(line, Said) and line.completion_id == completion_id:
            assert line.part.refusal is None
            assert not line.part.released
            text += "".join(piece.text for piece in line.part.pieces)
            if line.part.usage:
                return text


def test_a_stop_ends_nothing_that_comes_later(
    wire: Running, endless: Train, make_order: MakeOrder, rows: Rows
) -> None:
    stop = Stop(job_id=endless.job_id, token=endless.token, checkpoint=False)
    wire.send(endless)
    wire.until(Stepped)
    wire.send(stop)
    wire.until(Stopped)
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
    broke = wire.until(Broke)[-1]
    assert isinstance(broke, Broke)
    assert (broke.failure_class, broke.code) == (FailureClass.BASE, "base_model_differs")
    assert broke.message.endswith("registered: chat_template.jinja is missing."), "no folder"

    wire.send(make_order(rows, max_length=4096))
    broke = wire.until(Broke)[-1]
    assert isinstance(broke, Broke)
    assert (broke.failure_class, broke.code) == (FailureClass.USER, "max_length_over_context")

    wire.send(b'{"type": "train", "job_id": "job-9", "token": 3, "spec": {}}')
    broke = wire.until(Broke)[-1]
    assert isinstance(broke, Broke)
    assert (broke.job_id, broke.token, broke.code) == ("job-9", 3, "unreadable_command")

    wire.send(order)
    assert isinstance(wire.until(Finished, Broke)[-1], Finished)


def until_it_imports(engine: int) -> None:
    while "libtorch" not in Path(f"/proc/{engine}/maps").read_text():
        time.sleep(0.01)


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
    until_it_imports(engine)
    parent.kill()
    parent.communicate(timeout=PATIENCE)
    ready, _, _ = select.select([wire.reports], [], [], PATIENCE)
    assert ready
    assert os.read(wire.reports, 1) == b"", "the engine went on without its parent"
    wire.close()


@contextmanager
def file_limit(process: subprocess.Popen[bytes], size: int) -> Iterator[None]:
    """No file of the process may grow beyond `size` bytes: its disk is full there."""
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    yield
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_finds_no_room_is_told_and_the_training_goes_on(
    wire: Running, make_order: MakeOrder, rows: Rows
) -> None:
    order = make_order(rows, n_epochs=50)
    wire.send(order)
    kept = wire.until(Checkpointed)[-1]
    assert isinstance(kept, Checkpointed)
    with file_limit(wire.process, 50_000):  # the adapter fits, the optimizer does not
        told = wire.until(Noted)[-1]
        wire.until(Stepped)
    wire.send(Stop(job_id=order.job_id, token=order.token, checkpoint=False))
    wire.until(Stopped)
    assert isinstance(told, Noted)
    assert told.data is not None
    step = told.data["step"]
    assert told.level == "warn"
    assert told.message == (
        f"The checkpoint of step {step} could not be kept: the worker's disk is full (File too "
        f"large); that of step {step - 3} stands."
    )
    names = {path.name for path in order.folder.iterdir()}
    assert f"checkpoint-{step - 3}" in names
    assert not names & {f"checkpoint-{step}", f".checkpoint-{step}"}


def test_an_adapter_that_finds_no_room_is_the_machines_failure_and_leaves_nothing(
    wire: Running, make_order: MakeOrder, rows: Rows
) -> None:
    order = make_order(rows, n_epochs=1)
    with file_limit(wire.process, 30_000):
        wire.send(order)
        broke = wire.until(Finished, Broke)[-1]
    assert isinstance(broke, Broke)
    assert (broke.failure_class, broke.code) == (FailureClass.INFRA, "disk_full")
    assert broke.message.startswith("The result could not be written: the worker's disk is full")
    assert list(order.folder.iterdir()) == []


def test_an_engine_writes_its_stacks_to_its_log_when_asked() -> None:
    """At any time from its first moments on: here while it imports."""
    wire = Wire()
    engine = subprocess.Popen(
        [sys.executable, "-m", "worker.engine", *wire.arguments],
        pass_fds=wire.fds,
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    wire.given_away()
    until_it_imports(engine.pid)
    engine.send_signal(signal.SIGUSR1)
    assert engine.stderr is not None
    while not (line := engine.stderr.readline()).startswith(b"Current thread"):
        assert line, "the engine is gone"
    engine.kill()
    engine.communicate(timeout=PATIENCE)
    wire.close()


def test_sigterm_keeps_the_training_and_then_ends_the_engine(
    engines: list[Running], wire: Running, endless: Train
) -> None:
    engines.clear()
    wire.send(endless)
    seen = wire.until(Stepped)
    wire.process.send_signal(signal.SIGTERM)
    *_, stepped, kept, stopped = seen + wire.until(Stopped, Finished, Broke)
    assert isinstance(stopped, Stopped)
    assert isinstance(kept, Checkpointed)
    assert isinstance(stepped, Stepped)
    assert kept.metrics == stepped.metrics
    assert wire.process.wait(PATIENCE) == 0
    wire.close()
