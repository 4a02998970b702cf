"""Whose fault a failed attempt was: the user's, the base model's, the machine's, or nobody's here.
What follows from that is `api.jobs.queue.attempts`'.
"""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from api.tables import Attempt, BaseModel, Job, Worker
from tunery import messages
from tunery.messages import DATA_PHASES
from tunery.states import AttemptEnd, FailureClass

FAULTS = {FailureClass.INFRA, FailureClass.OOM}


def judged(tx: Session, job: Job, failed: messages.Failed) -> messages.Failed:
    """What a worker says of an attempt, with what was known of the one before it: where two in a
    row break on the same data file, whatever their machines, the file is at fault.
    """
    if failed.phase not in DATA_PHASES or failed.failure_class not in FAULTS:
        return failed
    before = tx.execute(
        select(Attempt.phase)
        .where(
            Attempt.job_id == job.id,
            Attempt.token < job.token,
            Attempt.outcome == AttemptEnd.FAILED,
            Attempt.failure_class.in_(FAULTS),
        )
        .order_by(Attempt.token.desc())
        .limit(1)
    ).scalar_one_or_none()
    if before != failed.phase:
        return failed
    file = failed.phase.replace("_", " ")
    if failed.failure_class is FailureClass.OOM:
        code = "data_too_large"
        remedy = f"Give a smaller {file}: fewer rows, or shorter ones."
    else:
        code = "data_unreadable"
        remedy = f"Look for unusual rows in the {file}, or split it to find the one."
    message = f"{failed.message} Two attempts in a row ended there. {remedy}"
    return failed.model_copy(
        update={"failure_class": FailureClass.USER, "code": code, "message": message}
    )


def is_machines(failed: messages.Failed) -> bool:
    """Whether it counts against the worker that it happened on. What breaks on the data or while
    the base is loaded does not, nor does an error of the engine's own program.
    """
    return (
        failed.failure_class == FailureClass.INFRA
        and failed.code not in {messages.API_REFUSED, messages.ENGINE_ERROR}
        and failed.phase not in {"base", *DATA_PHASES}
    )


def block_base(tx: Session, job: Job, failed: messages.Failed) -> None:
    """No job starts from the base on workers of that build any more until it is registered again,
    unless it was, with other files, since this one was made.
    """
    revision = (job.spec or {}).get("base_revision", BaseModel.revision)
    attempt = tx.get_one(Attempt, (job.id, job.token))
    worker = tx.get(Worker, attempt.worker_id)
    build = worker.build if worker and worker.build else ""
    tx.execute(
        update(BaseModel)
        .where(BaseModel.id == job.base_model_id, BaseModel.revision == revision)
        .values(
            broken=func.coalesce(BaseModel.broken, failed.message),
            broken_for=func.array_append(BaseModel.broken_for, build),
        )
    )
