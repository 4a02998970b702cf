"""Data sets: stored as they came, checked line by line, in use until the last job on them ends.
One may be given a time to live.
"""

import logging
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Select, and_, case, func, literal, or_, select, update
from sqlalchemy.orm import Session, defer

from api.db.session import WAKE_CHANNEL
from api.files.schemas import FileExtras
from api.http.shapes import MOST_NAME_BYTES
from api.ids import new_id
from api.tables import NOW, File, Job, from_now
from tunery.data.check import Report
from tunery.data.columns import Columns
from tunery.data.rows import Fault
from tunery.errors import BytesDamaged, BytesGone, Conflict, InvalidRequest, NotFound
from tunery.states import UNFINISHED, FileState

FINE_TUNE = "fine-tune"
RESULTS = "fine-tune-results"
OTHER_PURPOSES = {"assistants", "batch", "vision", "user_data", "evals"}
CHECK_SECONDS = 900
CHECK_CLAIM_SECONDS = 60
MOST_CHECKS = 3
OVER_LIMITS = Fault(
    1, "", "over_limits", "the check reached its limits on memory or time", "Split the file"
)
UNREADABLE = Report(fault_count=1, faults=[OVER_LIMITS]).as_dict()
CRASHED = Fault(
    1,
    "",
    "check_failed",
    f"the service failed in each of {MOST_CHECKS} checks of this file",
    "Upload it again, and tell the operator of this service if that does not help",
)
NOT_CHECKED = Report(fault_count=1, faults=[CRASHED]).as_dict()

# Not as a parameter: the index is for this very word.
UPLOADED = literal(FileState.UPLOADED.value, literal_execute=True)
UNCHECKED = and_(File.status == UPLOADED, File.deleted_at.is_(None))

log = logging.getLogger(__name__)


def require_purpose(purpose: str) -> None:
    """Raises `InvalidRequest` for any but the one that is offered."""
    if purpose != FINE_TUNE:
        why = "is not offered here" if purpose in OTHER_PURPOSES else "is not a purpose"
        raise InvalidRequest(f"{purpose!r} {why}. Send {FINE_TUNE!r}.", param="purpose")


def add(
    tx: Session,
    project_id: str,
    *,
    key: str,
    filename: str,
    size: int,
    digest: str,
    expires_seconds: int | None = None,
    columns: Columns | None = None,
) -> File:
    """A stored upload's row. Its check is still to come."""
    now = tx.scalars(select(NOW)).one()
    file = File(
        id=new_id("file-"),
        project_id=project_id,
        filename=filename,
        purpose=FINE_TUNE,
        bytes=size,
        sha256=digest,
        key=key,
        columns=columns,
        status=FileState.UPLOADED,
        created_at=now,
        expires_at=now + timedelta(seconds=expires_seconds) if expires_seconds else None,
    )
    tx.add(file)
    tx.flush()
    tx.execute(select(func.pg_notify(WAKE_CHANNEL, "")))
    return file


def new_key() -> str:
    return new_id("files/")


def there() -> ColumnElement[bool]:
    """Neither deleted nor over its time. One that an unfinished job needs outlives its time."""
    kept = or_(File.expires_at.is_(None), File.expires_at > NOW, needed().exists())
    return and_(File.deleted_at.is_(None), kept)


def needed() -> Select[str]:
    """The unfinished jobs that need the file of the query around this."""
    return select(Job.id).where(
        or_(Job.training_file_id == File.id, Job.validation_file_id == File.id),
        Job.state.in_(UNFINISHED),
    )


def get(tx: Session, file_id: str, *, param: str | None = None, lock: bool = False) -> File:
    """A file that is there. `lock` keeps it from being deleted until the transaction ends."""
    query = select(File).where(File.id == file_id, there())
    file = tx.scalars(query.with_for_update(read=True) if lock else query).one_or_none()
    if file is None:
        raise NotFound(
            f"No file {file_id!r} in this project. List them with GET /v1/files, or upload it.",
            param=param,
        )
    return file


def list_newest(
    tx: Session, *, limit: int, after: str | None, purpose: str | None, ascending: bool
) -> list[File]:
    """Up to `limit` + 1 files."""
    # Ten thousand reports at once might be gigabytes.
    query = select(File).options(defer(File.report)).where(there())
    if purpose:
        query = query.where(File.purpose == purpose)
    if after:
        # A file deleted since the last page is still a good place to go on from.
        cursor = tx.scalar(select(File.sequence).where(File.id == after))
        if cursor is None:
            raise InvalidRequest(f"No file {after!r} to continue after.", param="after")
        query = query.where(File.sequence > cursor if ascending else File.sequence < cursor)
    order = File.sequence.asc() if ascending else File.sequence.desc()
    return list(tx.scalars(query.order_by(order).limit(limit + 1)))


def extras_of(tx: Session, file_ids: list[str]) -> dict[str, FileExtras]:
    """By the files' ids. Of the reports only those without faults are read: they are short."""
    checked = File.status == FileState.PROCESSED
    uses = or_(Job.training_file_id == File.id, Job.validation_file_id == File.id)
    jobs = select(func.count()).where(uses, Job.exported_job_id.is_(None), Job.deleted_at.is_(None))
    query = select(
        File.id,
        case((checked, File.report["rows"])),
        case((checked, File.report["formats"])),
        jobs.scalar_subquery(),
    ).where(File.id.in_(file_ids))
    return {
        file_id: FileExtras(rows=rows, format=next(iter(formats or ()), None), jobs=used)
        for file_id, rows, formats, used in tx.execute(query)
    }


