"""Jobs, and what hangs on them."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, OfProject, Table, one_of
from tunery.states import DesiredState, JobState


class Job(OfProject, Table):
    """`state` is moved by `api.jobs.state.move` alone; `desired_state` is what the user wants.

    `request` is what was asked for, as it came. `hyperparameters` are those asked for until the
    files are checked; then they are resolved, with `reasons` for each `auto`, and `spec` is frozen.
    `warnings` are sentences about what may not be meant (`api.jobs.cautions`).
    `memory_bytes` is the least that its training can run in, as far as it is known, by what a
    device computes in (`tunery.plan.memory.Compute`); `plan` is how its worker cuts it to its
    device; `fetching` is how far its worker is with fetching the base. `estimate` is what was
    expected before it ran; `estimated_finish` is kept while it does.
    `min_protocol` is the oldest that a worker may speak to train it, `gpus` how many of its devices
    it needs.

    `evaluation` is how the tuned model compares with its base, once that is known
    (`api.jobs.evaluations.verdicts.Compared`); while judges are to be asked, `judge_at` is when.

    `model_name` is what the tuned model is called; `fine_tuned_model` is that name once there is
    one, also after `model_deleted_at`. `source` is the tuned model that the training goes on from
    (`api.models.tuned.Source`), of the job `source_job_id`.

    `key_id` is the key that it was created with, `person_id` who created it: a person whose session
    it was has no key.

    `exports_asked` are as many as it is to make when it has succeeded. A job or export with
    `deleted_at` is shown to nobody; its row stays, for what its attempts took and what went on from
    it.

    `token` grows with each claim and fences the writes of earlier ones. `idle_attempts` counts
    claims since the last newer checkpoint, but for `interruptions`: those that were ended from
    outside. The other two count failed attempts over the job's life.
    `event_count` numbers the job's events without gaps. `has_metadata` tells jobs with rows of it
    from those that a list finds by `metadata=null`.

    An export is a row here too: claimed, retried, rescued and published like a training, and left
    out wherever a user asks for jobs. `export` says what is made of the job `exported_job_id`
    (`api.jobs.exports.exports.Order`). It names the files that its job was trained on, and its own
    id is its `model_name`; `model_deleted_at` is when its files went.
    """

    __tablename__ = "job"
    __table_args__ = (
        one_of("state", JobState),
        one_of("desired_state", DesiredState),
        UniqueConstraint("project_id", "id"),
        ForeignKeyConstraint(["project_id", "training_file_id"], ["file.project_id", "file.id"]),
        ForeignKeyConstraint(["project_id", "validation_file_id"], ["file.project_id", "file.id"]),
        # A list, whole or by what it is asked for, each in its order.
        Index(None, "project_id", "sequence"),
        Index(None, "project_id", "state", "sequence"),
        Index(None, "project_id", "base_model_id", "sequence"),
        Index(None, "project_id", "created_at", "sequence"),
        Index(
            "ix_job_without_metadata",
            "project_id",
            "sequence",
            postgresql_where=text("NOT has_metadata"),
        ),
        Index(None, "state", "finished_at"),
        Index("ix_job_finished_at", "finished_at"),
        Index("ix_job_queued", "available_at", postgresql_where=text("state = 'queued'")),
        # A project's next jobs, whatever their base and on a warm one; and what it has in work.
        Index(
            "ix_job_next",
            "project_id",
            "available_at",
            "sequence",
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "ix_job_next_on_base",
            "project_id",
            "base_model_id",
            "available_at",
            "sequence",
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "ix_job_unfinished",
            "project_id",
            "state",
            postgresql_include=["exports_asked"],
            postgresql_where=text("state IN ('validating_files', 'queued', 'running', 'paused')"),
        ),
        # From which a project's next jobs are foreseen.
        Index(
            "ix_job_succeeded",
            "project_id",
            "base_model_id",
            "finished_at",
            postgresql_where=text("state = 'succeeded'"),
        ),
        Index("ix_job_training_file_id", "training_file_id"),
        Index("ix_job_validation_file_id", "validation_file_id"),
        Index("ix_job_source_job_id", "source_job_id"),
        Index("ix_job_result_file_id", "result_file_id"),
        Index("ix_job_judge_at", "judge_at", postgresql_where=text("judge_at IS NOT NULL")),
        ForeignKeyConstraint(["project_id", "exported_job_id"], ["job.project_id", "job.id"]),
        CheckConstraint("(export IS NULL) = (exported_job_id IS NULL)", name="export"),
        Index(
            "ix_job_exported_job_id",
            "exported_job_id",
            "sequence",
            postgresql_where=text("exported_job_id IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    base_model_id: Mapped[str] = mapped_column(ForeignKey("base_model.id"))
    training_file_id: Mapped[str]
    validation_file_id: Mapped[str | None]
    suffix: Mapped[str | None]
    seed: Mapped[int]
    has_metadata: Mapped[bool] = mapped_column(server_default=text("false"))
    request: Mapped[dict[str, Any]]
    hyperparameters: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any] | None]
    reasons: Mapped[dict[str, Any] | None]
    warnings: Mapped[list[Any] | None]
    memory_bytes: Mapped[dict[str, Any] | None]
    plan: Mapped[dict[str, Any] | None]
    fetching: Mapped[dict[str, Any] | None]
    min_protocol: Mapped[int] = mapped_column(Integer, server_default="2")
    gpus: Mapped[int] = mapped_column(Integer, server_default="1")
    source_job_id: Mapped[str | None] = mapped_column(ForeignKey("job.id"))
    source: Mapped[dict[str, Any] | None]
    exported_job_id: Mapped[str | None]
    export: Mapped[dict[str, Any] | None]
    exports_asked: Mapped[int] = mapped_column(Integer, server_default="0")
    estimate: Mapped[dict[str, Any] | None]
    estimated_finish: Mapped[datetime | None]
    evaluation: Mapped[dict[str, Any] | None]
    judge_at: Mapped[datetime | None]
    key_id: Mapped[str | None]
    person_id: Mapped[str | None] = mapped_column(ForeignKey("person.id"))

    state: Mapped[str]
    desired_state: Mapped[str] = mapped_column(server_default=DesiredState.RUN)
    available_at: Mapped[datetime] = mapped_column(server_default=NOW)
    token: Mapped[int] = mapped_column(server_default="0")
    idle_attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    interruptions: Mapped[int] = mapped_column(Integer, server_default="0")
    infra_failures: Mapped[int] = mapped_column(Integer, server_default="0")
    oom_failures: Mapped[int] = mapped_column(Integer, server_default="0")
    event_count: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    finished_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]

    progress: Mapped[dict[str, Any] | None]
    progress_at: Mapped[datetime | None]
    trained_tokens: Mapped[int | None]
    model_name: Mapped[str] = mapped_column(unique=True)
    fine_tuned_model: Mapped[str | None] = mapped_column(unique=True)
    model_deleted_at: Mapped[datetime | None]
    result_file_id: Mapped[str | None] = mapped_column(ForeignKey("file.id"))
    failure_class: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_param: Mapped[str | None]

    @property
    def noun(self) -> str:
        return "export" if self.exported_job_id else "job"


class JobPart(OfProject, Table):
    """What hangs on a job carries its project too, so that no row can point across projects."""

    __abstract__ = True

    job_id: Mapped[str]


def of_job() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["project_id", "job_id"], ["job.project_id", "job.id"], ondelete="CASCADE"
    )


class JobMetadata(JobPart):
    """Rows, not jsonb: row-level security keeps jsonb `@>` off its index. `sequence` is the job's,
    so that the jobs with a pair are read from the index in the order of the list.
    """

    __tablename__ = "job_metadata"
    __table_args__ = (of_job(), Index(None, "project_id", "key", "value", "sequence"))

    job_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    sequence: Mapped[int]


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
    """`files` lists name, bytes and sha256; their keys are under the claim's own prefix. `bytes`
    are theirs together.
    """

    __tablename__ = "checkpoint"
    __table_args__ = (of_job(),)

    job_id: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    epoch: Mapped[int]
    token: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    files: Mapped[list[Any]]
    bytes: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class SampleSet(JobPart):
    """How the model of a step did on the validation file (`tunery.measured.Samples`)."""

    __tablename__ = "sample_set"
    __table_args__ = (of_job(),)

    job_id: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    samples: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class EvaluationRow(JobPart):
    """What both models answered to one held-out row (`tunery.evaluations.AnsweredRow`)."""

    __tablename__ = "evaluation_row"
    __table_args__ = (of_job(),)

    job_id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    row: Mapped[dict[str, Any]]


class Artifact(JobPart):
    """One published file of a succeeded job."""

    __tablename__ = "artifact"
    __table_args__ = (of_job(),)

    job_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str]


class LogPart(JobPart):
    """Some lines of the engine's log of one attempt; `start` and `bytes` count its raw bytes."""

    __tablename__ = "log_part"
    __table_args__ = (of_job(),)

    job_id: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    bytes: Mapped[int]
    text: Mapped[str]
