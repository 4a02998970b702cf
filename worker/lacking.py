"""The base models that this machine cannot load: it is given no job on them. Other bases and other
workers go on.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from tunery import messages
from tunery.facts import BaseModelFacts
from worker.base_files import Stamp, stamps_of
from worker.bases.bases import Bases
from worker.results import Result, is_infra

# A folder that is still being filled changes all the time.
SETTLE_SECONDS = 30.0
# After two jobs have failed to load a base whose files are in order.
FAILED_SECONDS = 900.0
# After a base could not be fetched.
NOT_FETCHED_SECONDS = 300.0
FOREVER = float("inf")


@dataclass(frozen=True)
class Lack:
    base: BaseModelFacts
    stamps: tuple[Stamp | None, ...]
    since: float
    until: float

    @property
    def is_over(self) -> bool:
        now = time.monotonic()
        if now >= self.until:
            return True
        return now >= self.since + SETTLE_SECONDS and self.stamps != stamps_now(self.base)


class Lacking:
    """What is lacking is tried again when its files have changed."""

    def __init__(self) -> None:
        self.lacks: dict[str, Lack] = {}
        # By the base's id the job that failed to load it last.
        self.failed: dict[str, str] = {}

    def learn(
        self, lease: messages.Lease, result: Result, phase: messages.Phase | None, bases: Bases
    ) -> None:
        """What an attempt, which came to that phase, says of its base on this machine."""
        base, code = lease.base_model, getattr(result, "code", None)
        if code == messages.BASE_NOT_FETCHED or (
            code == messages.BASE_DIFFERS and bases.drop(base)
        ):
            self.note_not_fetched(base)
        elif code == messages.BASE_DIFFERS:
            self.note_difference(base)
        elif phase in {"training", "publishing"}:
            self.note_success(base)
        elif is_infra(result) and phase == "base":
            self.note_failure(base, lease.job_id)

    def note_difference(self, base: BaseModelFacts) -> None:
        """Its files are not those that are registered."""
        self.add(base, FOREVER)

    def note_failure(self, base: BaseModelFacts, job_id: str) -> None:
        """They are, and loading it failed. The same job failing twice may be the job's fault."""
        if self.failed.setdefault(base.id, job_id) != job_id:
            self.add(base, FAILED_SECONDS)

    def note_not_fetched(self, base: BaseModelFacts) -> None:
        """They are not here. Another worker may have them, or reach what this one cannot."""
        self.add(base, NOT_FETCHED_SECONDS)

    def note_success(self, base: BaseModelFacts) -> None:
        self.failed.pop(base.id, None)

    def add(self, base: BaseModelFacts, seconds: float) -> None:
        now = time.monotonic()
        self.failed.pop(base.id, None)
        self.lacks[base.id] = Lack(base, stamps_now(base), now, now + seconds)

    def now(self) -> dict[str, str]:
        """By the bases' ids the folders where they were looked for."""
        self.lacks = {name: lack for name, lack in self.lacks.items() if not lack.is_over}
        return {name: lack.base.source for name, lack in self.lacks.items()}


def stamps_now(base: BaseModelFacts) -> tuple[Stamp | None, ...]:
    return stamps_of(Path(base.source), base.files)