def delete(tx: Session, file_id: str) -> str:
    """Marks the file deleted and returns its storage key, to be deleted after the commit."""
    file = tx.scalars(
        select(File).where(File.id == file_id, there()).with_for_update()
    ).one_or_none()
    if file is None:
        raise NotFound(f"No file {file_id!r} in this project.")
    job_id = tx.scalar(needed().where(File.id == file_id).limit(1))
    if job_id:
        raise Conflict(
            f"File {file_id} is in use by {job_id}. Cancel that or wait for its end.",
            code="file_in_use",
        )
    file.deleted_at = tx.scalar(select(NOW))
    return file.key


def expire(tx: Session) -> list[str]:
    """Deletes the files whose time is over, and returns their storage keys as `delete` does. Those
    that an unfinished job needs come up again. Idempotent.
    """
    over = select(File.id).where(File.deleted_at.is_(None), File.expires_at <= NOW)
    # The lock first: a job that was created in the meantime is seen after it.
    locked = list(tx.scalars(over.with_for_update(skip_locked=True)))
    return list(
        tx.scalars(
            update(File)
            .where(File.id.in_(locked), ~needed().exists())
            .values(deleted_at=NOW)
            .returning(File.key)
        )
    )


def check_in_subprocess(
    path: Path,
    name: str,
    most_rows: int,
    columns: Columns | None,
    *,
    seconds: float = CHECK_SECONDS,
) -> dict[str, Any] | None:
    """The report on a stored data set (see `tunery.data.check`), made in a process with limits on
    memory and time: the file is a stranger's, and so is its `name`, whose end says what it is. A
    process that breaks its limits is a fault too.
    None: the check was ended from outside, the file could not be read, or `seconds` were not
    enough.
    """
    try:
        check = subprocess.run(
            [
                *(sys.executable, "-m", "tunery.data.check"),
                *(str(path), name[-MOST_NAME_BYTES:], str(most_rows)),
                orjson.dumps(columns).decode(),
            ],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None if seconds < CHECK_SECONDS else UNREADABLE
    if check.returncode == -signal.SIGXCPU:
        return UNREADABLE
    if check.returncode < 0 or check.returncode == os.EX_IOERR:
        return None
    if check.returncode:
        log.error("the check of %s failed: %s", path.name, check.stderr.decode(errors="replace"))
        return UNREADABLE
    report: dict[str, Any] = orjson.loads(check.stdout)
    return report


def lost(error: BytesGone | BytesDamaged) -> dict[str, Any]:
    """The report on a file whose bytes are not those that were uploaded."""
    why = "its bytes are gone" if isinstance(error, BytesGone) else "its bytes are damaged"
    fault = Fault(1, "", error.code or "", f"{why} in the service's storage", "Upload it again")
    return Report(fault_count=1, faults=[fault]).as_dict()


def read_by(tx: Session, file_id: str, columns: Columns, *, param: str) -> None:
    """Has a file checked anew with these names of its columns, if it could not be read by others.
    Idempotent.

    Raises:
        InvalidRequest: it is read, or was to be, in another way.

    """
    file = tx.scalars(select(File).where(File.id == file_id, there()).with_for_update())
    found = file.one_or_none()
    if found is None or found.purpose != FINE_TUNE or found.columns == columns:
        return
    if found.columns or found.status == FileState.PROCESSED:
        own = f"with the columns {orjson.dumps(found.columns).decode()}" if found.columns else ""
        raise InvalidRequest(
            f"File {file_id} is read {own or 'as it is'}, and others may train on it so. To read "
            "it with other columns, upload it again with `columns`.",
            param=param,
        )
    found.columns = columns
    found.status, found.status_details, found.report = FileState.UPLOADED, None, None
    found.checks, found.checking_until = 0, None
    tx.flush()
    tx.execute(select(func.pg_notify(WAKE_CHANNEL, "")))


def record_report(
    tx: Session, file_id: str, report: dict[str, Any], columns: Columns | None
) -> None:
    """The end of a file's check with those columns. Idempotent. If it has others by now, its
    check is still to come.
    """
    file = tx.scalars(
        select(File).where(File.id == file_id, File.status == FileState.UPLOADED).with_for_update()
    ).one_or_none()
    if file is None or file.columns != columns:
        return
    file.status = FileState.PROCESSED if report["ok"] else FileState.ERROR
    file.status_details = report["summary"]
    file.report = report


def waiting_for_check(tx: Session) -> dict[str, int]:
    """The projects with files whose check nobody is at, and how many of theirs are being checked:
    first the project with the fewest, then the one whose file has waited longest.
    """
    waits = or_(File.checking_until.is_(None), File.checking_until < NOW)
    checked = func.count().filter(~waits).label("checked")
    rows = tx.execute(
        select(File.project_id, checked)
        .where(UNCHECKED)
        .group_by(File.project_id)
        .having(func.count().filter(waits) > 0)
        .order_by(checked, func.min(File.sequence).filter(waits))
    )
    return {row.project_id: row.checked for row in rows}


def claim_unchecked(tx: Session, project_id: str) -> File | None:
    """The project's next file whose check nobody else is at. One left behind by a crash comes up
    again.
    """
    file = tx.scalars(
        select(File)
        .where(
            UNCHECKED,
            File.project_id == project_id,
            or_(File.checking_until.is_(None), File.checking_until < NOW),
        )
        .order_by(File.sequence)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if file:
        file.checks += 1
        keep_checking(tx, file.id)
    return file


def put_off_check(tx: Session, file_id: str) -> None:
    """The check that was begun counts as none."""
    tx.execute(update(File).where(File.id == file_id).values(checks=File.checks - 1))


def keep_checking(tx: Session, file_id: str) -> None:
    """Renews the claim while the check goes on."""
    tx.execute(
        update(File).where(File.id == file_id).values(checking_until=from_now(CHECK_CLAIM_SECONDS))
    )
