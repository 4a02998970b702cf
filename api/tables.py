"""Every fact the service keeps. A table with `project_id` is under row-level security."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tunery.states import AttemptEnd, DesiredState, FileState, JobState, WorkerState

# Times are the database's: one clock decides leases, whatever the machines' clocks say.
NOW = func.clock_timestamp()


def from_now(seconds: float) -> ColumnElement[datetime]:
    """The database's time, so many seconds from now."""
    return NOW + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        str: Text,
        int: BigInteger,
        float: Double,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[str]: ARRAY(Text),
    }


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=column)


class Project(Table):
    __tablename__ = "project"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ApiKey(Table):
    """`hash` is the SHA-256 of the key, in hex; the key itself is shown once and kept nowhere."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    hash: Mapped[str] = mapped_column(unique=True)
    prefix: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    revoked_at: Mapped[datetime | None]


class BaseModel(Table):
    """A model that jobs can start from. Shared by all projects."""

    __tablename__ = "base_model"

    id: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[str]
    source: Mapped[str]
    licence: Mapped[str | None]
    architecture: Mapped[str]
    hidden_size: Mapped[int]
    context_length: Mapped[int]
    has_chat_template: Mapped[bool]
    files: Mapped[list[Any]]
    shape: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class File(Table):
    """`sequence` orders the list; `key` is where storage has the bytes until `deleted_at`. `checks`
    counts the checks that the janitors began.
    """

    __tablename__ = "file"
    __table_args__ = (
        one_of("status", FileState),
        UniqueConstraint("project_id", "id"),
        Index(None, "project_id", "sequence"),
        Index("ix_file_unchecked", "sequence", postgresql_where=text("status = 'uploaded'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str]
    status: Mapped[str]
    status_details: Mapped[str | None]
    report: Mapped[dict[str, Any] | None]
    checking_until: Mapped[datetime | None]
    checks: Mapped[int] = mapped_column(Integer, server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    deleted_at: Mapped[datetime | None]


class Job(Table):
    """`state` is moved by `api.jobs.move` alone; `desired_state` is what the user wants.

    `request` is what was asked for, as it came. `hyperparameters` are those asked for until the
    files are checked; then they are resolved, with `reasons` for each `auto`, and `spec` is frozen.
    `memory_bytes` is the least that its training can run in, as far as it is known, by what a
    device computes in (`tunery.plan.memory.Compute`); `plan` is how its worker cuts it to its
    device.

    `token` grows with each claim and fences the writes of earlier ones. `idle_attempts` counts
    claims since the last newer checkpoint, the other two count failed attempts over the job's life.
    `event_count` numbers the job's events without gaps.
    """

    __tablename__ = "job"
    __table_args__ = (
        one_of("state", JobState),
        one_of("desired_state", DesiredState),
        UniqueConstraint("project_id", "id"),
        ForeignKeyConstraint(["project_id", "training_file_id"], ["file.project_id", "file.id"]),
        ForeignKeyConstraint(["project_id", "validation_file_id"], ["file.project_id", "file.id"]),
        Index(None, "project_id", "sequence"),
        Index(None, "state", "finished_at"),
        Index("ix_job_queued", "available_at", postgresql_where=text("state = 'queued'")),
        Index("ix_job_training_file_id", "training_file_id"),
        Index("ix_job_validation_file_id", "validation_file_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    base_model_id: Mapped[str] = mapped_column(ForeignKey("base_model.id"))
    training_file_id: Mapped[str]
    validation_file_id: Mapped[str | None]
    suffix: Mapped[str | None]
    seed: Mapped[int]
    request: Mapped[dict[str, Any]]
    hyperparameters: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any] | None]
    reasons: Mapped[dict[str, Any] | None]
    memory_bytes: Mapped[dict[str, Any] | None]
    plan: Mapped[dict[str, Any] | None]

    state: Mapped[str]
    desired_state: Mapped[str] = mapped_column(server_default=DesiredState.RUN)
    available_at: Mapped[datetime] = mapped_column(server_default=NOW)
    token: Mapped[int] = mapped_column(server_default="0")
    idle_attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    infra_failures: Mapped[int] = mapped_column(Integer, server_default="0")
    oom_failures: Mapped[int] = mapped_column(Integer, server_default="0")
    event_count: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    finished_at: Mapped[datetime | None]

    progress: Mapped[dict[str, Any] | None]
    progress_at: Mapped[datetime | None]
    trained_tokens: Mapped[int | None]
    fine_tuned_model: Mapped[str | None] = mapped_column(unique=True)
    result_file_id: Mapped[str | None] = mapped_column(ForeignKey("file.id"))
    failure_class: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_param: Mapped[str | None]


class JobPart(Table):
    """What hangs on a job carries its project too, so that no row can point across projects."""

    __abstract__ = True

    project_id: Mapped[str]
    job_id: Mapped[str]


def of_job() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["project_id", "job_id"], ["job.project_id", "job.id"], ondelete="CASCADE"
    )


class JobMetadata(JobPart):
    """Rows, not jsonb: row-level security keeps jsonb `@>` off its index."""

    __tablename__ = "job_metadata"
    __table_args__ = (of_job(), Index(None, "project_id", "key", "value"))

    job_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Event(JobPart):
    """`number` counts a job's events from 1 without gaps. `origin` is "token/number" of a worker's
    event, so that a batch sent twice is stored once; `step` makes a step's metrics unique even if a
    later attempt trains that step again.
    """

    __tablename__ = "event"
    __table_args__ = (
        of_job(),
        Index(None, "job_id", "origin", unique=True),
        Index(None, "job_id", "step", unique=True),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]
    origin: Mapped[str | None]
    step: Mapped[int | None]


class Checkpoint(JobPart):
    """`files` lists name, bytes and sha256; their keys are under the claim's own prefix."""

    __tablename__ = "checkpoint"
    __table_args__ = (of_job(),)

    job_id: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    epoch: Mapped[int]
    token: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    files: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Attempt(JobPart):
    """One claim of a job, from its start to its end; the time between is what its device was taken
    for. `step` is where it ended, as far as it was heard.
    """

    __tablename__ = "attempt"
    __table_args__ = (of_job(), one_of("outcome", AttemptEnd), Index(None, "ended_at"))

    job_id: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[str]
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    failure_class: Mapped[str | None]
    message: Mapped[str | None]
    step: Mapped[int] = mapped_column(server_default="0")


