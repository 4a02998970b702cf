"""Jobs and exports that their user deletes: what hangs on them goes, and they are shown to nobody.

Their rows stay: what an attempt took is counted, and other jobs may have gone on from one.
"""

from collections.abc import Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from api.jobs import state
from api.jobs.exports import exports
from api.models import tuned
from api.storage.kept import kept_keys
from api.tables import (
    NOW,
    Artifact,
    Checkpoint,
    CheckpointPermission,
    EvaluationRow,
    Event,
    Job,
    JobMetadata,
    LogPart,
    SampleSet,
    TrackedRun,
)
from tunery.errors import Conflict
from tunery.states import JobState

PARTS = (Artifact, Checkpoint, EvaluationRow, Event, JobMetadata, LogPart, SampleSet, TrackedRun)


def delete_job(tx: Session, job_id: str) -> set[str]:
    """Deletes an ended job with its model, checkpoints, exports, events, samples and logs; returns
    their keys in storage, to be deleted after the commit. Its result file is the user's, as the
    data sets are.

    Raises:
        NotFound: no such job in this project, or it is deleted.
        Conflict: it has not ended; an unfinished job or export needs its model; it is shared.

    """
    job = state.lock(tx, job_id)
    require_ended(job)
    if user := tuned.unfinished_user(tx, job):
        raise Conflict(
            f"Job {job.id} is in use: {user}. Cancel that or wait for its end.", code="job_in_use"
        )
    shared = tx.scalars(
        select(CheckpointPermission.model).where(CheckpointPermission.job_id == job.id).limit(1)
    ).one_or_none()
    if shared:
        raise Conflict(
            f"{shared} is shared with another project. Take that permission back first: DELETE "
            f"/v1/fine_tuning/checkpoints/{shared}/permissions/ID.",
            code="job_in_use",
        )
    made = tx.scalars(select(Job.id).where(Job.exported_job_id == job.id))
    return clear(tx, [job.id, *made])


def delete_export(tx: Session, job_id: str, export_id: str) -> set[str]:
    """Deletes an ended export with its files, as `delete_job` does."""
    export = exports.get(tx, job_id, export_id, lock=True)
    require_ended(export)
    return clear(tx, [export.id])


def require_ended(job: Job) -> None:
    if not JobState(job.state).terminal:
        raise Conflict(
            f"{job.noun.capitalize()} {job.id} is {job.state}. Cancel it and wait for its end "
            "before you delete it.",
            code=f"{job.noun}_unfinished",
        )


def clear(tx: Session, job_ids: Sequence[str]) -> set[str]:
    keys = set[str]().union(*(kept_keys(tx, job_id) for job_id in job_ids))
    for part in PARTS:
        tx.execute(delete(part).where(part.job_id.in_(job_ids)))
    tx.execute(
        update(Job)
        .where(Job.id.in_(job_ids))
        .values(
            deleted_at=NOW,
            model_deleted_at=func.coalesce(Job.model_deleted_at, NOW),
            # What its user wrote.
            request={},
            suffix=None,
            has_metadata=False,
            error_message=None,
            evaluation=None,
            judge_at=None,
        )
    )
    return keys
