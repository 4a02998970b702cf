"""/v1/files"""

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from api import files
from api.dependencies import AService, Reader, Service, Writer
from api.responses import stored_file
from api.schemas import Deleted, FileObject, Page, page, storable
from api.storage import Incoming
from api.upload import Form, read_form
from tunery.errors import Conflict, InvalidRequest

router = APIRouter(prefix="/v1/files")

OTHER_PURPOSES = {"assistants", "batch", "vision", "user_data", "evals"}


@router.post("")
async def upload(request: Request, service: AService, caller: Writer) -> FileObject:
    content_type = request.headers.get("content-type", "")
    with service.storage.receive(limit=service.settings.max_file_bytes) as incoming:
        form = await read_form(content_type, request.stream(), incoming, file_field="file")
        check_form(form, incoming)
        return await to_thread.run_sync(store, service, caller.project_id, form, incoming)


def check_form(form: Form, incoming: Incoming) -> None:
    if form.filename is None:
        raise InvalidRequest("The form has no file. Send it in the part `file`.", param="file")
    try:
        storable(form.filename)
    except ValueError as error:
        raise InvalidRequest(f"The file's name {error}.", param="file") from error
    purpose = form.fields.pop("purpose", None)
    if purpose is None:
        raise InvalidRequest(f"The form has no purpose. Send {files.FINE_TUNE!r}.", param="purpose")
    if purpose != files.FINE_TUNE:
        why = "is not offered here" if purpose in OTHER_PURPOSES else "is not a purpose"
        raise InvalidRequest(f"{purpose!r} {why}. Send {files.FINE_TUNE!r}.", param="purpose")
    for field in form.fields:
        raise InvalidRequest(f"{field} is not known here; remove it.", param=field)
    if incoming.size == 0:
        raise InvalidRequest("The file is empty. Send one JSON object on each line.", param="file")


def store(service: Service, project_id: str, form: Form, incoming: Incoming) -> FileObject:
    """Checks a small file before the answer, so that it is final; a large one is checked by the
    janitor. The bytes lie under their key before the row says so.
    """
    path = incoming.flush()
    small = incoming.size <= service.settings.check_at_once_bytes
    report = files.check_in_subprocess(path) if small else None
    key = files.new_key()
    incoming.keep(key)
    try:
        with service.db.as_project(project_id) as tx:
            file = files.add(
                tx,
                project_id,
                key=key,
                filename=form.filename or "",
                size=incoming.size,
                digest=incoming.digest,
            )
            if report:
                files.finish_check(tx, file.id, report)
    except BaseException:
        service.storage.delete(key)
        raise
    return FileObject.of(file)


@router.get("")
def list_files(
    service: AService,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: str | None = None,
    purpose: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> Page[FileObject]:
    with service.db.as_project(caller.project_id) as tx:
        rows = files.list_newest(
            tx, limit=limit, after=after, purpose=purpose, ascending=order == "asc"
        )
    return page(rows, limit, FileObject.of)


@router.get("/{file_id}")
def retrieve(file_id: str, service: AService, caller: Reader) -> FileObject:
    with service.db.as_project(caller.project_id) as tx:
        return FileObject.of(files.get(tx, file_id))


@router.delete("/{file_id}")
def delete(file_id: str, service: AService, caller: Writer) -> Deleted:
    with service.db.as_project(caller.project_id) as tx:
        key = files.delete(tx, file_id)
    service.storage.delete(key)
    return Deleted(id=file_id, object="file")


@router.get("/{file_id}/content")
def content(file_id: str, request: Request, service: AService, caller: Reader) -> Response:
    with service.db.as_project(caller.project_id) as tx:
        file = files.get(tx, file_id)
    return stored_file(
        request,
        service.storage,
        file.key,
        name=file.filename,
        etag=file.sha256,
    )


@router.get("/{file_id}/report")
def report(file_id: str, service: AService, caller: Reader) -> dict[str, Any]:
    """What the check found: rows, and every fault with line, field, reason and mend."""
    with service.db.as_project(caller.project_id) as tx:
        file = files.get(tx, file_id)
    if file.report is None:
        raise Conflict(f"File {file_id} has no report: its status is {file.status!r}.")
    return {"file_id": file.id, **file.report}