class Artifact(JobPart):
    """One published file of a succeeded job."""

    __tablename__ = "artifact"
    __table_args__ = (of_job(),)

    job_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str]


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


class Worker(Table):
    """A worker as it last told of itself. `memory_bytes` is its device's. `failures` counts its
    attempts that ended by a fault of the machine, each on another job than the one before, since
    its last success; until `quarantined_until` it is given no job.
    """

    __tablename__ = "worker"
    __table_args__ = (one_of("state", WorkerState),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    device: Mapped[str | None]
    memory_bytes: Mapped[int | None]
    build: Mapped[str | None]
    protocol: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(server_default=WorkerState.ACTIVE)
    failures: Mapped[int] = mapped_column(Integer, server_default="0")
    failed_job_id: Mapped[str | None]
    quarantined_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Attendance(Table):
    """One row: since when, without a gap, some API has been there to hear heartbeats. A worker can
    be silent for no longer than that.
    """

    __tablename__ = "attendance"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    since: Mapped[datetime]
    seen_at: Mapped[datetime]


class Creation(Table):
    """A create that was answered, so that the same request sent again is answered alike and makes
    nothing. `key` is the client's `Idempotency-Key`; `fingerprint` the SHA-256 of what was asked.
    """

    __tablename__ = "creation"
    __table_args__ = (
        UniqueConstraint("project_id", "key"),
        Index(None, "project_id", "fingerprint", "created_at"),
        Index(None, "created_at"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    key: Mapped[str | None]
    fingerprint: Mapped[str] = mapped_column(String(64))
    reply: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
