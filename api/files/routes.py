"""/v1/files"""

import json
import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from api.files import files, tokens
from api.files.keeping import Kept, kept
from api.files.schemas import ColumnNames, ExpiresAfter, FileObject
from api.http import idempotency
from api.http.dependencies import MOST, After, AServer, Order, Reader, SentAs, Server, Writer
from api.http.edge import ANY_SIZE
from api.http.form import Form, body_of_form, read_form
from api.http.idempotency import Sent
from api.http.responses import STORED_FILE, proven, stored_file
from api.http.routing import Route
from api.http.shapes import Deleted, Page, nameable, page, storable
from api.models import tuned
from api.models.templates import chosen
from api.models.tuned import Tuned
from api.storage.incoming import Incoming
from api.tables import BaseModel, File, Project
from api.tenants import arrivals, audit, quotas
from api.tenants.places import in_thread
from api.tenants.projects import Caller
from tunery.data.columns import Columns
from tunery.errors import Conflict, InvalidRequest, RateLimited
from tunery.fields import FileId

router = APIRouter(prefix="/v1/files", route_class=Route, tags=["Files"])

# A check that takes longer, or waits too long for its turn, is left to the janitor.
CHECK_SECONDS = 5
# More than a form has around its file.
FRAMING_BYTES = 1 << 16

COLUMNS: TypeAdapter[Columns] = TypeAdapter(ColumnNames)
A_COLUMN = re.compile(r"columns\[(.*)\]", re.DOTALL)
PURPOSE = {"const": files.FINE_TUNE, "description": "What the file is for."}
FIELDS: dict[str, Any] = {"purpose": PURPOSE} | {
    f"expires_after[{name}]": schema
    for name, schema in ExpiresAfter.model_json_schema()["properties"].items()
}
FIELDS["columns"] = COLUMNS.json_schema()


@router.post(
    "",
    max_body_size=ANY_SIZE,
    response_model=FileObject,
    openapi_extra=body_of_form("file", "The data set.", FIELDS, required=("purpose",)),
)
async def upload(request: Request, sent: SentAs, server: AServer, caller: Writer) -> JSONResponse:
    """Uploads a data set and checks it: at once, or in the background where that takes long."""
    content_type = request.headers.get("content-type", "")
    ours, settings = caller.project_id, server.settings

    def first(tx: Session, arrival_id: str, size: int) -> None:
        quotas.require_file(tx, settings, ours, size, arrival=arrival_id)

    def later(tx: Session, arrival_id: str, size: int) -> None:
        project = tx.get_one(Project, ours, populate_existing=True)
        quotas.require_room(tx, settings, project, size, arrival=arrival_id)

    # Before the bytes come: what cannot be kept need not be sent.
    arriving = arrivals.arriving(server.db, ours, announced(request), first=first, later=later)
    async with arriving as arrival:
        with server.storage.receive(limit=settings.max_file_bytes) as incoming:
            body = arrival.counting(request.stream(), incoming)
            form = await read_form(content_type, body, incoming, file_field="file")
            asked = read_fields(form, incoming)
            report = await check_at_once(server, caller, incoming, asked.filename, asked.columns)
            async with kept(server, ours, incoming, files.new_key()) as made:
                answer = await in_thread(
                    store, server, caller, sent, asked, incoming, report, arrival.id, made
                )
    return JSONResponse(answer)


def announced(request: Request) -> int:
    """The bytes that a file in this form has at least, as far as its request says."""
    length = request.headers.get("content-length", "")
    return max(0, int(length) - FRAMING_BYTES) if re.fullmatch(r"[0-9]{1,18}", length) else 0


async def check_at_once(
    server: Server, caller: Caller, incoming: Incoming, name: str, columns: Columns | None
) -> dict[str, Any] | None:
    """The report on what came, if it is small enough for an answer to wait; it is on disk then."""
    path = await server.reads.run(caller.project_id, incoming.flush)
    if incoming.size > server.settings.check_at_once_bytes:
        return None
    most_rows = server.settings.max_file_rows
    check = partial(
        files.check_in_subprocess, path, name, most_rows, columns, seconds=CHECK_SECONDS
    )
    try:
        return await server.checks.run(caller.project_id, check)
    except RateLimited:
        return None


@dataclass
class Asked:
    filename: str
    expires_seconds: int | None
    columns: Columns | None


def read_fields(form: Form, incoming: Incoming) -> Asked:
    if form.filename is None:
        raise InvalidRequest("The form has no file. Send it in the part `file`.", param="file")
    try:
        nameable(storable(form.filename))
    except ValueError as error:
        raise InvalidRequest(f"The file's name {error}.", param="file") from error
    purpose = form.fields.pop("purpose", None)
    if purpose is None:
        raise InvalidRequest(f"The form has no purpose. Send {files.FINE_TUNE!r}.", param="purpose")
    files.require_purpose(purpose)
    expires_seconds, columns = read_expiry(form.fields), read_columns(form.fields)
    for field in form.fields:
        raise InvalidRequest(f"{field} is not known here; remove it.", param=field)
    if incoming.size == 0:
        raise InvalidRequest("The file is empty. Send one JSON object on each line.", param="file")
    return Asked(form.filename, expires_seconds, columns)


