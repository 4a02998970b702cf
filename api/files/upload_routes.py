"""/v1/uploads"""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api.files import files, uploads
from api.files.keeping import Kept, kept
from api.files.routes import announced, check_at_once
from api.files.schemas import FileObject
from api.files.upload_schemas import (
    CompleteUpload,
    CreateUpload,
    PartObject,
    UploadId,
    UploadObject,
)
from api.http import idempotency
from api.http.dependencies import AServer, SentAs, Server, Writer
from api.http.edge import ANY_SIZE
from api.http.form import Form, body_of_form, read_form
from api.http.routing import Route
from api.storage.incoming import Incoming
from api.tables import File, Upload
from api.tenants import arrivals, audit
from api.tenants.places import in_thread
from api.tenants.projects import Caller
from tunery.data.columns import Columns
from tunery.errors import BytesGone, InvalidRequest
from tunery.states import UploadState

router = APIRouter(prefix="/v1/uploads", route_class=Route, tags=["Uploads"])


@router.post("", response_model=UploadObject)
def create(asked: CreateUpload, sent: SentAs, server: AServer, caller: Writer) -> JSONResponse:
    """Begins an upload in parts. It must be completed within an hour."""
    ours = caller.project_id

    def make() -> UploadObject:
        upload = uploads.create(tx, server.settings, ours, asked)
        audit.record(tx, caller, "upload.create", upload.id)
        return UploadObject.of(upload)

    with server.db.as_project(ours) as tx:
        answer = idempotency.once(
            tx,
            ours,
            sent,
            {"route": "uploads", **asked.model_dump(mode="json")},
            make,
            lambda upload_id: uploads.get(tx, upload_id).state == UploadState.PENDING,
        )
    return JSONResponse(answer)


@router.post(
    "/{upload_id}/parts",
    max_body_size=ANY_SIZE,
    openapi_extra=body_of_form("data", "The bytes of the part.", {}),
)
async def add_part(
    upload_id: UploadId, request: Request, server: AServer, caller: Writer
) -> PartObject:
    """Adds one part."""
    content_type = request.headers.get("content-type", "")
    ours = caller.project_id
    most = uploads.MAX_PART_BYTES

    def require(tx: Session, arrival_id: str, size: int) -> None:
        nonlocal most
        upload = uploads.require_room(tx, upload_id, size, arrival=arrival_id)
        # No part of a file is larger than the file.
        most = min(uploads.MAX_PART_BYTES, upload.bytes)

    # Before the bytes come: they may be many.
    arriving = arrivals.arriving(
        server.db, ours, announced(request), first=require, later=require, upload_id=upload_id
    )
    async with arriving as arrival:
        with server.storage.receive(limit=most, what="part") as incoming:
            body = arrival.counting(request.stream(), incoming)
            form = await read_form(content_type, body, incoming, file_field="data")
            check_part(form, incoming)
            await server.reads.run(ours, incoming.flush)
            async with kept(server, ours, incoming, uploads.new_part_key()) as made:
                size, arrived = incoming.size, arrival.id
                return await in_thread(store_part, server, ours, upload_id, size, arrived, made)


def check_part(form: Form, incoming: Incoming) -> None:
    for field in form.fields:
        raise InvalidRequest(f"{field} is not known here; remove it.", param=field)
    if incoming.size == 0:
        raise InvalidRequest("The form has no bytes. Send them in the part `data`.", param="data")


def store_part(
    server: Server, project_id: str, upload_id: str, size: int, arrival_id: str, made: Kept
) -> PartObject:
    with server.db.as_project(project_id) as tx:
        part = uploads.add_part(tx, upload_id, key=made.key, size=size, arrival=arrival_id)
        arrivals.forget(tx, arrival_id)
        made.used = True
        return PartObject.of(part)


@router.post("/{upload_id}/complete")
async def complete(
    upload_id: UploadId, asked: CompleteUpload, server: AServer, caller: Writer
) -> UploadObject:
    """A crash on the way leaves the upload pending and its parts where they are."""
    ours = caller.project_id
    known = await in_thread(look_for, server, ours, upload_id, asked)
    if isinstance(known, UploadObject):
        return known
    name, columns, keys = known
    with server.storage.receive(limit=server.settings.max_file_bytes) as incoming:
        try:
            join = partial(uploads.put_together, server.storage, keys, incoming)
            found = await server.joins.run(ours, join)
        except BytesGone:
            # Another request, or the janitor, has ended the upload in the meantime.
            known = await in_thread(look_for, server, ours, upload_id, asked)
            if isinstance(known, UploadObject):
                return known
            raise
        uploads.require_md5(found, asked)
        report = await check_at_once(server, caller, incoming, name, columns)
        async with kept(server, ours, incoming, files.new_key()) as made:
            given = (asked, incoming, found, report, made)
            return await in_thread(store, server, caller, upload_id, *given)


def look_for(
    server: Server, project_id: str, upload_id: str, asked: CompleteUpload
) -> UploadObject | tuple[str, Columns | None, list[str]]:
    """The answer if it was given before, else the file's name, its columns, and the keys of the
    parts.
    """
    with server.db.as_project(project_id) as tx:
        known = uploads.completed(tx, upload_id, asked)
        if known:
            return completed(tx, *known)
        keys = [part.key for part in uploads.parts_named(tx, upload_id, asked.part_ids)]
        upload = uploads.get(tx, upload_id)
        return upload.filename, upload.columns, keys


def completed(tx: Session, upload: Upload, file: File) -> UploadObject:
    extras = files.extras_of(tx, [file.id])[file.id]
    return UploadObject.of(upload, FileObject.of(file, extras))


def store(
    server: Server,
    caller: Caller,
    upload_id: str,
    asked: CompleteUpload,
    incoming: Incoming,
    found: str,
    report: dict[str, Any] | None,
    made: Kept,
) -> UploadObject:
    """Of two completions at once, one makes the file and the other answers with it. There is room
    for it: its upload was counted.
    """
    with server.db.as_project(caller.project_id) as tx:
        upload = uploads.get(tx, upload_id, lock=True)
        known = uploads.same(tx, upload, asked)
        if known:
            return completed(tx, *known)
        made.used = True
        file = files.add(
            tx,
            caller.project_id,
            key=made.key,
            filename=upload.filename,
            size=incoming.size,
            digest=incoming.digest,
            expires_seconds=upload.file_expires_seconds,
            columns=upload.columns,
        )
        if report:
            files.record_report(tx, file.id, report, upload.columns)
        uploads.complete(upload, file, asked, found)
        audit.record(tx, caller, "upload.complete", upload_id)
        dropped = uploads.drop_parts(tx, [upload_id])
        answer = completed(tx, upload, file)
    server.storage.discard(dropped)
    return answer


@router.post("/{upload_id}/cancel")
def cancel(upload_id: UploadId, server: AServer, caller: Writer) -> UploadObject:
    """Cancels the upload and deletes its parts."""
    with server.db.as_project(caller.project_id) as tx:
        answer = UploadObject.of(uploads.cancel(tx, upload_id))
        audit.record(tx, caller, "upload.cancel", upload_id)
        dropped = uploads.drop_parts(tx, [upload_id])
    server.storage.discard(dropped)
    return answer
