"""Fine-tuning jobs. `move` is the one door for a job's state."""

import secrets
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from api import devices, files
from api.db import WAKE_CHANNEL
from api.ids import new_id
from api.schemas import CreateJob
from api.tables import NOW, Artifact, Attempt, BaseModel, Checkpoint, Event, File, Job, JobMetadata
from tunery.errors import Conflict, DoesNotFit, FileHasFaults, InvalidRequest, NotFound
from tunery.plan import auto
from tunery.plan.auto import Resolved
from tunery.spec import DataFile, TrainingSpec
from tunery.states import TRANSITIONS, DesiredState, FileState, JobState

# Of text, for a token: enough to plan by before anything is tokenized.
TOKEN_BYTES = 4


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
    where one is given, and writes the event. None: it is not, and nothing happened.
    """
    for state in expected:
        if to not in TRANSITIONS[state]:
            raise ValueError(f"no job goes from {state} to {to}")
    if to.terminal:
        columns["finished_at"] = NOW
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


def create(tx: Session, project_id: str, asked: CreateJob) -> Job:
    """A new job: queued at once when its files are checked, else waiting for them.

    Raises:
        NotFound: no such model or file in this project.
        InvalidRequest: a setting that cannot work, named with the mend.
        FileHasFaults: the check of a file found faults.
        DoesNotFit: no worker's device could hold it.

    """
    base, data = look_up(tx, asked)
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    if checked(data):
        spec, _ = freeze(asked, base, data, seed=seed)
        devices.require_one_that_fits(
            tx, base, spec, longest=longest_row(data["training_file"], spec)
        )
    job = Job(
        id=new_id("ftjob-"),
        project_id=project_id,
        base_model_id=base.id,
        training_file_id=asked.training_file,
        validation_file_id=asked.validation_file,
        suffix=asked.suffix,
        seed=seed,
        request=asked.model_dump(mode="json", exclude_unset=True),
        hyperparameters=asked.settings.model_dump(mode="json"),
        state=JobState.VALIDATING_FILES,
        event_count=1,
    )
    tx.add(job)
    tx.flush()
    for key, value in (asked.metadata or {}).items():
        tx.add(JobMetadata(project_id=project_id, job_id=job.id, key=key, value=value))
    add_event(tx, job, f"Created fine-tuning job: {job.id}", level="info")
    checking = " and ".join(f"{param.replace('_', ' ')}: {f.id}" for param, f in data.items())
    record(tx, job, f"Validating {checking}")
    queue_if_checked(tx, job)
    return job


def look_up(tx: Session, asked: CreateJob) -> tuple[BaseModel, dict[str, File]]:
    """The base model and the files of a request, the latter by its field. Raises as `create`."""
    base = tx.get(BaseModel, asked.model)
    if base is None:
        raise NotFound(
            f"No base model {asked.model!r} is registered. GET /v1/models lists those that are; "
            "an operator adds one with `tunery models add`.",
            param="model",
            code="model_not_found",
        )
    longest = asked.training.max_length
    if longest is not None and longest > base.context_length:
        raise InvalidRequest(
            f"training.max_length is {longest}, the context of {base.id} is "
            f"{base.context_length} tokens. Lower it or leave it out.",
            param="training.max_length",
        )
    named = {"training_file": asked.training_file, "validation_file": asked.validation_file}
    data = {
        param: files.get(tx, file_id, param=param, lock=True)
        for param, file_id in named.items()
        if file_id
    }
    for param, file in data.items():
        refuse_unfit(file, base, param)
    return base, data


def checked(data: dict[str, File]) -> bool:
    return all(file.status == FileState.PROCESSED for file in data.values())


def freeze(
    asked: CreateJob, base: BaseModel, data: dict[str, File], *, seed: int
) -> tuple[TrainingSpec, Resolved]:
    """The spec of a request on checked files, and how each `auto` in it came to be."""
    settings = asked.settings
    resolved = auto.resolve(
        rows=rows_of(data["training_file"]),
        architecture=base.architecture,
        hidden_size=base.hidden_size,
        n_epochs=settings.n_epochs,
        batch_size=settings.batch_size,
        learning_rate_multiplier=settings.learning_rate_multiplier,
    )
    if asked.training.quantization == "auto":
        resolved.reasons["quantization"] = (
            "the first worker decides by its memory, and an event says how"
        )
    spec = TrainingSpec(
        base_model=base.id,
        base_revision=base.revision,
        training_file=data_file(data["training_file"]),
        validation_file=data_file(data["validation_file"]) if "validation_file" in data else None,
        seed=seed,
        n_epochs=resolved.n_epochs,
        batch_size=resolved.batch_size,
        learning_rate=resolved.learning_rate,
        max_length=asked.training.max_length or base.context_length,
        lora=asked.lora,
        quantization=asked.training.quantization,
    )
    return spec, resolved


def finish_check(tx: Session, file_id: str, report: dict[str, Any]) -> None:
    """Records a file's report and takes up the jobs that waited for it. Twice is once."""
    files.record_report(tx, file_id, report)
    waiting = tx.scalars(
        select(Job)
        .where(
            or_(Job.training_file_id == file_id, Job.validation_file_id == file_id),
            Job.state == JobState.VALIDATING_FILES,
        )
        .order_by(Job.id)
        # The job's other file may be recorded at this very moment: one goes after the other.
        .with_for_update()
    )
    for job in waiting.all():
        queue_if_checked(tx, job)


