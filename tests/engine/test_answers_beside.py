"""What the engine answers between the micro-steps of a training."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from tests.engine.asking import Asking, Heard, complete
from tests.engine.conftest import MakeOrder, Run, same_adapter
from worker.engine.answers import answering
from worker.engine.answers.rows import Voice
from worker.engine.child import Engine
from worker.engine.device import device_memory
from worker.engine.model.base import Base, WarmBase
from worker.engine.train import train
from worker.protocol import Entered, Finished, Report

if TYPE_CHECKING:
    from collections.abc import Callable

Rows = list[dict[str, Any]]
ADAPTER = "adapter_model.safetensors"


class Beside(Asking):
    """Asks as soon as a training takes steps, and answers whenever it may be stopped."""

    def __init__(self, warm: WarmBase, commands: list[Any], share: float) -> None:
        super().__init__(warm, share)
        self.commands = commands
        self.heard: list[Heard] = []
        self.trains = False
        self.times = 0

    def report(self, report: Report) -> None:
        if isinstance(report, Entered):
            self.trains = report.phase == "training"
        if isinstance(report, Finished):
            self.finished = report

    def stop_if_asked(self) -> None:
        if self.trains:
            if not self.heard:
                self.heard = [self.take(command) for command in self.commands]
            self.answers.between_steps()
            self.times += 1


def trained(beside: Beside, order: Any, warm: WarmBase) -> Path:
    train(order, warm, beside.report, beside.stop_if_asked)
    return beside.finished.folder


def test_a_training_is_the_same_and_so_are_the_answers_beside_it(
    bases: WarmBase, make_order: MakeOrder, run: Run, rows: Rows, tiny: Path
) -> None:
    settings: dict[str, Any] = {"valid": rows[:2], "samples": 1}
    quiet = run(make_order(rows, **settings))[-1]
    assert isinstance(quiet, Finished)

    def asked() -> list[Any]:
        how = {"quantization": "nf4", "max_tokens": 30, "top_logprobs": 0}
        return [
            complete(tiny, "The sea", **how),
            complete(tiny, "The waves are", adapter=quiet.folder, n=2, **how),
            complete(tiny, "A sea", seed=1, **(how | {"temperature": 1.0})),
        ]

    beside = Beside(bases, asked(), share=1e6)
    folder = trained(beside, make_order(rows, **settings), bases)
    files = [(each / ADAPTER).read_bytes() for each in (folder, quiet.folder)]
    assert same_adapter(*files)
    assert beside.times > 5
    assert all(each.over for each in beside.heard)
    idle = Asking(bases).all(*asked())
    assert [each.ids for each in beside.heard] == [each.ids for each in idle]
    assert idle[0].ids != idle[1].ids


def test_another_base_or_precision_is_released_beside_a_training(
    bases: WarmBase, make_order: MakeOrder, rows: Rows, tiny: Path
) -> None:
    commands = [
        complete(tiny, "The sea", quantization="int8"),
        complete(tiny, "The sea", base_revision="r2"),
        complete(tiny, "The sea"),
    ]
    beside = Beside(bases, commands, share=1e6)
    trained(beside, make_order(rows, n_epochs=1), bases)
    *others, served = beside.heard
    assert all(each.parts[-1].released for each in others)
    assert served.text()


def test_what_takes_too_much_memory_beside_a_training_is_released_as_it_begins(
    base: Base, make_order: MakeOrder, rows: Rows, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (commands, _), (_, reports) = ends = os.pipe(), os.pipe()
    engine = Engine(commands, reports)
    engine.warm.folder, engine.warm.base = base.folder, base
    long, short = (complete(tiny, "The sea " * count, max_tokens=50) for count in (40, 10))
    for command in (long, short):
        engine.answers.take(command)
    while len(engine.answers.rows) < 2:
        engine.answers.work()
    monkeypatch.setattr(answering, "MEMORY_BESIDE", engine.answers.taken() / device_memory() / 2)
    engine.current = make_order(rows)
    engine.begin(engine.current)
    assert [answer.of.command for answer in engine.answers.rows] == [short]
    engine.reports.close()
    for end in (*ends[0], ends[1][0]):
        os.close(end)


def test_answers_that_fail_leave_the_training_going(
    bases: WarmBase,
    make_order: MakeOrder,
    run: Run,
    rows: Rows,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet = run(make_order(rows, n_epochs=1))[-1]
    assert isinstance(quiet, Finished)
    before: Callable[..., Tensor] = Voice.states

    def failing(voice: Any, states: Any, ids: Tensor) -> Tensor:
        out = before(voice, states, ids)
        if states.longest > 9:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return out

    monkeypatch.setattr(Voice, "states", failing)
    commands = [complete(tiny, "The sea", max_tokens=20), complete(tiny, "The sea " * 9)]
    beside = Beside(bases, commands, share=1e6)
    folder = trained(beside, make_order(rows, n_epochs=1), bases)
    begun, unread = beside.heard
    assert begun.refusal.code == "answer_interrupted"
    assert unread.parts[-1].released
    files = [(each / ADAPTER).read_bytes() for each in (folder, quiet.folder)]
    assert same_adapter(*files)


class Clock:
    """Time that goes by as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.usefixtures("base")
def test_answers_take_their_share_of_the_time_and_what_was_saved_up(
    bases: WarmBase, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(answering, "time", clock)
    asking = Asking(bases, share=0.05)
    before: Callable[..., Tensor] = Voice.states
    answered = 0.0

    def slow(voice: Any, states: Any, ids: Tensor) -> Tensor:
        nonlocal answered
        clock.now += 0.3
        answered += 0.3
        return before(voice, states, ids)

    monkeypatch.setattr(Voice, "states", slow)
    heard = asking.take(complete(tiny, "The sea", max_tokens=900))
    for step in range(400):
        clock.now += 1.0
        asking.answers.between_steps()
        if step == 0:
            assert len(heard.parts) > 1, "the first tokens come at once"
        assert answered <= 0.05 * (step + 1) + answering.MOST_CREDIT_SECONDS + 0.3
    assert answered >= 0.05 * 400
