"""What becomes of a job when an attempt ends without a result: it fails, is queued again, or goes
where its user wishes.
"""

import random
from datetime import datetime
from itertools import takewhile
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from api.jobs import state as jobs
from api.jobs import traced
from api.jobs.queue import faults
from api.models import bases
from api.settings import Settings
from api.tables import NOW, Attempt, BaseModel, Job, Lease, from_now
from tunery import messages
from tunery.states import (
    MAX_AWAY_SECONDS,
    MAX_IDLE_ATTEMPTS,
    MAX_INFRA_FAILURES,
    MAX_INTERRUPTIONS,
    MAX_OOM_FAILURES,
    AttemptEnd,
    DesiredState,
    FailureClass,
    JobState,
)

RUNNING = {JobState.RUNNING}
LONGEST_RETRY_SECONDS = 300
# For `idle_attempts`: the claim does not count as one in vain.
NOT_IN_VAIN = func.greatest(Job.idle_attempts - 1, 0)


def conclude(tx: Session, settings: Settings, job: Job, failed: messages.Failed) -> None:
    """A failed attempt costs what its class says."""
    match failed.failure_class:
        case FailureClass.USER | FailureClass.STORAGE:
            fail(tx, job, failed)
        case FailureClass.AWAY:
            put_off(tx, settings, job, failed)
        case FailureClass.BASE:
            wait_for_base(tx, job, failed)
        case FailureClass.PREEMPTED:
            interrupt(tx, settings, job, AttemptEnd.FAILED, failed)
        case _:
            retry(tx, settings, job, failed)


def stop(tx: Session, job: Job) -> None:
    """An attempt ended because it was told to: the job goes where its user wishes, unpunished."""
    if not end_as_wished(tx, job):
        end(tx, job, AttemptEnd.RELEASED)
        queue(
            tx,
            job,
            f"The worker gave the {job.noun} back; it is queued again",
            level="info",
            idle_attempts=NOT_IN_VAIN,
            available_at=NOW,
        )


def fail(tx: Session, job: Job, failed: messages.Failed) -> None:
    keep_log(tx, job, failed.log_tail)
    end(tx, job, AttemptEnd.FAILED, failed=failed)
    jobs.move(
        tx,
        job.id,
        expected=RUNNING,
        to=JobState.FAILED,
        under=job.token,
        message=f"The {job.noun} failed: {failed.message}",
        level="error",
        failure_class=failed.failure_class,
        error_code=failed.code,
        error_message=failed.message,
    )


def retry(tx: Session, settings: Settings, job: Job, failed: messages.Failed) -> None:
    """An attempt failed through no fault of the data: the job is queued again after a pause that
    doubles, or fails for good where its class says so.
    """
    if failed.failure_class == FailureClass.OOM:
        job.oom_failures += 1
    else:
        job.infra_failures += 1
    tx.flush()
    where = f" at step {step}" if (step := step_of(tx, job)) else ""
    if end_as_wished(tx, job):
        return
    if job.idle_attempts >= MAX_IDLE_ATTEMPTS:
        fail(tx, job, poisoned(job, failed, job.idle_attempts))
    elif job.oom_failures >= MAX_OOM_FAILURES or job.infra_failures >= MAX_INFRA_FAILURES:
        fail(tx, job, failed)
    else:
        keep_log(tx, job, failed.log_tail)
        end(tx, job, AttemptEnd.FAILED, failed=failed)
        try_again(
            tx,
            job,
            f"The attempt failed{where}: {failed.message}",
            seconds=backoff(job.idle_attempts - 1, settings),
        )


def put_off(tx: Session, settings: Settings, job: Job, failed: messages.Failed) -> None:
    """What the attempt needed was away, which is no fault of anybody's here: it counts as no
    attempt. The pause grows with each such attempt in a row; over `MAX_AWAY_SECONDS` of them the
    job fails.
    """
    if end_as_wished(tx, job):
        return
    earlier = select(Attempt).where(Attempt.job_id == job.id, Attempt.token < job.token)
    newest_first = tx.scalars(earlier.order_by(Attempt.token.desc()))
    outage = list(takewhile(lambda one: one.failure_class == FailureClass.AWAY, newest_first))
    since = outage[-1].started_at if outage else None
    if since and since < tx.scalars(select(from_now(-MAX_AWAY_SECONDS))).one():
        fail(tx, job, failed)
        return
    end(tx, job, AttemptEnd.FAILED, failed=failed)
    try_again(
        tx,
        job,
        f"The attempt could not go on: {failed.message}",
        seconds=backoff(len(outage), settings),
        idle_attempts=NOT_IN_VAIN,
    )


def interrupt(
    tx: Session,
    settings: Settings,
    job: Job,
    outcome: AttemptEnd,
    ended: messages.Failed,
    at: datetime | None = None,
) -> None:
    """An attempt was ended from outside, which says nothing against the job: it is no attempt in
    vain, and the first time there is no pause. Too many in a row without a newer checkpoint are
    more than chance.
    """
    if end_as_wished(tx, job):
        return
    job.idle_attempts = max(job.idle_attempts - 1, 0)
    job.interruptions += 1
    tx.flush()
    end(tx, job, outcome, failed=ended, at=at)
    if job.interruptions >= MAX_INTERRUPTIONS:
        fail(tx, job, poisoned(job, ended, job.interruptions))
        return
    keep_log(tx, job, ended.log_tail)
    before = job.interruptions - 1
    seconds = backoff(before - 1, settings) if before else 0
    try_again(tx, job, ended.message, seconds=seconds)


