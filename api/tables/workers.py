"""Workers, and their hold on jobs."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, OfProject, Table, one_of
from api.tables.jobs import JobPart, of_job
from tunery.messages import DEFAULT_POOL
from tunery.states import AttemptEnd, WorkerState


class Lease(Table):
    """Who runs a job until when. Narrow and without an index on `until`, so that heartbeats stay
    cheap updates in place.
    """

    __tablename__ = "lease"
    __table_args__ = {"postgresql_with": {"fillfactor": 70}}  # noqa: RUF012

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), primary_key=True)
    token: Mapped[int]
    worker: Mapped[str]
    until: Mapped[datetime]
    step: Mapped[int] = mapped_column(server_default="0")


class Attempt(JobPart):
    """One claim of a job, from its start to its end; the time between is what its `gpus` were taken
    for, until `freed_at` if that is set: from then its worker was at another job, and sent only the
    results of this one. `pool` is its worker's, as it was then; `price_per_hour` in `currency` is
    what one of them cost, None where it had no price. `step` is where it ended, as far as it was
    heard; `phase` is what it failed at, where that says whose fault it may be.
    """

    __tablename__ = "attempt"
    __table_args__ = (
        of_job(),
        one_of("outcome", AttemptEnd),
        Index(None, "ended_at"),
        Index(None, "project_id", "started_at"),
        Index("ix_attempt_started_at", "started_at"),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[str]
    worker: Mapped[str]
    pool: Mapped[str] = mapped_column(server_default=DEFAULT_POOL)
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[datetime | None]
    freed_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    failure_class: Mapped[str | None]
    message: Mapped[str | None]
    phase: Mapped[str | None]
    price_per_hour: Mapped[float | None]
    currency: Mapped[str | None]
    gpus: Mapped[int] = mapped_column(Integer, server_default="1")
    step: Mapped[int] = mapped_column(server_default="0")

    @property
    def had_device_until(self) -> datetime | None:
        """None while it has it."""
        return min(filter(None, (self.freed_at, self.ended_at)), default=None)


class Worker(Table):
    """A worker as it last told of itself. `memory_bytes` is its device's, of which one training may
    use `gpus`; `lacks` are the bases that it cannot load, with the folders where it looked for
    them, `holds` the ids of those that it has fetched. `failures` counts its attempts that ended by
    a fault of the machine, each on another job than the one before, since its last success; until
    `quarantined_until` it is given no job. `left_at` is when it said that it ends, None if it came
    back since.
    """

    __tablename__ = "worker"
    __table_args__ = (one_of("state", WorkerState),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    pool: Mapped[str] = mapped_column(server_default=DEFAULT_POOL)
    device: Mapped[str | None]
    memory_bytes: Mapped[int | None]
    build: Mapped[str | None]
    protocol: Mapped[int] = mapped_column(Integer)
    gpus: Mapped[int] = mapped_column(Integer, server_default="1")
    lacks: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    holds: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    state: Mapped[str] = mapped_column(server_default=WorkerState.ACTIVE)
    failures: Mapped[int] = mapped_column(Integer, server_default="0")
    failed_job_id: Mapped[str | None]
    quarantined_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
    left_at: Mapped[datetime | None]


class Attendance(Table):
    """One row: since when, without a gap, some API has been there to hear heartbeats. A worker can
    be silent for no longer than that.
    """

    __tablename__ = "attendance"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    since: Mapped[datetime]
    seen_at: Mapped[datetime]


class AttemptTally(OfProject, Table):
    """Attempts that have ended, since the beginning: how many, how long they took, and how much of
    that came after the last checkpoint of those that were lost or failed. Kept by the database at
    the end of each transaction: what is summed up anew would cost more with every job.
    """

    __tablename__ = "attempt_tally"

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), primary_key=True)
    pool: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    failure_class: Mapped[str] = mapped_column(primary_key=True)
    attempts: Mapped[int]
    seconds: Mapped[float]
    lost_seconds: Mapped[float]


class DurationTally(Table):
    """How often something took up to so many seconds, and more than the next lower number: a wait
    in the `queue`, by the `pool` of the worker that ended it; a `recovery` of a lost job, a
    `cancel` of a running one. Kept as `AttemptTally`.
    """

    __tablename__ = "duration_tally"

    what: Mapped[str] = mapped_column(primary_key=True)
    pool: Mapped[str] = mapped_column(primary_key=True, server_default="")
    up_to: Mapped[float] = mapped_column(primary_key=True)
    times: Mapped[int]
    seconds: Mapped[float]


class Janitor(Table):
    """A janitor's process as it last told of itself. `wakes`: it has a Redis to wake workers by;
    `redis_trouble` is why that did not work the last time.
    """

    __tablename__ = "janitor"

    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]
    wakes: Mapped[bool]
    redis_trouble: Mapped[str | None]
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
