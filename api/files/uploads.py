"""Files that come in parts: announced, sent part by part, and put together in the order named."""

from collections.abc import Iterable
from datetime import timedelta
from hashlib import md5

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from api.files import files
from api.files.upload_schemas import MOST_PARTS, CompleteUpload, CreateUpload
from api.ids import new_id
from api.settings import Settings
from api.storage.incoming import Incoming
from api.storage.storage import Storage
from api.tables import NOW, File, Upload, UploadPart
from api.tenants import arrivals, quotas
from tunery.errors import Conflict, InvalidRequest, NotFound
from tunery.states import UploadState

MAX_PART_BYTES = 64 << 20
LIFE = timedelta(hours=1)


def create(tx: Session, settings: Settings, project_id: str, asked: CreateUpload) -> Upload:
    """Raises `QuotaReached` where the project has no room for the file."""
    files.require_purpose(asked.purpose)
    most = settings.max_file_bytes
    if asked.bytes > most:
        raise InvalidRequest(
            f"A file has at most {most:,} bytes here, not {asked.bytes:,}.", param="bytes"
        )
    quotas.require_file(tx, settings, project_id, asked.bytes)
    now = tx.scalars(select(NOW)).one()
    upload = Upload(
        id=new_id("upload_"),
        project_id=project_id,
        filename=asked.filename,
        purpose=asked.purpose,
        bytes=asked.bytes,
        columns=asked.columns,
        file_expires_seconds=asked.expires_after.seconds if asked.expires_after else None,
        state=UploadState.PENDING,
        created_at=now,
        expires_at=now + LIFE,
    )
    tx.add(upload)
    tx.flush()
    return upload


def get(tx: Session, upload_id: str, *, lock: bool = False) -> Upload:
    """One whose time is over is expired, swept or not. `lock` keeps it as it is until the
    transaction ends.
    """
    query = select(Upload, Upload.expires_at <= NOW).where(Upload.id == upload_id)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"No upload {upload_id!r} in this project.")
    upload, over = row
    if upload.state == UploadState.PENDING and over:
        # To look at, not to keep: it is the sweep that ends it, and its parts with it.
        set_committed_value(upload, "state", UploadState.EXPIRED)
    return upload


def require_pending(upload: Upload) -> None:
    if upload.state != UploadState.PENDING:
        raise Conflict(
            f"Upload {upload.id} is {upload.state}. Create another one and send its parts.",
            code=f"upload_{upload.state}",
        )


def new_part_key() -> str:
    return new_id("parts/")


def add_part(tx: Session, upload_id: str, *, key: str, size: int, arrival: str) -> UploadPart:
    """A stored part's row, which came as that arrival. A part sent twice is two parts; the one that
    is not named is dropped.
    """
    upload = require_room(tx, upload_id, size, arrival=arrival)
    part = UploadPart(
        id=new_id("part_"), project_id=upload.project_id, upload_id=upload_id, bytes=size, key=key
    )
    tx.add(part)
    tx.flush()
    return part


def require_room(tx: Session, upload_id: str, size: int, *, arrival: str) -> Upload:
    """The pending upload, locked, with room for a part of so many bytes."""
    upload = get(tx, upload_id, lock=True)
    require_pending(upload)
    count, total = tx.execute(
        select(func.count(), func.coalesce(func.sum(UploadPart.bytes), 0)).where(
            UploadPart.upload_id == upload_id
        )
    ).one()
    if count == MOST_PARTS:
        raise InvalidRequest(f"An upload has at most {MOST_PARTS:,} parts. Send larger ones.")
    # Room for each of the SDK's three tries of every part, and no more: the project's quota counts
    # what was announced.
    room = 3 * upload.bytes
    total += arrivals.of_upload(tx, upload_id, but=arrival)
    if total + size > room:
        raise InvalidRequest(
            f"The parts of upload {upload_id} hold {total:,} bytes already, and it announced "
            f"{upload.bytes:,}. Complete it, or create another one."
        )
    return upload


