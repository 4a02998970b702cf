"""A worker's hold on a job: claim, heartbeat, and every write under the claim's fencing token.

A lease that has expired is not lost yet: only when the janitor has taken the job back is it.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api import files, jobs, models
from api.ids import new_id
from api.storage import Storage
from api.tables import (
    NOW,
    Artifact,
    BaseModel,
    Checkpoint,
    Event,
    File,
    Job,
    Lease,
    Project,
    from_now,
)
from tunery import messages
from tunery.errors import InvalidRequest, LeaseLost, ProtocolTooOld
from tunery.messages import PROTOCOL, FileFacts, FileLink
from tunery.spec import TrainingSpec
from tunery.states import MAX_IDLE_ATTEMPTS, DesiredState, FailureClass, FileState, JobState

RUNNING = {JobState.RUNNING}
ADAPTER_FILES = {"adapter_model.safetensors", "adapter_config.json", "manifest.json"}
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 2, 300


def claim(
    tx: Session, ask: messages.ClaimRequest, *, lease_seconds: float
) -> tuple[Job, BaseModel] | None:
    """Leases the job that has been ready longest to this worker; None if there is none."""
    if ask.protocol < PROTOCOL:
        raise ProtocolTooOld(
            f"Worker {ask.worker} speaks protocol {ask.protocol}; this API speaks {PROTOCOL}. "
            "Update the worker."
        )
    job_id = tx.scalar(
        select(Job.id)
        .where(Job.state == JobState.QUEUED, Job.available_at <= NOW)
        .order_by(Job.available_at, Job.sequence)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if job_id is None:
        return None
    job = jobs.move(
        tx,
        job_id,
        expected={JobState.QUEUED},
        to=JobState.RUNNING,
        message=f"Fine-tuning job started on worker {ask.worker}",
        token=Job.token + 1,
        idle_attempts=Job.idle_attempts + 1,
    )
    assert job  # noqa: S101  (its row is locked)
    held = {"token": job.token, "worker": ask.worker, "until": from_now(lease_seconds), "step": 0}
    tx.execute(
        insert(Lease)
        .values(job_id=job.id, **held)
        .on_conflict_do_update(index_elements=[Lease.job_id], set_=held)
    )
    return job, tx.get_one(BaseModel, job.base_model_id)


def lease_of(
    tx: Session, storage: Storage, job: Job, base: BaseModel, *, secret: str, lease_seconds: float
) -> messages.Lease:
    """All that one attempt needs, as the worker is told it."""
    checkpoint = tx.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id == job.id)
        .order_by(Checkpoint.step.desc())
        .limit(1)
    ).one_or_none()
    return messages.Lease(
        job_id=job.id,
        token=job.token,
        secret=secret,
        lease_seconds=lease_seconds,
        spec=TrainingSpec.model_validate(job.spec),
        base_model=models.facts_of(base),
        training_file=data_link(tx, storage, job.training_file_id),
        validation_file=data_link(tx, storage, job.validation_file_id)
        if job.validation_file_id
        else None,
        checkpoint=checkpoint and checkpoint_link(storage, checkpoint),
    )


def data_link(tx: Session, storage: Storage, file_id: str) -> FileLink:
    file = tx.get_one(File, file_id)
    return FileLink(
        name=f"{file.id}.jsonl",
        bytes=file.bytes,
        sha256=file.sha256,
        url=storage.download_url(file.key),
    )


def checkpoint_link(storage: Storage, checkpoint: Checkpoint) -> messages.CheckpointLink:
    facts = [FileFacts.model_validate(file) for file in checkpoint.files]
    return messages.CheckpointLink(
        step=checkpoint.step,
        files=[
            FileLink(
                **fact.model_dump(),
                url=storage.download_url(blob_key(checkpoint.job_id, checkpoint.token, fact)),
            )
            for fact in facts
        ],
    )


def blob_key(job_id: str, token: int, file: FileFacts) -> str:
    """Under the claim's own prefix, so that a stale worker can only write beside, never over."""
    return f"jobs/{job_id}/{token}/{file.sha256}"


def heartbeat(tx: Session, beat: messages.LeaseBeat, *, lease_seconds: float) -> messages.Directive:
    """Renews one lease, and says what its worker is to do."""
    desired = tx.scalar(
        update(Lease)
        .where(
            Lease.job_id == beat.job_id,
            Lease.token == beat.token,
            Job.id == Lease.job_id,
            Job.token == Lease.token,
            Job.state == JobState.RUNNING,
        )
        .values(until=from_now(lease_seconds), step=beat.step)
        .returning(Job.desired_state)
    )
    directives = {None: "lost", DesiredState.RUN: "run", DesiredState.CANCEL: "cancel"}
    return messages.Directive.model_validate(
        {"job_id": beat.job_id, "token": beat.token, "directive": directives[desired]}
    )


