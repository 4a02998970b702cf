"""/v1/fine_tuning/jobs/{id}/exports"""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api.http import idempotency
from api.http.dependencies import After, AServer, Limit, Reader, SentAs, Server, Writer
from api.http.responses import STORED_FILE, stored_file
from api.http.routing import Route
from api.http.shapes import Deleted, Page, page
from api.jobs import deletions, state
from api.jobs.exports import exports
from api.jobs.exports.schemas import CreateExport, ExportId, ExportObject
from api.jobs.part_schemas import EventObject
from api.jobs.routes import event_number
from api.tables import Artifact, Job
from api.tenants import audit, quotas
from api.tenants.places import in_thread
from api.tenants.projects import Caller
from tunery.fields import FileName, JobId

router = APIRouter(
    prefix="/v1/fine_tuning/jobs/{job_id}/exports", route_class=Route, tags=["Exports"]
)


@router.post("", response_model=ExportObject)
def create(
    job_id: JobId, asked: CreateExport, sent: SentAs, server: AServer, caller: Writer
) -> JSONResponse:
    """Begins an export of the job's finished model, or of a checkpoint that it keeps; or answers
    with the same one that was begun before.
    """

    def make() -> ExportObject:
        def require_room() -> None:
            quotas.require_job(tx, server.settings, caller.project_id)

        export, is_new = exports.create(tx, caller, job_id, asked, require_room)
        if is_new:
            audit.record(tx, caller, "export.create", export.id)
        return shown(tx, export)

    with server.db.as_project(caller.project_id) as tx:
        answer = idempotency.once(
            tx,
            caller.project_id,
            sent,
            {"route": "exports", "job": job_id, **asked.model_dump(mode="json")},
            make,
            lambda export_id: state.stands(tx.get(Job, export_id)),
        )
    return JSONResponse(answer)


def shown(tx: Session, export: Job) -> ExportObject:
    (found,) = exports.show(tx, [export])
    return found


@router.get("")
def list_exports(
    job_id: JobId, server: AServer, caller: Reader, limit: Limit = 20, after: After = None
) -> Page[ExportObject]:
    """Lists the exports of a job."""
    with server.db.as_project(caller.project_id) as tx:
        rows = exports.list_newest(tx, job_id, limit=limit, after=after)
        return page(exports.show(tx, rows), limit, lambda export: export)


@router.get("/{export_id}")
def retrieve(job_id: JobId, export_id: ExportId, server: AServer, caller: Reader) -> ExportObject:
    """Returns one export."""
    with server.db.as_project(caller.project_id) as tx:
        return shown(tx, exports.get(tx, job_id, export_id))


@router.post("/{export_id}/cancel")
def cancel(job_id: JobId, export_id: ExportId, server: AServer, caller: Writer) -> ExportObject:
    """Cancels an export."""
    with server.db.as_project(caller.project_id) as tx:
        export = exports.cancel(tx, job_id, export_id)
        audit.record(tx, caller, "export.cancel", export_id)
        return shown(tx, export)


@router.delete("/{export_id}")
def delete(job_id: JobId, export_id: ExportId, server: AServer, caller: Writer) -> Deleted:
    """Deletes an ended export with its files."""
    with server.db.as_project(caller.project_id) as tx:
        keys = deletions.delete_export(tx, job_id, export_id)
        audit.record(tx, caller, "export.delete", export_id)
    server.storage.discard(keys)
    return Deleted(id=export_id, object="fine_tuning.job.export")


@router.get("/{export_id}/events")
def list_events(
    job_id: JobId,
    export_id: ExportId,
    server: AServer,
    caller: Reader,
    limit: Limit = 20,
    after: After = None,
) -> Page[EventObject]:
    """Lists an export's events, the newest first."""
    with server.db.as_project(caller.project_id) as tx:
        export = exports.get(tx, job_id, export_id)
        rows = state.list_events(tx, export_id, limit=limit, after=event_number(export, after))
    return page(rows, limit, EventObject.of)


@router.get("/{export_id}/files/{name}", response_class=Response, responses=STORED_FILE)
async def file(
    job_id: JobId,
    export_id: ExportId,
    name: FileName,
    request: Request,
    server: AServer,
    caller: Reader,
) -> Response:
    """Returns the bytes of one of the export's files."""
    found = await in_thread(file_of, server, caller, job_id, export_id, name)
    return await stored_file(request, server, found.key, name=found.name, digest=found.sha256)


def file_of(server: Server, caller: Caller, job_id: str, export_id: str, name: str) -> Artifact:
    with server.db.as_project(caller.project_id) as tx:
        return exports.file_of(tx, job_id, export_id, name)
