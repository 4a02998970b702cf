"""What a worker writes under its claim, fenced by the claim's token, up to the results that are
published. How an attempt ends without any is `api.jobs.queue.endings`'.
"""

import logging
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.files import files
from api.ids import new_id
from api.jobs import state
from api.jobs.estimates import forecast
from api.jobs.evaluations import verdicts
from api.jobs.exports import exports
from api.jobs.queue import endings, faults
from api.models import bases, tuned
from api.settings import Settings
from api.storage.kept import blob_key, kept_keys, keys_of
from api.storage.storage import Storage
from api.tables import (
    NOW,
    Artifact,
    Attempt,
    Checkpoint,
    Event,
    File,
    Job,
    SampleSet,
)
from api.webhooks import outbox
from api.workers import workers
from tunery import messages
from tunery.errors import InvalidRequest, LeaseLost
from tunery.evaluations import AnsweredRows
from tunery.facts import Examined, FileFacts
from tunery.failpoint import failpoint
from tunery.plan.memory import Plan
from tunery.states import (
    AttemptEnd,
    FileState,
    JobState,
)

log = logging.getLogger(__name__)

ADAPTER_FILES = {"adapter_model.safetensors", "adapter_config.json", "manifest.json"}
MODEL_FILES = {"config.json", "manifest.json"}
# A large one's weights are in several files and their index.
MODEL_WEIGHTS = {"model.safetensors", "model.safetensors.index.json"}
KEPT_CHECKPOINTS = 2


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
    rows = tx.execute(
        select(Event.origin, Event.step).where(
            Event.job_id == job_id, Event.origin.in_(origins) | Event.step.in_(steps)
        )
    )
    known = {mark for row in rows for mark in row}
    for origin, event in zip(origins, batch.events, strict=True):
        marks = {origin, event.metrics.step} if event.metrics else {origin}
        if known.isdisjoint(marks):
            state.record(tx, job, event.message, level=event.level, origin=origin, **columns(event))
            note_plan(job, event)
            note_examined(tx, job, event)
        known |= marks
    if batch.progress:
        now = tx.scalars(select(NOW)).one()
        job.progress, job.progress_at = batch.progress.model_dump(), now
        job.estimated_finish = forecast.finish(job, now, seconds_left=batch.progress.seconds_left)
        job.trained_tokens, job.fetching = batch.progress.trained_tokens, None
    elif batch.fetching:
        job.fetching = batch.fetching.model_dump()


def note_plan(job: Job, event: messages.JobEvent) -> None:
    """The job shows the newest plan that was told. What is none for this version of the service, as
    another version's worker may tell it, is in the event alone.
    """
    told = (event.data or {}).get("plan")
    if told is None:
        return
    try:
        job.plan = Plan.model_validate(told).model_dump(mode="json")
    except ValidationError:
        log.warning("the job was told a plan that is none here", extra={"job": job.id})


def note_examined(tx: Session, job: Job, event: messages.JobEvent) -> None:
    """The base model shows what was found last, as far as this version understands it."""
    told = (event.data or {}).get("examined")
    if told is None or job.spec is None:
        return
    try:
        examined = Examined.model_validate(told)
    except ValidationError:
        log.warning("the job was told an examination that is none here", extra={"job": job.id})
        return
    bases.note_examined(tx, job.base_model_id, job.spec["base_revision"], examined)


def columns(event: messages.JobEvent) -> dict[str, Any]:
    if event.metrics is None:
        return {"type": "message", "data": event.data}
    return {
        "type": "metrics",
        "step": event.metrics.step,
        "data": (event.data or {}) | event.metrics.model_dump(exclude_none=True),
    }


def lacking(storage: Storage, job_id: str, token: int, files: list[FileFacts]) -> list[str]:
    """The names of those that have not been uploaded. It is asked before the transaction that needs
    to know, because it may take a while.
    """
    return [
        file.name for file in files if not storage.has(blob_key(job_id, token, file), file.bytes)
    ]