def hold(tx: Session, job_id: str, token: int) -> Job:
    """The job, locked, if this token is its newest claim and it still runs. Else `LeaseLost`."""
    job = tx.scalars(
        select(Job)
        .where(Job.id == job_id, Job.token == token, Job.state == JobState.RUNNING)
        .with_for_update()
    ).one_or_none()
    if job is None:
        raise lost(job_id, token)
    return job


def lost(job_id: str, token: int) -> LeaseLost:
    return LeaseLost(
        f"Claim {token} of job {job_id} is over: the job has ended or was taken back. Drop its "
        "results."
    )


def add_events(tx: Session, job_id: str, token: int, batch: messages.EventBatch) -> None:
    """Stores a batch once, however often it is sent; a step's metrics once per job."""
    job = hold(tx, job_id, token)
    origins = [f"{token}/{batch.first + index}" for index in range(len(batch.events))]
    steps = [event.metrics.step for event in batch.events if event.metrics]
    known = tx.execute(
        select(Event.origin, Event.step).where(
            Event.job_id == job_id, Event.origin.in_(origins) | Event.step.in_(steps)
        )
    ).all()
    for origin, event in zip(origins, batch.events, strict=True):
        if not is_known(known, origin, event):
            jobs.record(tx, job, event.message, level=event.level, origin=origin, **columns(event))
    if batch.progress:
        job.progress = batch.progress.model_dump()
        job.progress_at = tx.scalar(select(NOW))
        job.trained_tokens = batch.progress.trained_tokens


def is_known(
    known: Sequence[Row[str | None, int | None]], origin: str, event: messages.JobEvent
) -> bool:
    step = event.metrics.step if event.metrics else None
    return any(row.origin == origin or (step is not None and row.step == step) for row in known)


def columns(event: messages.JobEvent) -> dict[str, Any]:
    if event.metrics is None:
        return {"type": "message", "data": event.data}
    return {
        "type": "metrics",
        "step": event.metrics.step,
        "data": event.metrics.model_dump(exclude_none=True) | (event.data or {}),
    }


def upload_target(
    tx: Session, storage: Storage, job_id: str, token: int, file: FileFacts
) -> messages.UploadTarget:
    hold(tx, job_id, token)
    key = blob_key(job_id, token, file)
    if storage.exists(key):
        return messages.UploadTarget(url=None)
    return messages.UploadTarget(url=storage.upload_url(key, size=file.bytes, digest=file.sha256))


def add_checkpoint(
    tx: Session, storage: Storage, job_id: str, token: int, written: messages.CheckpointWritten
) -> None:
    """Records a checkpoint whose files are all there. Twice is once."""
    job = hold(tx, job_id, token)
    require_uploaded(storage, job_id, token, written.files)
    values = {
        "epoch": written.epoch,
        "token": token,
        "metrics": written.metrics.model_dump(),
        "files": [file.model_dump() for file in written.files],
    }
    added = tx.scalar(
        insert(Checkpoint)
        .values(
            id=new_id("ftckpt_"),
            project_id=job.project_id,
            job_id=job_id,
            step=written.step,
            **values,
        )
        .on_conflict_do_nothing()
        .returning(Checkpoint.id)
    )
    if added:
        job.idle_attempts = 0
        jobs.record(tx, job, f"Checkpoint created at step {written.step}")


def require_uploaded(storage: Storage, job_id: str, token: int, given: list[FileFacts]) -> None:
    for file in given:
        if not storage.exists(blob_key(job_id, token, file)):
            raise InvalidRequest(f"{file.name} has not been uploaded under claim {token}.")


def finish(
    tx: Session, storage: Storage, job_id: str, token: int, ask: messages.FinishRequest
) -> None:
    """Ends the claim. The same word again about a job that this claim has ended changes nothing."""
    result = ask.result
    job = tx.get(Job, job_id, with_for_update=True)
    if job and job.token == token and job.state == result.outcome:
        return
    if job is None or job.token != token or job.state != JobState.RUNNING:
        raise lost(job_id, token)
    match result:
        case messages.Succeeded():
            publish(tx, storage, job, result)
        case messages.Failed(failure_class=FailureClass.USER):
            fail(tx, job, result)
        case messages.Failed():
            give_back(tx, job, f"The attempt failed: {result.message}", log_tail=result.log_tail)
        case messages.Cancelled():
            end_cancelled(tx, job)
        case messages.Released() if job.desired_state == DesiredState.CANCEL:
            end_cancelled(tx, job)
        case messages.Released():
            jobs.move(
                tx,
                job.id,
                expected=RUNNING,
                to=JobState.QUEUED,
                under=token,
                message="The worker is shutting down; the job is queued again",
                idle_attempts=func.greatest(Job.idle_attempts - 1, 0),
                available_at=NOW,
            )
    tx.execute(delete(Lease).where(Lease.job_id == job_id, Lease.token == token))


