"""/v1/webhook_endpoints, as the newest openai SDK has it, and deliveries, which are ours."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from api.http import idempotency
from api.http.dependencies import MOST, After, AServer, Reader, SentAs, Server, Writer
from api.http.routing import Route
from api.http.shapes import Deleted, Page, page
from api.ids import new_id
from api.tenants import audit
from api.tenants.places import in_thread
from api.tenants.projects import Caller
from api.webhooks import courier, deliveries, endpoints, outbox
from api.webhooks.deliveries import Parcel
from api.webhooks.outbox import EventType
from api.webhooks.schemas import (
    ChangeEndpoint,
    CreateEndpoint,
    DeliveryId,
    DeliveryObject,
    EndpointId,
    EndpointObject,
    EndpointWithSecret,
    EventTypeList,
    RotateSecret,
    TestEndpoint,
    TestResult,
)
from tunery.errors import InvalidRequest

router = APIRouter(prefix="/v1", route_class=Route, tags=["Webhooks"])

Limit = Annotated[int, Query(ge=1, le=100, description=MOST)]


@router.get("/webhook_event_types")
def list_event_types(_: Reader) -> EventTypeList:
    """Lists the types of events that endpoints can be told of."""
    return EventTypeList(data=list(EventType))


@router.post("/webhook_endpoints")
def create(
    asked: CreateEndpoint, sent: SentAs, server: AServer, caller: Writer
) -> EndpointWithSecret:
    """Creates a webhook endpoint. Its signing secret is in this answer."""

    def make() -> EndpointObject:
        endpoint = endpoints.create(
            tx,
            server.settings,
            caller.project_id,
            name=asked.name,
            url=asked.url,
            event_types=asked.event_types,
        )
        audit.record(tx, caller, "webhook_endpoint.create", endpoint.id)
        return EndpointObject.of(endpoint)

    with server.db.as_project(caller.project_id) as tx:
        answer = idempotency.once(
            tx,
            caller.project_id,
            sent,
            {"route": "webhook_endpoints", **asked.model_dump(mode="json")},
            make,
            lambda endpoint_id: endpoints.is_there(tx, endpoint_id),
        )
        # Not kept with the answer, where it would lie open.
        secret = endpoints.secret_of(server.settings, endpoints.get(tx, answer["id"]))
    return EndpointWithSecret(**answer, signing_secret=secret)


@router.get("/webhook_endpoints")
def list_endpoints(
    server: AServer, caller: Reader, limit: Limit = 20, after: After = None
) -> Page[EndpointObject]:
    """Lists the project's endpoints."""
    with server.db.as_project(caller.project_id) as tx:
        rows = endpoints.list_newest(tx, limit=limit, after=after)
    return page(rows, limit, EndpointObject.of)


@router.get("/webhook_endpoints/{endpoint_id}")
def retrieve(endpoint_id: EndpointId, server: AServer, caller: Reader) -> EndpointObject:
    """Returns one endpoint."""
    with server.db.as_project(caller.project_id) as tx:
        return EndpointObject.of(endpoints.get(tx, endpoint_id))


@router.post("/webhook_endpoints/{endpoint_id}")
def change(
    endpoint_id: EndpointId, server: AServer, caller: Writer, asked: ChangeEndpoint | None = None
) -> EndpointObject:
    """Changes an endpoint. What is left out stays."""
    wanted = asked.model_dump(exclude_unset=True) if asked else {}
    with server.db.as_project(caller.project_id) as tx:
        endpoint = endpoints.change(tx, server.settings, endpoint_id, wanted)
        audit.record(tx, caller, "webhook_endpoint.change", endpoint_id)
        return EndpointObject.of(endpoint)


@router.delete("/webhook_endpoints/{endpoint_id}")
def delete(endpoint_id: EndpointId, server: AServer, caller: Writer) -> Deleted:
    """Deletes an endpoint, with its deliveries."""
    with server.db.as_project(caller.project_id) as tx:
        endpoints.delete(tx, endpoint_id)
        audit.record(tx, caller, "webhook_endpoint.delete", endpoint_id)
    return Deleted(id=endpoint_id, object="webhook_endpoint.deleted")


@router.post("/webhook_endpoints/{endpoint_id}/rotate_secret")
def rotate_secret(
    endpoint_id: EndpointId, server: AServer, caller: Writer, asked: RotateSecret | None = None
) -> EndpointWithSecret:
    """Gives the endpoint a new secret. The old one signs beside it for a while."""
    keep_old = asked is not None and asked.keep_old_secret_active_for_24_hours
    with server.db.as_project(caller.project_id) as tx:
        endpoint, secret = endpoints.rotate_secret(
            tx, server.settings, endpoint_id, keep_old=keep_old
        )
        audit.record(tx, caller, "webhook_endpoint.rotate_secret", endpoint_id)
        return EndpointWithSecret.of(endpoint, signing_secret=secret)


@router.post("/webhook_endpoints/{endpoint_id}/test")
async def test(
    endpoint_id: EndpointId, asked: TestEndpoint, server: AServer, caller: Writer
) -> TestResult:
    """Sends a sample event now and once, and waits for the answer."""
    event_type = asked.event_type
    sample = await in_thread(sample_of, server, caller, endpoint_id, event_type)
    outcome = await courier.send(server.settings, sample)
    if outcome.status_code is None:
        raise InvalidRequest(f"Nothing was delivered: {outcome.error}", code="webhook_unreachable")
    return TestResult(
        webhook_endpoint_id=endpoint_id, event_type=event_type, status_code=outcome.status_code
    )


def sample_of(server: Server, caller: Caller, endpoint_id: str, event_type: EventType) -> Parcel:
    event_id = new_id("evt_")
    body = outbox.body_of(event_id, event_type, outbox.sample_of(event_type), datetime.now(UTC))
    with server.db.as_project(caller.project_id) as tx:
        endpoint = endpoints.get(tx, endpoint_id)
        audit.record(tx, caller, "webhook_endpoint.test", endpoint_id)
        return deliveries.parcel_of(tx, endpoint, event_id, body)


@router.get("/webhook_endpoints/{endpoint_id}/deliveries")
def list_deliveries(
    endpoint_id: EndpointId, server: AServer, caller: Reader, limit: Limit = 20, after: After = None
) -> Page[DeliveryObject]:
    """Lists an endpoint's deliveries, the newest first."""
    with server.db.as_project(caller.project_id) as tx:
        rows = deliveries.list_newest(tx, endpoint_id, limit=limit, after=after)
    return page(rows, limit, DeliveryObject.of)


@router.post("/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/replay")
def replay(
    endpoint_id: EndpointId, delivery_id: DeliveryId, server: AServer, caller: Writer
) -> DeliveryObject:
    """Sends a delivery once more."""
    with server.db.as_project(caller.project_id) as tx:
        delivery = deliveries.replay(tx, endpoint_id, delivery_id)
        audit.record(tx, caller, "webhook_delivery.replay", delivery_id)
        return DeliveryObject.of(delivery)
