"""The loop: what it reports, where it stops, and how it cuts its steps."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.conftest import LOSS_RTOL, same_metrics
from tunery.failpoint import armed
from tunery.measured import Metrics
from tunery.plan.memory import Plan
from tunery.spec import Lora
from worker.engine import train as loop
from worker.engine.data.batches import Batch, epoch_order
from worker.engine.errors import Untrainable
from worker.engine.model.base import WarmBase
from worker.engine.training.forward import score
from worker.engine.training.objectives import supervised
from worker.engine.training.schedule import learning_rate
from worker.engine.training.slot import Slot, trained_parameters
from worker.engine.training.step import read_steps
from worker.protocol import Noted, Report, Started, Stepped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]


def go_on() -> None:
    """Nobody asks to stop."""


def test_a_job_reports_base_loss_each_step_and_validation_at_each_epoch_end(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]]
) -> None:
    reports = run(make_order(rows, valid=rows[:3]))
    assert [line.type for line in reports] == [
        *("noted", "noted", "noted", "noted", "started"),
        *("stepped", "stepped", "stepped", "checkpointed"),
        *("stepped", "stepped", "stepped", "checkpointed"),
        "finished",
    ]
    plan, noted = reports[2:4]
    assert isinstance(plan, Noted)
    assert plan.data is not None
    assert Plan.model_validate(plan.data["plan"]).quantization == "nf4"
    assert plan.data["examined"]["way"] == "packed"
    assert isinstance(noted, Noted)
    assert noted.data is not None
    assert noted.data["base_valid_loss"] == pytest.approx(math.log(1024), abs=0.5)
    started = reports[4]
    assert isinstance(started, Started)
    assert (started.progress.step, started.progress.total_steps) == (0, 6)
    steps = [line for line in reports if isinstance(line, Stepped)]
    assert [line.metrics.step for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line.metrics.valid_loss is not None for line in steps] == [False, False, True] * 2
    assert steps[-1].metrics.valid_loss is not None
    assert steps[-1].metrics.valid_loss < noted.data["base_valid_loss"] - 0.2
    assert steps[-1].progress.seconds_left == 0
    first = reports[0]
    assert isinstance(first, Noted)
    assert first.data is not None
    assert steps[-1].progress.trained_tokens == 2 * first.data["trained_tokens"]


def test_metrics_are_read_now_and_then_and_none_is_left_out(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first step, at the end of an epoch, and when it is time; each with its own tokens."""
    read_at_once = [line for line in run(make_order(rows)) if isinstance(line, Stepped)]
    reads: list[int] = []

    def read(slot: Slot, *how: Any) -> list[tuple[Metrics, int]]:
        reads.append(len(slot.unread))
        return read_steps(slot, *how)

    monkeypatch.setattr(loop, "READ_SECONDS", 3600)
    monkeypatch.setattr(loop, "read_steps", read)
    seldom = [line for line in run(make_order(rows)) if isinstance(line, Stepped)]
    assert reads == [1, 2, 3]
    assert same_metrics([line.metrics for line in seldom], [line.metrics for line in read_at_once])
    assert [line.progress.trained_tokens for line in seldom] == [
        line.progress.trained_tokens for line in read_at_once
    ]


def test_each_step_tells_its_rate_its_epoch_and_its_pace(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]]
) -> None:
    order = make_order(rows)
    steps = [line for line in run(order) if isinstance(line, Stepped)]
    total = len(steps)
    assert [line.metrics.learning_rate for line in steps] == [
        learning_rate(step, total, order.spec) for step in range(total)
    ]
    assert [line.metrics.epoch for line in steps] == [
        pytest.approx(step * order.spec.n_epochs / total) for step in range(1, total + 1)
    ]
    paces = [line.pace for line in steps]
    assert 0 < paces[0].elapsed_seconds < paces[-1].elapsed_seconds
    # All tokens count, and it trains those of the answers alone.
    trained = steps[0].progress.trained_tokens / paces[0].elapsed_seconds
    assert (paces[0].tokens_per_second or 0) > trained
    assert all(pace.memory_bytes > 1 << 20 for pace in paces)