def require_none(lacks: list[str], token: int) -> None:
    for name in lacks:
        raise InvalidRequest(f"{name} has not been uploaded under claim {token}.")


def add_checkpoint(
    tx: Session,
    job_id: str,
    token: int,
    written: messages.CheckpointWritten,
    lacks: list[str],
) -> set[str]:
    """Records a checkpoint whose files are all there. Idempotent. Of a job's checkpoints the
    last two and the best are kept; returns the keys of those given up, to be deleted after the
    commit.
    """
    job = hold(tx, job_id, token)
    require_none(lacks, token)
    known = tx.get(Checkpoint, (job_id, written.step))
    if known is not None and known.token == token:
        return set()
    newest = tx.scalar(select(func.max(Checkpoint.step)).where(Checkpoint.job_id == job_id))
    if newest is None or written.step > newest:
        job.idle_attempts = job.interruptions = 0
    if known is None:
        state.record(tx, job, f"Checkpoint created at step {written.step}")
        outbox.announce(tx, job, outbox.EventType.CHECKPOINT)
    else:
        # The earlier claim's was damaged, or this attempt would not have come here again.
        tx.delete(known)
        tx.flush()
    tx.add(
        Checkpoint(
            id=new_id("ftckpt_"),
            project_id=job.project_id,
            job_id=job_id,
            step=written.step,
            epoch=written.epoch,
            token=token,
            metrics=written.metrics.model_dump(),
            files=[file.model_dump() for file in written.files],
            bytes=sum(file.bytes for file in written.files),
        )
    )
    if written.samples:
        tx.merge(
            SampleSet(
                project_id=job.project_id,
                job_id=job_id,
                step=written.step,
                samples=written.samples.model_dump(),
            )
        )
    tx.flush()
    given_up = give_up_checkpoints(tx, job_id) | (keys_of(known) if known else set())
    failpoint("api.checkpoint_recorded")
    return given_up - kept_keys(tx, job_id)


def give_up_checkpoints(tx: Session, job_id: str) -> set[str]:
    """Removes all but the last two, the one with the lowest validation loss, and those that are
    shared or that an unfinished job goes on from.
    """
    rows = tx.scalars(
        select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc())
    ).all()
    measured = [row for row in rows if row.metrics.get("valid_loss") is not None]
    best = min(measured, key=lambda row: float(row.metrics["valid_loss"]), default=None)
    wanted = tuned.steps_in_use(tx, job_id)
    keys: set[str] = set()
    for row in rows[KEPT_CHECKPOINTS:]:
        if row is not best and row.step not in wanted:
            keys |= keys_of(row)
            tx.delete(row)
    tx.flush()
    return keys


def add_answers(tx: Session, job_id: str, token: int, given: AnsweredRows) -> None:
    verdicts.add_rows(tx, hold(tx, job_id, token), given)


def ready_to_publish(
    storage: Storage, job_id: str, token: int, result: messages.Succeeded | messages.Exported
) -> list[str]:
    """The names of the files that are `lacking`. The metrics of a training are under the key of its
    result file then.
    """
    lacks = lacking(storage, job_id, token, result.files)
    if isinstance(result, messages.Succeeded) and not lacks:
        for file in result.files:
            if file.name == result.metrics_csv:
                storage.copy(blob_key(job_id, token, file), results_key(job_id, token))
    return lacks


def results_key(job_id: str, token: int) -> str:
    return f"files/{job_id}-{token}"