def refuse_unfit(file: File, base: BaseModel, param: str) -> None:
    if file.purpose != files.FINE_TUNE:
        raise InvalidRequest(
            f"File {file.id} has purpose {file.purpose!r}; a {param.replace('_', ' ')} needs one "
            f"uploaded with purpose {files.FINE_TUNE!r}.",
            param=param,
        )
    if file.status == FileState.ERROR:
        raise FileHasFaults(
            f"File {file.id} has faults: {file.status_details} Mend them and upload it again; "
            f"GET /v1/files/{file.id}/report lists them all.",
            param=param,
        )
    if file.report and "chat" in file.report["formats"] and not base.has_chat_template:
        raise InvalidRequest(
            f"{base.id} has no chat template and {file.id} holds chat rows. Use prompt/completion "
            "rows or a model with a template.",
            param="model",
        )


def queue_if_checked(tx: Session, job: Job) -> None:
    """Freezes the spec and queues the job (or pauses it, if that is wished) once all its files are
    checked; fails it on a bad one.
    """
    base = tx.get_one(BaseModel, job.base_model_id)
    named = {"training_file": job.training_file_id, "validation_file": job.validation_file_id}
    data = {
        param: tx.get_one(File, file_id, populate_existing=True)
        for param, file_id in named.items()
        if file_id
    }
    for param, file in data.items():
        try:
            refuse_unfit(file, base, param)
        except (InvalidRequest, FileHasFaults) as refusal:
            fail(tx, job.id, {JobState.VALIDATING_FILES}, refusal)
            return
    if not checked(data):
        return
    try:
        asked = CreateJob.model_validate(job.request)
    except ValidationError:
        # Another version of the service took it in. The other jobs on the file must not wait.
        unreadable = "This version of the service cannot read the request. Create the job again."
        fail(tx, job.id, {JobState.VALIDATING_FILES}, InvalidRequest(unreadable))
        return
    spec, resolved = freeze(asked, base, data, seed=job.seed)
    longest = longest_row(data["training_file"], spec)
    try:
        devices.require_one_that_fits(tx, base, spec, longest=longest)
    except DoesNotFit as refusal:
        fail(tx, job.id, {JobState.VALIDATING_FILES}, refusal)
        return
    paused = job.desired_state == DesiredState.PAUSE
    move(
        tx,
        job.id,
        expected={JobState.VALIDATING_FILES},
        to=JobState.PAUSED if paused else JobState.QUEUED,
        message=f"Files validated, moving job to {'paused' if paused else 'queued'} state",
        spec=spec.model_dump(mode="json"),
        memory_bytes=devices.least_bytes(base, spec, longest=longest),
        hyperparameters=resolved.hyperparameters,
        reasons=resolved.reasons,
        available_at=NOW,
    )


def fail(
    tx: Session, job_id: str, expected: set[JobState], error: InvalidRequest | FileHasFaults
) -> None:
    move(
        tx,
        job_id,
        expected=expected,
        to=JobState.FAILED,
        message=error.message,
        level="error",
        failure_class="user",
        error_code=error.code or "invalid_request",
        error_message=error.message,
        error_param=error.param,
    )


