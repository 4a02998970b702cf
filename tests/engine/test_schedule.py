"""The learning rates against transformers' own."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from transformers import get_scheduler

from tunery.spec import Scheduler, TrainingSpec
from worker.engine.training.schedule import learning_rate

MakeOrder = Callable[..., Any]
STEPS, WARM_UP = 40, 0.11
NEEDED: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 4},
}


@pytest.fixture
def spec(make_order: MakeOrder, rows: list[dict[str, Any]]) -> TrainingSpec:
    made: TrainingSpec = make_order(rows, learning_rate=0.3, warmup_ratio=WARM_UP).spec
    return made


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler:UserWarning")
@pytest.mark.parametrize(
    ("name", "least"),
    [*((name, None) for name in get_args(Scheduler)), ("cosine_with_min_lr", 0.3)],
)
def test_after_its_warm_up_each_schedule_is_that_of_transformers(
    spec: TrainingSpec, name: Scheduler, least: float | None
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    warmup = math.ceil(WARM_UP * STEPS)
    theirs = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=STEPS,
        scheduler_specific_kwargs={"min_lr_rate": least} if least else NEEDED.get(name),
    )
    spec = spec.model_copy(update={"lr_scheduler": name, "min_lr_ratio": least})
    for step in range(STEPS):
        if step >= warmup:
            ours = learning_rate(step, STEPS, spec)
            assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        elif name != "constant":
            assert learning_rate(step, STEPS, spec) == pytest.approx(0.3 * (step + 1) / warmup)
        theirs.step()


@pytest.mark.parametrize("name", get_args(Scheduler))
def test_the_shortest_trainings_and_smallest_rates_have_one_too(
    spec: TrainingSpec, name: Scheduler
) -> None:
    for ratio, peak in ((0.0, 1e-9), (0.9, 1e-9)):
        settings = {"lr_scheduler": name, "warmup_ratio": ratio, "learning_rate": peak}
        short = spec.model_copy(update=settings)
        for steps in (1, 2):
            assert 0 < learning_rate(0, steps, short) <= peak


def test_the_rate_warms_up_to_its_peak_and_falls_to_zero(spec: TrainingSpec) -> None:
    """To the bit as ever: trainings are resumed by another version."""
    spec = spec.model_copy(update={"learning_rate": 1.0, "warmup_ratio": 0.15})
    rates = [learning_rate(step, 20, spec) for step in range(20)]
    assert rates == [1 / 3, 2 / 3, 1, *((20 - step) / 17 for step in range(3, 20))]
    assert learning_rate(0, 1, spec) == 1
