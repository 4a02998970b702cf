"""What a project may have: its own limits, else the service's.

Those who add take turns by project until they have committed, so that two at once cannot pass a
limit that leaves room for one.
"""

from dataclasses import dataclass

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from api.db import take_lock
from api.settings import Settings
from api.tables import Job, Project, Upload
from tunery.errors import QuotaReached
from tunery.states import UNFINISHED, JobState, UploadState


@dataclass(frozen=True)
class Amounts:
    """Of limits, None: as much as it wants."""

    files: int | None
    file_bytes: int | None
    unfinished_jobs: int | None
    running_jobs: int | None


def limits_of(settings: Settings, project: Project) -> Amounts:
    return Amounts(
        files=first(project.most_files, settings.project_files),
        file_bytes=first(project.most_file_bytes, settings.project_file_bytes),
        unfinished_jobs=first(project.most_unfinished_jobs, settings.project_unfinished_jobs),
        running_jobs=first(project.most_running_jobs, settings.project_running_jobs),
    )


def first(own: int | None, of_service: int | None) -> int | None:
    return of_service if own is None else own


def used_by(tx: Session, project: Project) -> Amounts:
    files, file_bytes = stored_by(tx, project)
    return Amounts(
        files=files,
        file_bytes=file_bytes,
        unfinished_jobs=count_jobs(tx, project.id, UNFINISHED),
        running_jobs=count_jobs(tx, project.id, [JobState.RUNNING]),
    )


def stored_by(tx: Session, project: Project) -> tuple[int, int]:
    """Files and their bytes. An upload in parts counts as its file from its beginning."""
    pending = literal(UploadState.PENDING.value, literal_execute=True)
    count, size = tx.execute(
        select(func.count(), func.coalesce(func.sum(Upload.bytes), 0)).where(
            Upload.project_id == project.id, Upload.state == pending
        )
    ).one()
    return project.files + count, project.file_bytes + int(size)


def count_jobs(tx: Session, project_id: str, states: list[JobState]) -> int:
    """Of unfinished states."""
    # Not as parameters: the index is for these very words.
    words = [literal(state.value, literal_execute=True) for state in states]
    query = select(func.count()).where(Job.project_id == project_id, Job.state.in_(words))
    return tx.scalars(query).one()


def take_turn(tx: Session, project_id: str) -> Project:
    """The project, nobody else adding to it until this transaction ends."""
    take_lock(tx, f"quota {project_id}")
    return tx.get_one(Project, project_id, populate_existing=True)


def require_file(tx: Session, settings: Settings, project_id: str, size: int) -> None:
    """Room for one more file of so many bytes. Raises `QuotaReached`."""
    project = take_turn(tx, project_id)
    limits, used = limits_of(settings, project), stored_by(tx, project)
    if limits.files is not None and used[0] >= limits.files:
        raise reached(project, f"{used[0]:,} of at most {limits.files:,} files", "Delete some")
    if limits.file_bytes is not None and used[1] + size > limits.file_bytes:
        raise reached(
            project,
            f"{used[1]:,} of at most {limits.file_bytes:,} bytes in files, and this one has "
            f"{size:,}",
            "Delete some",
        )


def require_job(tx: Session, settings: Settings, project_id: str) -> None:
    """Room for one more unfinished job. Raises `QuotaReached`."""
    project = take_turn(tx, project_id)
    limit = limits_of(settings, project).unfinished_jobs
    if limit is None:
        return
    unfinished = count_jobs(tx, project_id, UNFINISHED)
    if unfinished >= limit:
        raise reached(
            project,
            f"{unfinished:,} of at most {limit:,} unfinished jobs",
            "Wait for one or cancel it",
        )


def reached(project: Project, what: str, mend: str) -> QuotaReached:
    return QuotaReached(
        f"Project {project.name!r} has {what}. {mend}, or ask the operator of this service for "
        "more."
    )
