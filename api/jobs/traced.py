"""What API and janitor tell of a job's way (`tunery.traces`), each span once its transaction is
committed.
"""

import time
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from api.tables import Attempt, Job
from tunery import traces
from tunery.states import AttemptEnd, JobState


def created(tx: Session, job: Job, began: int, traceparent: str | None) -> None:
    """The request that made the job; `began` in nanoseconds."""
    if traces.on():
        after_commit(
            tx,
            "POST /v1/fine_tuning/jobs",
            began,
            within=traces.whole(job.id),
            links=(traces.link_to(traceparent),),
            server=True,
        )


def moved(tx: Session, job: Job, came_from: set[JobState]) -> None:
    """What the job's move has ended: a wait, or the whole job."""
    if not traces.on():
        return
    within = traces.whole(job.id)
    match JobState(job.state):
        case JobState.QUEUED if JobState.VALIDATING_FILES in came_from:
            after_commit(tx, "check of the files", job.created_at, within=within)
        case JobState.RUNNING:
            after_commit(tx, "queue", job.available_at, within=within, attempt=job.token)
        case state if state.terminal:
            after_commit(
                tx,
                job.noun,
                job.created_at,
                ended=job.finished_at,
                within=None,
                at=within,
                links=(traces.link_to_job(job.exported_job_id or job.source_job_id),),
                failed=job.error_message,
                state=job.state,
                project=job.project_id,
                base_model=job.base_model_id,
                failure_class=job.failure_class,
            )


def ended(tx: Session, attempt: Attempt) -> None:
    if traces.on():
        bad = attempt.outcome in {AttemptEnd.FAILED, AttemptEnd.LOST}
        after_commit(
            tx,
            "attempt",
            attempt.started_at,
            ended=attempt.ended_at,
            within=traces.whole(attempt.job_id),
            at=traces.attempt(attempt.job_id, attempt.token),
            failed=attempt.message or attempt.outcome if bad else None,
            attempt=attempt.token,
            outcome=attempt.outcome,
            failure_class=attempt.failure_class,
            worker=attempt.worker,
            step=attempt.step,
        )


def after_commit(
    tx: Session,
    name: str,
    began: traces.Moment,
    *,
    ended: traces.Moment | None = None,
    **facts: Any,  # noqa: ANN401
) -> None:
    """A transaction that is taken back tells nothing."""
    tell = partial(traces.tell, name, began, ended or time.time_ns(), **facts)
    event.listen(tx, "after_commit", lambda _: tell(), once=True)