def rows_of(file: File) -> int:
    return int((file.report or {})["rows"])


def longest_row(file: File, spec: TrainingSpec) -> int:
    """About how many tokens the longest row has. An older report does not tell: 1."""
    size = (file.report or {}).get("longest_row_bytes", 0)
    return max(1, min(spec.max_length, tokens_in(size)))


def tokens_in(size: int) -> int:
    """About how many tokens a text of so many bytes makes."""
    return -(-size // TOKEN_BYTES)


def data_file(file: File) -> DataFile:
    return DataFile(id=file.id, sha256=file.sha256, rows=rows_of(file))


def get(tx: Session, job_id: str) -> Job:
    job = tx.get(Job, job_id)
    if job is None:
        raise no_job(job_id)
    return job


def no_job(job_id: str) -> NotFound:
    return NotFound(f"No fine-tuning job {job_id!r} in this project.")


def cancel(tx: Session, job_id: str) -> Job:
    """Cancels a waiting job at once; a running one is told in the answer to its next heartbeat.
    Asking twice is asking once. Raises `Conflict` for a job that has ended otherwise.
    """
    job = lock(tx, job_id)
    if job.state == JobState.CANCELLED:
        return job
    if not JobState(job.state).terminal and job.desired_state == DesiredState.CANCEL:
        return job
    require_unfinished(job, "cancelled")
    job.desired_state = DesiredState.CANCEL
    if job.state == JobState.RUNNING:
        record(tx, job, "Cancellation requested; the worker stops at its next micro-step")
    else:
        move(
            tx,
            job_id,
            expected={JobState.VALIDATING_FILES, JobState.QUEUED, JobState.PAUSED},
            to=JobState.CANCELLED,
            message="The job was cancelled",
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
    if job is None:
        raise no_job(job_id)
    return job


def require_unfinished(job: Job, wish: str) -> None:
    if JobState(job.state).terminal:
        raise Conflict(
            f"Job {job.id} is already {job.state} and cannot be {wish}.", code="job_finished"
        )
    if job.desired_state == DesiredState.CANCEL:
        raise Conflict(
            f"Job {job.id} is being cancelled and cannot be {wish}.", code="job_cancelled"
        )


def list_newest(
    tx: Session, *, limit: int, after: str | None, metadata: dict[str, str] | None
) -> list[Job]:
    """Up to `limit` + 1 jobs that carry all the metadata pairs; with None, those without any."""
    query = select(Job)
    if metadata is None:
        query = query.where(Job.id.not_in(select(JobMetadata.job_id)))
        metadata = {}
    for key, value in metadata.items():
        pair = select(JobMetadata.job_id).where(JobMetadata.key == key, JobMetadata.value == value)
        query = query.where(Job.id.in_(pair))
    if after:
        cursor = tx.scalar(select(Job.sequence).where(Job.id == after))
        if cursor is None:
            raise InvalidRequest(f"No job {after!r} to continue after.", param="after")
        query = query.where(Job.sequence < cursor)
    return list(tx.scalars(query.order_by(Job.sequence.desc()).limit(limit + 1)))


def metadata_of(tx: Session, job_ids: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {job_id: {} for job_id in job_ids}
    for pair in tx.scalars(select(JobMetadata).where(JobMetadata.job_id.in_(job_ids))):
        found[pair.job_id][pair.key] = pair.value
    return found


def list_events(tx: Session, job_id: str, *, limit: int, after: int | None) -> list[Event]:
    """Up to `limit` + 1 events, newest first, below number `after`."""
    query = select(Event).where(Event.job_id == job_id)
    if after is not None:
        query = query.where(Event.number < after)
    return list(tx.scalars(query.order_by(Event.number.desc()).limit(limit + 1)))


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


def tuned_model_name(job: Job, project: str) -> str:
    """OpenAI's form: ft:{base}:{organization}:{suffix}:{id}."""
    return f"ft:{job.base_model_id}:{project}:{job.suffix or ''}:{job.id[-8:]}"


def list_artifacts(tx: Session, job_id: str) -> list[Artifact]:
    query = select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)
    return list(tx.scalars(query))


def no_artifact(job_id: str, name: str, there: list[str]) -> NotFound:
    what = f"It has {', '.join(there)}." if there else "They appear when the job has succeeded."
    return NotFound(f"Job {job_id} has no artifact {name!r}. {what}")