def publish(tx: Session, storage: Storage, job: Job, result: messages.Succeeded) -> None:
    """The job succeeded: its artifacts and result file appear with that state or not at all."""
    by_name = {file.name: file for file in result.files}
    missing = (ADAPTER_FILES | {result.metrics_csv}) - set(by_name)
    if missing:
        raise InvalidRequest(f"The results lack {', '.join(sorted(missing))}.")
    require_uploaded(storage, job.id, job.token, result.files)
    for file in result.files:
        tx.add(
            Artifact(
                project_id=job.project_id,
                job_id=job.id,
                name=file.name,
                bytes=file.bytes,
                sha256=file.sha256,
                key=blob_key(job.id, job.token, file),
            )
        )
    csv = by_name[result.metrics_csv]
    results = File(
        id=new_id("file-"),
        project_id=job.project_id,
        filename="step_metrics.csv",
        purpose=files.RESULTS,
        bytes=csv.bytes,
        sha256=csv.sha256,
        status=FileState.PROCESSED,
        key="",
    )
    results.key = f"files/{results.id}"
    storage.copy(blob_key(job.id, job.token, csv), results.key)
    tx.add(results)
    tx.flush()
    model = jobs.tuned_model_name(job, tx.get_one(Project, job.project_id).name)
    jobs.record(tx, job, f"New fine-tuned model created: {model}")
    jobs.move(
        tx,
        job.id,
        expected=RUNNING,
        to=JobState.SUCCEEDED,
        under=job.token,
        message="The job has successfully completed",
        fine_tuned_model=model,
        result_file_id=results.id,
        trained_tokens=result.trained_tokens,
    )


def end_cancelled(tx: Session, job: Job) -> None:
    jobs.move(
        tx,
        job.id,
        expected=RUNNING,
        to=JobState.CANCELLED,
        under=job.token,
        message="The job was cancelled",
    )


def fail(tx: Session, job: Job, failed: messages.Failed) -> None:
    keep_log(tx, job, failed.log_tail)
    jobs.move(
        tx,
        job.id,
        expected=RUNNING,
        to=JobState.FAILED,
        under=job.token,
        message=f"The job failed: {failed.message}",
        level="error",
        failure_class=failed.failure_class,
        error_code=failed.code,
        error_message=failed.message,
    )


def keep_log(tx: Session, job: Job, log_tail: str) -> None:
    if log_tail:
        jobs.record(tx, job, "The end of the engine's log", data={"log": log_tail})


def give_back(tx: Session, job: Job, reason: str, *, log_tail: str = "") -> None:
    """A claim that ended badly through no fault of the job: queued again after a pause that
    doubles, or failed when too many claims in a row got no further.
    """
    if job.desired_state == DesiredState.CANCEL:
        end_cancelled(tx, job)
    elif job.idle_attempts >= MAX_IDLE_ATTEMPTS:
        poisoned = messages.Failed(
            failure_class=FailureClass.POISONED,
            code="no_progress",
            message=f"{reason} {job.idle_attempts} attempts in a row reached no newer checkpoint.",
            log_tail=log_tail,
        )
        fail(tx, job, poisoned)
    else:
        keep_log(tx, job, log_tail)
        pause = min(FIRST_RETRY_SECONDS * 2**job.idle_attempts, LONGEST_RETRY_SECONDS)
        jobs.move(
            tx,
            job.id,
            expected=RUNNING,
            to=JobState.QUEUED,
            under=job.token,
            message=f"{reason} Trying again in {pause} s.",
            level="warn",
            available_at=from_now(pause),
        )


def rescue(tx: Session) -> Job | None:
    """Takes one job back from a worker that has not been heard of for its whole lease."""
    lost = tx.execute(
        select(Job, Lease)
        .join(Lease, (Lease.job_id == Job.id) & (Lease.token == Job.token))
        .where(Job.state == JobState.RUNNING, Lease.until < NOW)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if lost is None:
        return None
    job, lease = lost
    give_back(tx, job, f"Worker {lease.worker} was not heard of in time.")
    tx.execute(delete(Lease).where(Lease.job_id == job.id, Lease.token == lease.token))
    return job
