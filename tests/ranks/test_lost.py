"""A process of a training is lost at any point: the others end, and another attempt makes the same
of the last checkpoint.
"""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import PLAN
from tests.ranks.forked import ended, run_by, start, take_part
from worker.engine.ranks import together
from worker.protocol import REPORT, Checkpointed, Finished, Report, Train

MakeOrder = Callable[..., Train]
Rows = list[dict[str, Any]]

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def cut_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PLAN.model_copy(update={"micro_tokens": 100, "gpus": 2})
    monkeypatch.setattr("worker.engine.train.plan_of", lambda *_: plan)


def adapter(reports: list[Report]) -> bytes:
    last = reports[-1]
    assert isinstance(last, Finished)
    return (last.folder / "adapter_model.safetensors").read_bytes()


def meetings(order: Train, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often its processes meet from the beginning to the end."""
    counted = order.folder.with_suffix(".counted")
    gathered = together.gathered

    def count(*numbers: int) -> list[list[int]]:
        if together.is_first():
            with counted.open("a") as file:
                file.write(".")
        return gathered(*numbers)

    with monkeypatch.context() as patch:
        patch.setattr(together, "gathered", count)
        run_by(2)(order)
    return len(counted.read_text())


def killed_at(order: Train, victim: int, number: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trains in two processes, of which one ends itself when they are to meet for that time.
    Returns what the first one has reported.
    """
    said = order.folder.with_suffix(".said")
    said.touch()
    gathered, left = together.gathered, number

    def die_or_meet(*numbers: int) -> list[list[int]]:
        nonlocal left
        left -= 1
        if left == 0 and together.is_first() == (victim == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return gathered(*numbers)

    with monkeypatch.context() as patch:
        patch.setattr(together, "gathered", die_or_meet)
        both = [start(partial(take_part, order, rank, 2, said)) for rank in range(2)]
    began = time.monotonic()
    codes = [ended(each) for each in both]
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1, "the other one has noticed, and says so"
    assert time.monotonic() - began < 60
    return said


@pytest.mark.parametrize("victim", [0, 1])
def test_a_training_goes_on_wherever_a_process_was_killed(
    make_order: MakeOrder, rows: Rows, victim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = partial(make_order, rows, valid=rows[:3])
    whole = adapter(run_by(2)(order()))
    in_all = meetings(order(), monkeypatch)
    assert in_all > 10
    for number in range(1, in_all + 1, 4):
        said = killed_at(order(), victim, number, monkeypatch)
        reports = [REPORT.validate_json(line) for line in said.read_text().splitlines()]
        kept = [line.folder for line in reports if isinstance(line, Checkpointed)]
        assert adapter(run_by(2)(order(checkpoint=kept[-1] if kept else None))) == whole