def completed(tx: Session, upload_id: str, asked: CompleteUpload) -> tuple[Upload, File] | None:
    """The upload and its file, if this very request completed it before; None while it is pending.

    Raises `Conflict` in any other state.
    """
    return same(tx, get(tx, upload_id), asked)


def same(tx: Session, upload: Upload, asked: CompleteUpload) -> tuple[Upload, File] | None:
    if upload.state == UploadState.COMPLETED and upload.part_ids == asked.part_ids:
        require_md5(upload.md5 or "", asked)
        return upload, tx.get_one(File, upload.file_id)
    require_pending(upload)
    return None


def parts_named(tx: Session, upload_id: str, part_ids: list[str]) -> list[UploadPart]:
    """In the order of the ids. Raises `InvalidRequest` for a part that is unknown here or named
    twice, and if together they are not of the size announced.
    """
    upload = get(tx, upload_id)
    rows = tx.scalars(select(UploadPart).where(UploadPart.upload_id == upload_id))
    known = {part.id: part for part in rows}
    parts = []
    for number, part_id in enumerate(part_ids):
        part = known.pop(part_id, None)
        if part is None:
            why = "named twice" if part_id in part_ids[:number] else "none of this upload's"
            raise InvalidRequest(f"Part {part_id!r} is {why}.", param=f"part_ids.{number}")
        parts.append(part)
    total = sum(part.bytes for part in parts)
    if total != upload.bytes:
        raise InvalidRequest(
            f"The parts named hold {total:,} bytes, and the upload announced "
            f"{upload.bytes:,}. Send or name the parts that are missing, or create another upload.",
            param="part_ids",
        )
    return parts


def put_together(storage: Storage, keys: Iterable[str], incoming: Incoming) -> str:
    """Writes the parts one after the other; the MD5 of all, in hex. Raises `BytesGone` where a part
    is: as a rule because the upload is no longer pending.
    """
    digest = md5(usedforsecurity=False)
    for key in keys:
        for chunk in storage.read(key):
            incoming.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def require_md5(found: str, asked: CompleteUpload) -> None:
    if asked.md5 and asked.md5.lower() != found:
        raise InvalidRequest(
            f"The parts make a file with the MD5 {found}, not {asked.md5}. Send again what broke "
            "on its way, or name the parts in another order.",
            param="md5",
        )


def complete(upload: Upload, file: File, asked: CompleteUpload, found: str) -> None:
    """The pending upload, locked, has become this file. Its parts are to be dropped."""
    upload.state = UploadState.COMPLETED
    upload.file_id = file.id
    upload.part_ids = asked.part_ids
    upload.md5 = found


def cancel(tx: Session, upload_id: str) -> Upload:
    """Its parts are to be dropped. Idempotent. Raises `Conflict` for one that has ended."""
    upload = get(tx, upload_id, lock=True)
    if upload.state != UploadState.CANCELLED:
        require_pending(upload)
        upload.state = UploadState.CANCELLED
    return upload


def drop_parts(tx: Session, upload_ids: Iterable[str]) -> list[str]:
    """Deletes the parts' rows and returns their storage keys, to be deleted after the commit."""
    gone = delete(UploadPart).where(UploadPart.upload_id.in_(upload_ids)).returning(UploadPart.key)
    return list(tx.scalars(gone))


def expire(tx: Session) -> list[str]:
    """Ends the uploads whose time is over, and returns as `drop_parts` does. Idempotent."""
    over = select(Upload.id).where(Upload.state == UploadState.PENDING, Upload.expires_at <= NOW)
    ended = tx.scalars(
        update(Upload)
        .where(Upload.id.in_(over.with_for_update(skip_locked=True)))
        .values(state=UploadState.EXPIRED)
        .returning(Upload.id)
    )
    return drop_parts(tx, list(ended))
