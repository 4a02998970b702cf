"""Fine-tuning jobs. `move` is the one door for a job's state."""

import re
from typing import Any, cast

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from api.db.session import WAKE_CHANNEL
from api.jobs import traced
from api.tables import NOW, Artifact, Attempt, Checkpoint, Event, Job, JobMetadata, SampleSet
from api.webhooks import outbox
from tunery.errors import Conflict, InvalidRequest, NotFound
from tunery.states import TRANSITIONS, DesiredState, JobState

# In a tuned model's name: what stands for something else in an address or a shell.
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def move(
    tx: Session,
    job_id: str,
    *,
    expected: set[JobState],
    to: JobState,
    message: str,
    level: str = "info",
    under: int | None = None,
    **columns: Any,  # noqa: ANN401
) -> Job | None:
    """Moves a job if it is still in one of the `expected` states, `under` this fencing token
    where one is given, writes the event, and announces it to webhooks, which are told of no
    exports. None: it is not, and nothing happened.
    """
    for state in expected:
        if to not in TRANSITIONS[state]:
            raise ValueError(f"no job goes from {state} to {to}")
    if to.terminal:
        columns["finished_at"] = NOW
    columns.setdefault("estimated_finish", None)
    change = update(Job).where(Job.id == job_id, Job.state.in_(expected))
    if under is not None:
        change = change.where(Job.token == under)
    job = tx.scalars(
        change.values(state=to, event_count=Job.event_count + 1, **columns).returning(Job),
        execution_options={"populate_existing": True},
    ).one_or_none()
    if job is None:
        return None
    add_event(tx, job, message, level=level)
    traced.moved(tx, job, expected)
    if to in outbox.TOLD and job.exported_job_id is None:
        outbox.announce(tx, job, outbox.TOLD[to])
    if to is JobState.QUEUED:
        tx.execute(select(func.pg_notify(WAKE_CHANNEL, "")))
    return job


def record(tx: Session, job: Job, message: str, *, level: str = "info", **facts: Any) -> None:  # noqa: ANN401
    """An event without a change of state."""
    job = tx.scalars(
        update(Job).where(Job.id == job.id).values(event_count=Job.event_count + 1).returning(Job),
        execution_options={"populate_existing": True},
    ).one()
    add_event(tx, job, message, level=level, **facts)


def add_event(tx: Session, job: Job, message: str, *, level: str, **facts: Any) -> None:  # noqa: ANN401
    facts.setdefault("type", "message")
    event = Event(
        project_id=job.project_id,
        job_id=job.id,
        number=job.event_count,
        level=level,
        message=message,
        **facts,
    )
    tx.add(event)
    tx.flush()


def get(tx: Session, job_id: str) -> Job:
    job = tx.get(Job, job_id)
    if job is None or job.exported_job_id or job.deleted_at:
        raise no_job(job_id)
    return job


METADATA = select(func.jsonb_object_agg(JobMetadata.key, JobMetadata.value)).where(
    JobMetadata.job_id == Job.id
)
# A job and its metadata, of one project: what is asked most of all. Built and compiled once, and
# read past the ORM, this takes a third of the time.
SHOWN = select(
    *Job.__table__.columns,
    METADATA.where(JobMetadata.project_id == bindparam("project_id"))
    .scalar_subquery()
    .label("metadata"),
).where(
    Job.id == bindparam("job_id"),
    Job.project_id == bindparam("project_id"),
    Job.exported_job_id.is_(None),
    Job.deleted_at.is_(None),
)


def show(tx: Session, project_id: str, job_id: str) -> tuple[Job, dict[str, str]]:
    """Its columns, to look at only."""
    named = {"project_id": project_id, "job_id": job_id}
    row = tx.connection().execute(SHOWN, named).one_or_none()
    if row is None:
        raise no_job(job_id)
    return cast("Job", row), row.metadata or {}


def stands(job: Job | None) -> bool:
    """Whether a job or export that was created is neither cancelled nor deleted."""
    return job is not None and not job.deleted_at and job.desired_state != DesiredState.CANCEL


def no_job(job_id: str) -> NotFound:
    return NotFound(f"No fine-tuning job {job_id!r} in this project.")


def cancel(tx: Session, job_id: str) -> Job:
    """Cancels a waiting job at once; a running one is told in the answer to its next heartbeat.
    Asking twice is asking once. Raises `Conflict` for a job that has ended otherwise.
    """
    return call_off(tx, lock(tx, job_id))


def call_off(tx: Session, job: Job) -> Job:
    """`cancel`, of a job or export that is locked."""
    if job.state == JobState.CANCELLED:
        return job
    if not JobState(job.state).terminal and job.desired_state == DesiredState.CANCEL:
        return job
    require_unfinished(job, "cancelled")
    job.desired_state = DesiredState.CANCEL
    if job.state == JobState.RUNNING:
        record(
            tx,
            job,
            "Cancellation requested; the worker stops at its next micro-step",
            data={"desired_state": job.desired_state},
        )
    else:
        move(
            tx,
            job.id,
            expected={JobState.VALIDATING_FILES, JobState.QUEUED, JobState.PAUSED},
            to=JobState.CANCELLED,
            message=f"The {job.noun} was cancelled",
        )
    return job


