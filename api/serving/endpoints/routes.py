"""/v1/admin/endpoints: servers that answer for models, for those who run them."""

from fastapi import APIRouter

from api.http.dependencies import Admin, AServer
from api.http.routing import Route
from api.http.shapes import Deleted, Page
from api.serving.endpoints import adapters, endpoints
from api.serving.endpoints.schemas import (
    AddAnsweringEndpoint,
    AnsweringEndpointId,
    AnsweringEndpointObject,
)
from api.tenants import audit

router = APIRouter(prefix="/v1/admin/endpoints", route_class=Route, tags=["Endpoints"])


@router.post("")
def add(asked: AddAnsweringEndpoint, server: AServer, caller: Admin) -> AnsweringEndpointObject:
    """Adds a server that answers for models. Each tuned model proves itself there first."""
    endpoints.require_folder(asked)
    with server.db.as_control() as tx:
        endpoint = endpoints.add(tx, server.settings, asked)
        audit.record(tx, caller, "endpoint.create", endpoint.id)
        tx.refresh(endpoint)
        return AnsweringEndpointObject.of(endpoint, [])


@router.get("")
def list_endpoints(server: AServer, _: Admin) -> Page[AnsweringEndpointObject]:
    """Lists the servers that answer, and what they were found to answer with."""
    with server.db.as_control() as tx:
        rows = endpoints.list_all(tx)
    return Page(data=[AnsweringEndpointObject.of(*row) for row in rows])


@router.delete("/{endpoint_id}")
def delete(endpoint_id: AnsweringEndpointId, server: AServer, caller: Admin) -> Deleted:
    """Asks a server nothing any more."""
    with server.db.as_control() as tx:
        unread = endpoints.delete(tx, endpoint_id)
        audit.record(tx, caller, "endpoint.delete", endpoint_id)
    for folder in unread:
        adapters.remove(folder)
    return Deleted(id=endpoint_id, object="answering_endpoint")
