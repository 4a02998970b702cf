"""Which step's weights are the best on the validation file, and when no better ones are awaited."""

from collections.abc import Sequence

from tunery.measured import Metrics
from tunery.spec import TrainingSpec


def evaluations(history: Sequence[Metrics]) -> list[tuple[float, Metrics]]:
    """(validation loss, the step's metrics), in their order."""
    return [(metrics.valid_loss, metrics) for metrics in history if metrics.valid_loss is not None]


def best_of(history: Sequence[Metrics]) -> Metrics | None:
    """Of equal ones the first. None before the first evaluation."""
    found = min(evaluations(history), key=lambda each: each[0], default=None)
    return found[1] if found else None


def published_of(history: Sequence[Metrics], spec: TrainingSpec) -> Metrics:
    """The step whose weights are the result."""
    best = best_of(history) if spec.load_best_model_at_end else None
    return best or history[-1]


def ends_early(history: Sequence[Metrics], spec: TrainingSpec) -> bool:
    """Whether `early_stopping_patience` evaluations in a row were no better than the best."""
    best = best_of(history)
    if spec.early_stopping_patience is None or best is None:
        return False
    since = sum(metrics.step > best.step for _, metrics in evaluations(history))
    return since >= spec.early_stopping_patience