def test_a_loss_that_is_not_a_number_is_the_users_and_names_step_and_lines(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]]
) -> None:
    order = make_order(rows[:3], learning_rate=1e30)
    words = r"Step 2: the loss is nan.* lines 1, 2, 3 .*Choose a smaller learning_rate_multiplier"
    with pytest.raises(Untrainable, match=words) as caught:
        run(order)
    assert caught.value.code == "loss_not_finite"


def test_an_adapter_whose_validation_loss_is_not_a_number_is_not_published(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]]
) -> None:
    """Its last step was sound, and has made its weights huge."""
    order = make_order(rows[:3], valid=rows[:2], n_epochs=1, learning_rate=1e30)
    with pytest.raises(Untrainable, match="After step 1 the validation loss is nan"):
        run(order)
    assert list(order.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda nll: nll * torch.nan, "Step 4: the loss is nan"),
        (lambda nll: nll + (nll - nll.detach()).sqrt(), r"Step 4: the loss is \d.* norm (nan|inf)"),
    ],
)
def test_the_steps_before_one_that_is_not_finite_are_told(
    bases: WarmBase,
    make_order: MakeOrder,
    rows: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Tensor], Tensor],
    words: str,
) -> None:
    """Though it is found with them, later; and nothing is kept of the adapter that it spoilt."""

    def spoilt(slot: Slot, batch: Batch) -> tuple[Tensor, Tensor]:
        nll, right = score(slot, batch)
        return spoil(nll) if slot.step == 3 else nll, right

    monkeypatch.setattr(loop, "READ_SECONDS", 3600)
    monkeypatch.setattr(supervised, "score", spoilt)
    order, reports = make_order(rows, batch_size=2), list[Report]()
    with pytest.raises(Untrainable, match=words):
        loop.train(order, bases, reports.append, go_on)
    assert [line.metrics.step for line in reports if isinstance(line, Stepped)] == [1, 2, 3]
    assert list(order.folder.iterdir()) == []


def test_a_step_that_runs_out_of_memory_is_cut_smaller_and_says_so(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until no micro-step is over the limit, and once more behind one that went well; the result is
    that of the uncut training.
    """
    whole = [
        line.metrics for line in run(make_order(rows, lora=Lora())) if isinstance(line, Stepped)
    ]
    sizes: list[int] = []
    behind_one = iter([True])

    def limited(slot: Slot, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.ids.numel() > 100 or (sizes and next(behind_one, False)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(batch.ids.numel())
        return score(slot, batch)

    monkeypatch.setattr(supervised, "score", limited)
    reports = run(make_order(rows, lora=Lora()))
    cuts = [line for line in reports if isinstance(line, Noted) and line.level == "warn"]
    assert cuts[0].message.startswith("Step 1 ran out of memory")
    assert cuts[-1].data is not None
    assert Plan.model_validate(cuts[-1].data["plan"]).micro_tokens <= 100
    assert max(sizes) <= 100
    cut = [line.metrics for line in reports if isinstance(line, Stepped)]
    for one, other in zip(cut, whole, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=10 * LOSS_RTOL)


def test_a_plan_near_the_limit_is_tried_on_its_largest_micro_step_first(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setitem(armed, "engine.step", lambda: taken.append(1))
    tried: list[tuple[int, int]] = []

    def watched(slot: Slot, batch: Batch) -> tuple[Tensor, Tensor]:
        tried.append((len(taken), batch.ids.numel()))
        states = [slot.optimizer.state[p].keys() for p in trained_parameters(slot.model).values()]
        assert all(state >= {"exp_avg", "exp_avg_sq"} for state in states)
        return score(slot, batch)

    monkeypatch.setattr(supervised, "score", watched)
    monkeypatch.setattr(loop, "TIGHT", 0)
    run(make_order(rows, n_epochs=1))
    (steps_before, largest), *rest = tried
    assert steps_before == 0
    assert largest >= max(size for _, size in rest)


def test_an_order_is_a_permutation_fixed_by_seed_and_epoch() -> None:
    order = epoch_order(100, 7, 0)
    assert sorted(order) == list(range(100))
    torch.manual_seed(0)
    assert epoch_order(100, 7, 0) == order
    assert epoch_order(100, 7, 1) != order
    assert epoch_order(100, 8, 0) != order
