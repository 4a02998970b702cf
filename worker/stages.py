"""What an engine is at, as spans of its attempt (`tunery.traces`). The engine only reports."""

import time
from types import TracebackType
from typing import Any, Self

from tunery import traces
from worker.protocol import Attempt, Entered, Report, Stepped

# Steps that were taken within so many seconds are one span.
GROUP_SECONDS = 30.0
NAMES = {
    "base": "load of the base model",
    "training_file": "read of the training file",
    "validation_file": "read of the validation file",
    "training": "start of the training",
    "publishing": "results",
}


class Stages:
    """One after the other, from the order to its end."""

    def __init__(self, order: Attempt) -> None:
        self.within = traces.attempt(order.job_id, order.token)
        self.name = "start of the engine"
        self.began = time.time_ns()
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.next("")

    def hear(self, report: Report | None) -> None:
        match report:
            case Entered():
                self.next(NAMES[report.phase])
            case Stepped():
                step = report.progress.step
                if self.name != "steps" or self.seconds >= GROUP_SECONDS:
                    self.next("steps", first_step=step)
                self.facts |= {
                    "last_step": step,
                    "train_loss": report.metrics.train_loss,
                    "tokens_per_second": report.pace.tokens_per_second,
                }

    @property
    def seconds(self) -> float:
        return (time.time_ns() - self.began) / 1e9

    def next(self, name: str, **facts: Any) -> None:  # noqa: ANN401
        now = time.time_ns()
        traces.tell(self.name, self.began, now, within=self.within, **self.facts)
        self.name, self.began, self.facts = name, now, facts