def wait_for_base(tx: Session, job: Job, failed: messages.Failed) -> None:
    """The base model could not be had: the job waits for a worker that has it, or for its repair,
    and the attempt costs it nothing.
    """
    if failed.code == messages.BASE_BROKEN:
        faults.block_base(tx, job, failed)
        waits = "The job waits until an operator has repaired the base model and added it again."
        if bases.is_open(tx, tx.get_one(BaseModel, job.base_model_id, populate_existing=True)):
            waits = "A worker of another build may take the job."
    elif failed.code == messages.BASE_NOT_FETCHED:
        waits = "Another worker may take the job; this one tries again in some minutes."
    else:
        waits = "The job waits for a worker that has it."
    if end_as_wished(tx, job):
        return
    keep_log(tx, job, failed.log_tail)
    end(tx, job, AttemptEnd.FAILED, failed=failed)
    # It keeps its place in the queue.
    queue(tx, job, f"{failed.message} {waits}", idle_attempts=NOT_IN_VAIN)


def end_as_wished(tx: Session, job: Job) -> bool:
    """Cancels or pauses a job whose attempt is over, if that is what its user wishes."""
    match job.desired_state:
        case DesiredState.CANCEL:
            outcome, state, message = AttemptEnd.CANCELLED, JobState.CANCELLED, "cancelled"
        case DesiredState.PAUSE:
            outcome, state, message = AttemptEnd.PAUSED, JobState.PAUSED, "paused"
        case _:
            return False
    end(tx, job, outcome)
    jobs.move(
        tx,
        job.id,
        expected=RUNNING,
        to=state,
        under=job.token,
        message=f"The {job.noun} was {message}",
        idle_attempts=NOT_IN_VAIN,
    )
    return True


def end(
    tx: Session,
    job: Job,
    outcome: AttemptEnd,
    *,
    failed: messages.Failed | None = None,
    at: datetime | None = None,
) -> None:
    """Ends the claim's lease and its attempt, now or `at` an earlier time. Idempotent."""
    lease = tx.get(Lease, job.id)
    attempt = tx.get(Attempt, (job.id, job.token))
    if attempt and attempt.ended_at is None:
        # A clock that went back must not make its time negative.
        ended = at or tx.scalars(select(NOW)).one()
        attempt.ended_at = max(ended, attempt.started_at)
        attempt.outcome = outcome
        attempt.failure_class = failed.failure_class if failed else None
        attempt.message = failed.message if failed else None
        attempt.phase = failed.phase if failed else None
        attempt.step = last_step(job, attempt, lease)
        traced.ended(tx, attempt)
    tx.execute(delete(Lease).where(Lease.job_id == job.id, Lease.token == job.token))


def last_step(job: Job, attempt: Attempt, lease: Lease | None) -> int:
    """Where the attempt ended, as far as it was heard: in a heartbeat, or later in its events."""
    beat = lease.step if lease else 0
    told = job.progress and job.progress_at and job.progress_at >= attempt.started_at
    return max(beat, job.progress["step"]) if told and job.progress else beat


def step_of(tx: Session, job: Job) -> int:
    return tx.scalar(select(Lease.step).where(Lease.job_id == job.id)) or 0


def keep_log(tx: Session, job: Job, log_tail: str) -> None:
    if log_tail:
        jobs.record(tx, job, "The end of the engine's log", data={"log": log_tail})


def poisoned(job: Job, last: messages.Failed, attempts: int) -> messages.Failed:
    return last.model_copy(
        update={
            "failure_class": FailureClass.POISONED,
            "code": "no_progress",
            "message": f"{last.message} {attempts} attempts in a row "
            + ("came to nothing." if job.exported_job_id else "reached no newer checkpoint."),
        }
    )


def backoff(doublings: int, settings: Settings) -> float:
    """Seconds, with a fifth of jitter, so that what failed together is not tried together."""
    pause = min(settings.retry_seconds * 2.0 ** max(doublings, 0), LONGEST_RETRY_SECONDS)
    return pause * random.uniform(0.8, 1.2)  # noqa: S311


def try_again(tx: Session, job: Job, reason: str, *, seconds: float, **columns: Any) -> None:  # noqa: ANN401
    message = f"{reason} Trying again" + (f" in {seconds:.0f} s." if seconds else ".")
    queue(tx, job, message, available_at=from_now(seconds), **columns)


def queue(
    tx: Session,
    job: Job,
    message: str,
    *,
    level: str = "warn",
    **columns: Any,  # noqa: ANN401
) -> None:
    jobs.move(
        tx,
        job.id,
        expected=RUNNING,
        to=JobState.QUEUED,
        under=job.token,
        message=message,
        level=level,
        **columns,
    )
