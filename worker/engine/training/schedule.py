"""The learning rate of each step."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from transformers import get_scheduler

from tunery.spec import Scheduler, TrainingSpec

# Of the peak, where "cosine_with_min_lr" ends if nothing else is named.
LEAST_SHARE = 0.1
# Of the steps, those in which "warmup_stable_decay" falls (Hu et al. 2024, section 4).
DECAY_SHARE = 0.1
# Where "polynomial" ends in transformers.
POLYNOMIAL_END = 1e-7


def learning_rate(step: int, total_steps: int, spec: TrainingSpec) -> float:
    """The rate of the step after `step` steps. All but "constant" begin with a linear warm-up,
    whose first step has a rate already; then each goes as transformers has it by that name.
    """
    name, peak = spec.lr_scheduler, spec.learning_rate
    warmup = warmup_of(spec, total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if name == "linear":
        return peak * (total_steps - step) / (total_steps - warmup)
    least = LEAST_SHARE if spec.min_lr_ratio is None else spec.min_lr_ratio
    return peak * course(name, peak, warmup, total_steps, least)(step)


def warmup_of(spec: TrainingSpec, total_steps: int) -> int:
    """In steps, all of which may be it."""
    if spec.lr_scheduler == "constant":
        return 0
    if spec.warmup_steps is not None:
        return min(spec.warmup_steps, total_steps)
    return math.ceil(spec.warmup_ratio * total_steps)


@lru_cache
def course(
    name: Scheduler, peak: float, warmup: int, total_steps: int, least: float
) -> Callable[[int], float]:
    """The share of the peak after so many steps, once it is warmed up."""
    settings: dict[str, dict[str, Any]] = {
        "cosine_with_min_lr": {"min_lr_rate": least},
        "polynomial": {"lr_end": min(POLYNOMIAL_END, LEAST_SHARE * peak)},
        "warmup_stable_decay": {
            "num_decay_steps": min(math.ceil(DECAY_SHARE * total_steps), total_steps - warmup)
        },
    }
    scheduler = get_scheduler(
        name,
        torch.optim.SGD([torch.zeros(1)], lr=peak),
        num_warmup_steps=warmup,
        num_training_steps=total_steps,
        scheduler_specific_kwargs=settings.get(name),
    )
    share: Callable[[int], float] = scheduler.lr_lambdas[0]
    return share
