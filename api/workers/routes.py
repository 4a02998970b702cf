"""/v1/admin/workers: the machines that train, for those who run them."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from api.http.dependencies import Admin, AServer
from api.http.routing import Route
from api.http.shapes import Deleted, Page
from api.tables import Attempt, Worker
from api.tenants import audit
from api.workers import workers
from api.workers.schemas import WorkerObject
from tunery.fields import WorkerId

router = APIRouter(prefix="/v1/admin/workers", route_class=Route, tags=["Workers"])


@router.get("")
def list_workers(server: AServer, _: Admin) -> Page[WorkerObject]:
    """Lists the workers."""
    with server.db.as_control() as tx:
        return Page(data=[shown(tx, *row) for row in workers.list_all(tx)])


@router.post("/{worker_id}/drain")
def drain(worker_id: WorkerId, server: AServer, caller: Admin) -> WorkerObject:
    """Gives the worker no more jobs. A running one is given back with a checkpoint."""
    with server.db.as_control() as tx:
        worker = workers.drain(tx, worker_id)
        audit.record(tx, caller, "worker.drain", worker_id)
        return shown(tx, worker, workers.attempt_of(tx, worker))


@router.post("/{worker_id}/resume")
def resume(worker_id: WorkerId, server: AServer, caller: Admin) -> WorkerObject:
    """Gives a drained or quarantined worker jobs again."""
    with server.db.as_control() as tx:
        worker = workers.resume(tx, worker_id)
        audit.record(tx, caller, "worker.resume", worker_id)
        return shown(tx, worker, workers.attempt_of(tx, worker))


@router.delete("/{worker_id}")
def delete(worker_id: WorkerId, server: AServer, caller: Admin) -> Deleted:
    """Forgets a worker that is gone."""
    with server.db.as_control() as tx:
        workers.forget(tx, worker_id)
        audit.record(tx, caller, "worker.delete", worker_id)
    return Deleted(id=worker_id, object="worker")


def shown(tx: Session, worker: Worker, attempt: Attempt | None) -> WorkerObject:
    return WorkerObject.of(worker, workers.state_of(tx, worker), attempt)