def finish(
    tx: Session,
    settings: Settings,
    job_id: str,
    token: int,
    ask: messages.FinishRequest,
    lacks: list[str],
) -> None:
    """Ends the claim. The same word again about a claim that has ended with it changes nothing."""
    result = ask.result
    job = tx.get(Job, job_id, with_for_update=True)
    attempt = tx.get(Attempt, (job_id, token))
    if attempt and attempt.outcome in SAME_WORD[result.outcome]:
        return
    if job is None or job.token != token or job.state != JobState.RUNNING:
        raise lost(job_id, token)
    match result:
        case messages.Succeeded():
            require_none(lacks, token)
            publish(tx, job, result)
        case messages.Exported():
            require_none(lacks, token)
            publish_export(tx, job, result)
        case messages.Failed():
            result = faults.judged(tx, job, result)
            endings.conclude(tx, settings, job, result)
        case messages.Released():
            endings.stop(tx, job)
    if attempt is None:
        return
    if attempt.outcome == AttemptEnd.SUCCEEDED:
        workers.note_success(tx, attempt.worker_id)
    elif isinstance(result, messages.Failed) and faults.is_machines(result):
        seconds = settings.quarantine_seconds
        workers.note_failure(tx, attempt.worker_id, job.id, quarantine_seconds=seconds)


# What an attempt has ended with when its worker has said this before.
SAME_WORD = {
    "succeeded": {AttemptEnd.SUCCEEDED},
    "exported": {AttemptEnd.SUCCEEDED},
    "failed": {AttemptEnd.FAILED},
    "released": {AttemptEnd.CANCELLED, AttemptEnd.PAUSED, AttemptEnd.RELEASED},
}


def publish(tx: Session, job: Job, result: messages.Succeeded) -> None:
    """The job succeeded: its artifacts and result file appear with that state or not at all."""
    refuse_word_for(job, "job")
    endings.end(tx, job, AttemptEnd.SUCCEEDED)
    by_name = {file.name: file for file in result.files}
    missing = missing_of(job, set(by_name)) | ({result.metrics_csv} - set(by_name))
    if missing:
        raise InvalidRequest(f"The results lack {', '.join(sorted(missing))}.")
    add_artifacts(tx, job, result.files)
    csv = by_name[result.metrics_csv]
    results = File(
        id=new_id("file-"),
        project_id=job.project_id,
        filename="step_metrics.csv",
        purpose=files.RESULTS,
        bytes=csv.bytes,
        sha256=csv.sha256,
        status=FileState.PROCESSED,
        key=results_key(job.id, job.token),
    )
    tx.add(results)
    tx.flush()
    state.record(tx, job, f"New fine-tuned model created: {job.model_name}")
    verdicts.conclude(tx, job)
    exports.make_asked(tx, job)
    state.move(
        tx,
        job.id,
        expected={JobState.RUNNING},
        to=JobState.SUCCEEDED,
        under=job.token,
        message="The job has successfully completed",
        fine_tuned_model=Job.model_name,
        result_file_id=results.id,
        trained_tokens=result.trained_tokens,
    )
    failpoint("api.publishing")


def missing_of(job: Job, names: set[str]) -> set[str]:
    """What a program could not load the adapter without, or the whole model."""
    if not tuned.is_whole(job):
        return ADAPTER_FILES - names
    return (MODEL_FILES - names) | (set() if MODEL_WEIGHTS & names else {min(MODEL_WEIGHTS)})


def publish_export(tx: Session, job: Job, result: messages.Exported) -> None:
    """The export succeeded: its files appear with that state or not at all."""
    refuse_word_for(job, "export")
    endings.end(tx, job, AttemptEnd.SUCCEEDED)
    add_artifacts(tx, job, result.files)
    state.move(
        tx,
        job.id,
        expected={JobState.RUNNING},
        to=JobState.SUCCEEDED,
        under=job.token,
        message="The export has successfully completed",
    )
    failpoint("api.export_publishing")


def refuse_word_for(job: Job, noun: str) -> None:
    if job.noun != noun:
        raise InvalidRequest(f"{job.id} is no {noun}: these are not the results of its kind.")


def add_artifacts(tx: Session, job: Job, given: list[FileFacts]) -> None:
    for file in given:
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
