"""The engine's loop in this process, where a test can make anything go wrong."""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.engine.wire import READY, Wire, weights
from tunery.failpoint import armed
from tunery.states import FailureClass
from worker.engine.child import ALIVE_SECONDS, Engine
from worker.engine.model.base import Base
from worker.engine.training.objectives.supervised import NextToken
from worker.protocol import Alive, Broke, Finished, Ready, Report, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]


@pytest.fixture
def engine(base: Base) -> Iterator[tuple[Wire, Engine]]:
    """An engine in this process, with the base warm. The test closes `commands`."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    wire = Wire()
    engine = Engine(*wire.fds)
    engine.warm.folder, engine.warm.base = base.folder, base
    yield wire, engine
    signal.signal(signal.SIGTERM, on_sigterm)
    engine.reports.close()
    os.close(wire.engine_in)
    os.close(wire.reports)


def broken(wire: Wire, here: Engine) -> Broke:
    """Runs it until the agent has hung up; what it said of the job by then."""
    with pytest.raises(SystemExit):
        here.run()
    broke = wire.until(Broke)[-1]
    assert isinstance(broke, Broke)
    return broke


def allocate() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def allocate_outside_torch() -> None:
    bytearray(1 << 60)


def allocate_on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def fail_to_pin() -> None:
    raise torch.AcceleratorError("CUDA error: out of memory")


def start_cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`")


@pytest.mark.parametrize(
    "too_much",
    [allocate, allocate_outside_torch, allocate_on_a_gpu, fail_to_pin, start_cublas],
)
def test_a_full_memory_has_its_own_class_and_the_message_says_what_to_lower(
    engine: tuple[Wire, Engine],
    make_order: MakeOrder,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    too_much: Callable[[], None],
) -> None:
    wire, here = engine

    commands = [wire.commands]

    def fail_as_the_agent_hangs_up() -> None:
        while commands:
            os.close(commands.pop())
        too_much()

    monkeypatch.setitem(armed, "engine.step", fail_as_the_agent_hangs_up)
    wire.send(make_order(rows))
    broke = broken(wire, here)
    assert (broke.failure_class, broke.code) == (FailureClass.OOM, "out_of_memory")
    assert "Lower training.max_length or lora.r, or choose a smaller base model" in broke.message
    assert here.warm.base is None


class Panic(BaseException):
    """As tokenizers raises it: no Exception."""


@pytest.mark.parametrize(
    ("fault", "failure_class"), [(Panic, FailureClass.INFRA), (MemoryError, FailureClass.OOM)]
)
def test_a_file_that_breaks_the_tokenizer_is_named_with_its_line_and_costs_no_engine(
    engine: tuple[Wire, Engine],
    make_order: MakeOrder,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[BaseException],
    failure_class: FailureClass,
) -> None:
    wire, here = engine

    def encode(*_: object) -> None:
        os.close(wire.commands)
        raise fault("in the tokenizer")

    monkeypatch.setattr(NextToken, "encode", encode)
    wire.send(make_order(rows))
    broke = broken(wire, here)
    assert (broke.failure_class, broke.phase) == (failure_class, "training_file")
    assert "could not be read and turned into tokens at line 1: " in broke.message
    assert f"{fault.__name__}: in the tokenizer" in broke.message


def crash() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def diverge() -> None:
    """The rate of its spec does that."""


@pytest.mark.parametrize(
    ("goes_wrong", "code"),
    [
        (diverge, "loss_not_finite"),
        (allocate, "out_of_memory"),
        (crash, "machine_error"),
    ],
)
def test_what_goes_wrong_in_one_job_never_touches_the_next(
    engine: tuple[Wire, Engine],
    run: Run,
    make_order: MakeOrder,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    goes_wrong: Callable[[], None],
    code: str,
) -> None:
    """From the second step on: the first has made its adapter huge."""
    elsewhere = run(make_order(rows))[-1]
    wire, here = engine
    spoilt, sound = make_order(rows, learning_rate=1e30), make_order(rows)

    def go_wrong() -> None:
        assert here.current
        if here.current.token == spoilt.token and next(steps) > 1:
            goes_wrong()

    steps = itertools.count(1)
    monkeypatch.setitem(armed, "engine.step", go_wrong)
    monkeypatch.setitem(armed, "adapter.sealed", lambda: os.close(wire.commands))
    wire.send(spoilt)
    wire.send(sound)
    broke = broken(wire, here)
    assert (broke.token, broke.code) == (spoilt.token, code)
    assert weights(wire.until(Finished, Broke)[-1]) == weights(elsewhere)


def test_a_fault_is_told_though_the_device_is_lost_for_good(
    engine: tuple[Wire, Engine], make_order: MakeOrder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing can be freed on it either."""
    wire, here = engine
    monkeypatch.setitem(armed, "engine.step", crash)
    monkeypatch.setattr("worker.engine.model.base.free_cached", crash)
    wire.send(make_order(rows))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        here.run()
    assert isinstance(wire.until(Broke)[-1], Broke)


def test_a_base_that_takes_long_to_load_is_no_engine_that_hangs(
    engine: tuple[Wire, Engine], make_order: MakeOrder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, here = engine

    def load_slowly() -> None:
        until = time.monotonic() + 2.5 * ALIVE_SECONDS
        while time.monotonic() < until:
            sum(range(1000))
        os.close(wire.commands)

    monkeypatch.setitem(armed, "engine.loading", load_slowly)
    wire.send(make_order(rows))
    with pytest.raises(SystemExit):
        here.run()
    assert os.read(wire.reports, 1 << 16).count(b'"alive"') >= 2


def test_an_engine_on_a_gpu_that_cannot_be_used_trains_nothing_and_says_why(
    engine: tuple[Wire, Engine], make_order: MakeOrder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, here = engine
    monkeypatch.setattr("torch.version.cuda", "13.0")

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12080).")

    monkeypatch.setattr("torch.cuda.init", init)
    wire.send(make_order(rows))
    here.read_commands(wait=True)
    os.close(wire.commands)
    with pytest.raises(SystemExit):
        here.run()
    ready, *_, broke = wire.until(Broke)
    assert isinstance(ready, Ready)
    assert "needs a driver of its own age" in (ready.unusable or "")
    assert isinstance(broke, Broke)
    assert (broke.failure_class, broke.message) == (FailureClass.INFRA, ready.unusable)


def test_a_closed_command_pipe_ends_the_engine(engine: tuple[Wire, Engine]) -> None:
    wire, here = engine
    os.close(wire.commands)
    with pytest.raises(SystemExit) as exit_:
        here.read_commands(wait=True)
    assert exit_.value.code == 0


def test_an_engine_that_has_nothing_to_report_says_once_a_second_that_it_lives(
    engine: tuple[Wire, Engine], make_order: MakeOrder, rows: Rows
) -> None:
    wire, here = engine
    order = make_order(rows)
    here.reported = began = time.monotonic()
    while time.monotonic() < began + 1.5 * ALIVE_SECONDS:
        here.stop_if_asked(order)
        time.sleep(0.01)
    seconds = time.monotonic() - began
    here.report(READY)
    os.close(wire.commands)
    said = list(iter(wire.next, READY))
    assert set(said) == {Alive(job_id=order.job_id, token=order.token)}
    assert len(said) <= seconds / ALIVE_SECONDS