def read_expiry(fields: dict[str, str]) -> int | None:
    """Takes `expires_after[anchor]` and `expires_after[seconds]` out of the form's fields."""
    given: dict[str, str | int] = {}
    for name in ExpiresAfter.model_fields:
        value = fields.pop(f"expires_after[{name}]", None)
        if value is not None:
            given[name] = int(value) if name == "seconds" and value.isdecimal() else value
    if not given:
        return None
    try:
        return ExpiresAfter.model_validate(given).seconds
    except ValidationError as error:
        faults = [fault | {"loc": ("expires_after", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error


def read_columns(fields: dict[str, str]) -> Columns | None:
    """Takes `columns`, in JSON, or `columns[prompt]` and the like out of the form's fields."""
    written = fields.pop("columns", None)
    parts = {name: found[1] for name in fields if (found := A_COLUMN.fullmatch(name))}
    given: Any = {ours: fields.pop(name) for name, ours in parts.items()}
    if written is not None:
        try:
            given = json.loads(written)
        except ValueError as error:
            raise InvalidRequest(
                'columns is not JSON. Send it as {"prompt": "question", "completion": "answer"}.',
                param="columns",
            ) from error
    elif not parts:
        return None
    try:
        return COLUMNS.validate_python(given)
    except ValidationError as error:
        faults = [fault | {"loc": ("columns", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error


def store(
    server: Server,
    caller: Caller,
    sent: Sent,
    asked: Asked,
    incoming: Incoming,
    report: dict[str, Any] | None,
    arrival_id: str,
    made: Kept,
) -> dict[str, Any]:
    """The file's row, unless the same upload came before."""
    digest, project_id = incoming.digest, caller.project_id

    def add() -> FileObject:
        quotas.require_file(tx, server.settings, project_id, incoming.size, arrival=arrival_id)
        arrivals.forget(tx, arrival_id)
        made.used = True
        file = files.add(
            tx,
            project_id,
            key=made.key,
            filename=asked.filename,
            size=incoming.size,
            digest=digest,
            expires_seconds=asked.expires_seconds,
            columns=asked.columns,
        )
        if report:
            files.record_report(tx, file.id, report, asked.columns)
        audit.record(tx, caller, "file.create", file.id)
        return FileObject.of(file, files.extras_of(tx, [file.id])[file.id])

    with server.db.as_project(project_id) as tx:
        return idempotency.once(
            tx,
            project_id,
            sent,
            {
                "route": "files",
                "purpose": files.FINE_TUNE,
                "name": asked.filename,
                "sha256": digest,
                "expires_after": asked.expires_seconds,
                "columns": asked.columns,
            },
            add,
            lambda file_id: tx.get_one(File, file_id).deleted_at is None,
        )


@router.get("")
def list_files(
    server: AServer,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=10_000, description=MOST)] = 10_000,
    after: After = None,
    purpose: Annotated[str | None, Query(description="Only files of this purpose.")] = None,
    order: Order = "desc",
) -> Page[FileObject]:
    """Lists the project's files."""
    with server.db.as_project(caller.project_id) as tx:
        rows = files.list_newest(
            tx, limit=limit, after=after, purpose=purpose, ascending=order == "asc"
        )
        known = files.extras_of(tx, [file.id for file in rows[:limit]])
    return page(rows, limit, lambda file: FileObject.of(file, known[file.id]))


@router.get("/{file_id}")
def retrieve(file_id: FileId, server: AServer, caller: Reader) -> FileObject:
    """Returns one file."""
    with server.db.as_project(caller.project_id) as tx:
        file = files.get(tx, file_id)
        return FileObject.of(file, files.extras_of(tx, [file_id])[file_id])


@router.delete("/{file_id}")
def delete(file_id: FileId, server: AServer, caller: Writer) -> Deleted:
    """Deletes a file. Refused while an unfinished job needs it."""
    with server.db.as_project(caller.project_id) as tx:
        key = files.delete(tx, file_id)
        audit.record(tx, caller, "file.delete", file_id)
    server.storage.discard([key])
    return Deleted(id=file_id, object="file")


@router.get("/{file_id}/content", response_class=Response, responses=STORED_FILE)
async def content(file_id: FileId, request: Request, server: AServer, caller: Reader) -> Response:
    """Returns the file's bytes, whole or in ranges."""
    file, *_ = await in_thread(look_up, server, caller.project_id, file_id, None)
    return await stored_file(request, server, file.key, name=file.filename, digest=file.sha256)


@router.get("/{file_id}/report")
async def report(
    file_id: FileId,
    server: AServer,
    caller: Reader,
    model: Annotated[
        str | None, Query(description="Base or tuned model to count the rows' tokens for.")
    ] = None,
    max_length: Annotated[
        int | None,
        Query(
            ge=8, description="Maximum number of tokens in a row. Left out: the model's context."
        ),
    ] = None,
) -> dict[str, Any]:
    """What the check found: rows, and every fault with line, field, reason and how to fix it
    (`mend`). With a `model`, and rows of at most `max_length` tokens, also `tokens`: how many a
    good file has, and how its rows are trained.
    """
    if max_length and not model:
        raise InvalidRequest("max_length needs a model. Send it too.", param="model")
    file, base, own = await in_thread(look_up, server, caller.project_id, file_id, model)
    if file.report is None:
        raise Conflict(
            f"File {file_id} has no report: its status is {file.status!r}.", code="file_not_checked"
        )
    found = {"file_id": file.id, **file.report}
    if base and file.report["ok"]:
        await proven(server, file.key, file.sha256)
        async with server.reports.place(caller.project_id):
            template = chosen(base, file.report["formats"], None, own).template
            counted = await tokens.count(
                server.storage, file, file.report, base, max_length, chat_template=template
            )
        found["tokens"] = counted
    return found


def look_up(
    server: Server, project_id: str, file_id: str, model: str | None
) -> tuple[File, BaseModel | None, str | None]:
    """The file, and the base model; of a tuned model the one it came from, and its own template."""
    with server.db.as_project(project_id) as tx:
        file = files.get(tx, file_id)
        found = tuned.get(tx, model) if model else None
        own = None
        if isinstance(found, Tuned):
            own = (found.job.spec or {}).get("chat_template")
            found = tx.get_one(BaseModel, found.job.base_model_id)
        return file, found, own