def pause(tx: Session, job_id: str) -> Job:
    """Pauses a queued job at once; a running one when its worker has kept a checkpoint, one whose
    files are being checked when they are. Asking twice is asking once.

    Raises:
        Conflict: the job has ended, or is being cancelled.

    """
    job = lock(tx, job_id)
    require_unfinished(job, "paused")
    if job.desired_state == DesiredState.PAUSE:
        return job
    job.desired_state = DesiredState.PAUSE
    if job.state == JobState.QUEUED:
        move(
            tx,
            job_id,
            expected={JobState.QUEUED},
            to=JobState.PAUSED,
            message="The job was paused",
        )
    elif job.state == JobState.RUNNING:
        record(tx, job, "Pause requested; the worker stops at its next step and keeps a checkpoint")
    else:
        record(tx, job, "Pause requested; the job pauses once its files are checked")
    return job


def resume(tx: Session, job_id: str) -> Job:
    """Queues a paused job again; it goes on from its checkpoint. Takes back a pause that has not
    come about yet. A job that is not to be paused is left as it is.

    Raises:
        Conflict: the job has ended, or is being cancelled.

    """
    job = lock(tx, job_id)
    require_unfinished(job, "resumed")
    if job.desired_state == DesiredState.RUN:
        return job
    job.desired_state = DesiredState.RUN
    if job.state == JobState.PAUSED:
        move(
            tx,
            job_id,
            expected={JobState.PAUSED},
            to=JobState.QUEUED,
            message="The job was resumed, moving it to queued state",
            available_at=NOW,
        )
    else:
        record(tx, job, "The pause was taken back")
    return job


def lock(tx: Session, job_id: str) -> Job:
    job = tx.get(Job, job_id, with_for_update=True)
    if job is None or job.exported_job_id or job.deleted_at:
        raise no_job(job_id)
    return job


def require_unfinished(job: Job, wish: str) -> None:
    if JobState(job.state).terminal:
        raise Conflict(
            f"{job.noun.capitalize()} {job.id} is already {job.state} and cannot be {wish}.",
            code=f"{job.noun}_finished",
        )
    if job.desired_state == DesiredState.CANCEL:
        raise Conflict(
            f"Job {job.id} is being cancelled and cannot be {wish}.", code="job_cancelled"
        )


def metadata_of(tx: Session, job_ids: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {job_id: {} for job_id in job_ids}
    for pair in tx.scalars(select(JobMetadata).where(JobMetadata.job_id.in_(job_ids))):
        found[pair.job_id][pair.key] = pair.value
    return found


def list_events(
    tx: Session, job_id: str, *, limit: int, after: int | None, type_: str | None = None
) -> list[Event]:
    """Up to `limit` + 1 events, newest first, below number `after`, of all types or of one."""
    query = select(Event).where(Event.job_id == job_id)
    if type_:
        query = query.where(Event.type == type_)
    if after is not None:
        query = query.where(Event.number < after)
    return list(tx.scalars(query.order_by(Event.number.desc()).limit(limit + 1)))


def list_samples(tx: Session, job_id: str) -> list[SampleSet]:
    """Newest first."""
    query = select(SampleSet).where(SampleSet.job_id == job_id)
    return list(tx.scalars(query.order_by(SampleSet.step.desc())))


def list_attempts(tx: Session, job_id: str) -> list[Attempt]:
    """Newest first."""
    query = select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.token.desc())
    return list(tx.scalars(query))


def list_checkpoints(
    tx: Session, job_id: str, *, limit: int, after: str | None
) -> list[Checkpoint]:
    """Up to `limit` + 1 checkpoints, newest first."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id)
    if after:
        cursor = tx.scalar(
            select(Checkpoint.step).where(Checkpoint.id == after, Checkpoint.job_id == job_id)
        )
        if cursor is None:
            raise InvalidRequest(f"No checkpoint {after!r} to continue after.", param="after")
        query = query.where(Checkpoint.step < cursor)
    return list(tx.scalars(query.order_by(Checkpoint.step.desc()).limit(limit + 1)))


def tuned_model_name(job_id: str, base: str, project: str, suffix: str | None) -> str:
    """OpenAI's form: ft:{base}:{organization}:{suffix}:{id}."""
    project, suffix = UNSAFE.sub("-", project), UNSAFE.sub("-", suffix or "")
    return f"ft:{base}:{project}:{suffix}:{job_id[-8:]}"


def list_artifacts(tx: Session, job_id: str) -> list[Artifact]:
    query = select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)
    return list(tx.scalars(query))


def refuse_deleted_model(job: Job) -> None:
    if job.model_deleted_at:
        raise NotFound(
            f"{job.fine_tuned_model}, the model of job {job.id}, was deleted, and its files with "
            "it. Train it again with the job's settings if you need it.",
            code="model_deleted",
        )


def no_artifact(job_id: str, name: str, there: list[str]) -> NotFound:
    what = f"It has {', '.join(there)}." if there else "They appear when the job has succeeded."
    return NotFound(f"Job {job_id} has no artifact {name!r}. {what}")
