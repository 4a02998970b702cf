"""What goes by itself after some days, if the operator has said so. Each batch is a transaction;
any number may do it at once: it is idempotent.
"""

from collections.abc import Callable, Iterable

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from api.db.session import Database
from api.files import files
from api.models import tuned
from api.settings import Settings
from api.storage.kept import kept_keys, keys_of
from api.storage.storage import Storage
from api.tables import NOW, Checkpoint, Event, File, Job, Upload, UploadPart, from_now
from tunery.states import JobState, UploadState

DAY = 24 * 3600
BATCH = 500
JOBS = 20

ENDED = [state for state in JobState if state.terminal]


def clear(db: Database, storage: Storage, settings: Settings) -> None:
    for forget, days in (
        (old_files, settings.keep_files_days),
        (checkpoints_without_a_model, settings.keep_checkpoints_days),
        (old_events, settings.keep_events_days),
        (ended_uploads, settings.keep_deleted_days),
        (deleted_files, settings.keep_deleted_days),
        (old_audit, settings.keep_audit_days),
    ):
        if days is not None:
            storage.discard(in_batches(db, forget, days * DAY))


def in_batches(
    db: Database, forget: Callable[[Session, float], list[str] | None], seconds: float
) -> Iterable[str]:
    """Storage keys, to be deleted after each commit, until there is nothing more to forget."""
    while True:
        with db.as_control() as tx:
            keys = forget(tx, seconds)
        if keys is None:
            return
        yield from keys


def old_files(tx: Session, seconds: float) -> list[str] | None:
    """Deletes files of one project by their age, as `files.delete` does; but none that an
    unfinished job needs.
    """
    old = select(File.id).where(
        File.deleted_at.is_(None), File.created_at < from_now(-seconds), ~files.needed().exists()
    )
    project = tx.scalar(old.with_only_columns(File.project_id).limit(1))
    # The lock first: a job that was created in the meantime is seen after it.
    of_project = old.where(File.project_id == project).limit(BATCH)
    locked = list(tx.scalars(of_project.with_for_update(skip_locked=True)))
    gone = list(
        tx.scalars(
            update(File)
            .where(File.id.in_(locked), ~files.needed().exists())
            .values(deleted_at=NOW)
            .returning(File.key)
        )
    )
    return gone or None


def checkpoints_without_a_model(tx: Session, seconds: float) -> list[str] | None:
    """Of a job that failed or was cancelled: its checkpoints, but for what is shared or in use."""
    long_over = Job.finished_at < from_now(-seconds)
    has_some = select(Checkpoint.job_id).where(Checkpoint.job_id == Job.id).exists()
    ended = (
        select(Job)
        .where(Job.state.in_([JobState.FAILED, JobState.CANCELLED]), long_over, has_some)
        .order_by(Job.project_id, Job.sequence)
        .with_for_update(skip_locked=True)
    )
    for job in tx.scalars(ended.limit(BATCH)):
        wanted = tuned.steps_in_use(tx, job.id)
        rows = tx.scalars(
            select(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.step.not_in(wanted))
        ).all()
        if rows:
            keys = set[str]().union(*map(keys_of, rows))
            for row in rows:
                tx.delete(row)
            tx.flush()
            return list(keys - kept_keys(tx, job.id))
    return None


def old_events(tx: Session, seconds: float) -> list[str] | None:
    """Of jobs and exports by the age of their end."""
    over = tx.scalars(
        select(Job.id)
        .where(
            Job.state.in_(ENDED),
            Job.finished_at < from_now(-seconds),
            select(Event.job_id).where(Event.job_id == Job.id).exists(),
        )
        .limit(JOBS)
    ).all()
    tx.execute(delete(Event).where(Event.job_id.in_(over)))
    return [] if over else None


def ended_uploads(tx: Session, seconds: float) -> list[str] | None:
    """Rows of uploads by the age of their end; of a completed one the file stays."""
    gone = tx.scalars(
        delete(Upload)
        .where(
            Upload.id.in_(
                select(Upload.id)
                .where(
                    Upload.state != UploadState.PENDING,
                    Upload.expires_at < from_now(-seconds),
                    ~select(UploadPart.id).where(UploadPart.upload_id == Upload.id).exists(),
                )
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            )
        )
        .returning(Upload.id)
    ).all()
    return [] if gone else None


def deleted_files(tx: Session, seconds: float) -> list[str] | None:
    """Rows of deleted files that no job and no upload names."""
    named = (
        select(Job.id).where(Job.training_file_id == File.id).exists()
        | select(Job.id).where(Job.validation_file_id == File.id).exists()
        | select(Job.id).where(Job.result_file_id == File.id).exists()
        | select(Upload.id).where(Upload.file_id == File.id).exists()
    )
    gone = tx.scalars(
        delete(File)
        .where(
            File.id.in_(
                select(File.id)
                .where(File.deleted_at < from_now(-seconds), ~named)
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            )
        )
        .returning(File.id)
    ).all()
    return [] if gone else None


def old_audit(tx: Session, seconds: float) -> list[str] | None:
    age = func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    gone = tx.scalars(select(func.forget_audit(age, BATCH))).one()
    return [] if gone else None
