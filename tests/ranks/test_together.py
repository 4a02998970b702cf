"""What one process alone comes to, all do: its number, its weights, its want of memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from tests.engine.conftest import PLAN, Run
from tests.ranks.forked import run_by
from tunery.plan.memory import Plan
from tunery.spec import Lora
from worker.engine.errors import StopAsked
from worker.engine.ranks import together
from worker.engine.training.objectives.supervised import NextToken
from worker.protocol import Checkpointed, Finished, Noted, Report, Stepped, Train

MakeOrder = Callable[..., Train]
Rows = list[dict[str, Any]]

pytestmark = pytest.mark.long


@pytest.fixture
def plan() -> Plan:
    return PLAN.model_copy(update={"micro_tokens": 100, "gpus": 2})


@pytest.fixture(autouse=True)
def cut_for_two(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.train.plan_of", lambda *_: plan)


def test_all_weights_become_what_they_become_in_one_process(
    run: Run, make_order: MakeOrder, rows: Rows, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plan.model_copy(
        update={"quantization": "none", "dequantized": False, "checkpointing": True}
    )
    monkeypatch.setattr("worker.engine.train.plan_of", lambda *_: whole)
    order = partial(make_order, rows, lora=None, quantization="none", learning_rate=1e-3)
    assert losses_of(run_by(2)(order())) == pytest.approx(losses_of(run(order())), rel=1e-5)


def test_if_one_runs_out_of_memory_all_take_the_step_again_in_smaller_parts(
    run: Run, make_order: MakeOrder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, failed = NextToken.score, 0

    def too_much(self: NextToken, slot: Any, piece: Any) -> Any:
        nonlocal failed
        if slot.step == 2 and not failed and not together.is_first():
            failed = 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(self, slot, piece)

    monkeypatch.setattr(NextToken, "score", too_much)
    no_masks = Lora(r=4, alpha=8, dropout=0.0)  # so that no cut makes a difference
    order = partial(make_order, rows, micro_batch_size=2, lora=no_masks)
    found = run_by(2)(order())
    assert isinstance(found[-1], Finished)
    told = [line.message for line in found if isinstance(line, Noted) and line.level == "warn"]
    assert any("Step 3 ran out of memory" in message for message in told)
    monkeypatch.setattr(NextToken, "score", score)
    assert losses_of(found) == pytest.approx(losses_of(run(order())), rel=1e-6)


def stop_at(step: int) -> Callable[[list[Report]], None]:
    def stop(reports: list[Report]) -> None:
        if sum(isinstance(line, Stepped) for line in reports) == step:
            raise StopAsked(checkpoint=True)

    return stop


def test_two_processes_are_gone_on_with_by_four_and_four_by_three(
    make_order: MakeOrder, rows: Rows
) -> None:
    order = partial(make_order, rows, valid=rows[:3])
    whole = run_by(2)(order())
    *_, kept = run_by(2, stop_at(2))(order())
    assert isinstance(kept, Checkpointed)
    *_, kept = run_by(4, stop_at(2))(order(checkpoint=kept.folder))
    assert isinstance(kept, Checkpointed)
    assert kept.metrics.step == 4
    last = run_by(3)(order(checkpoint=kept.folder))
    losses = losses_of(whole)
    for step, loss in losses_of(last).items():
        assert loss == pytest.approx(losses[step], abs=1e-6, rel=1e-6)


def losses_of(reports: list[Report]) -> dict[int, float | None]:
    stepped = [line.metrics for line in reports if isinstance(line, Stepped)]
    return {metrics.step: metrics.train_loss for metrics in stepped}
