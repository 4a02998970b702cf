"""Webhook endpoints in the shapes of the newest openai SDK, and deliveries, which are ours."""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, Field

from api.http.shapes import Request, Word, seconds, storable
from api.tables import WebhookDelivery, WebhookEndpoint
from api.webhooks.outbox import EventType
from tunery.fields import CreatedAt, Described, Kind, UnixTime

NAME = Field(description="Name of the endpoint, for people.", examples=["CI"])
URL = Field(
    description="Address that events are sent to.", examples=["https://example.com/hooks/tunery"]
)
EVENT_TYPES = Field(
    description="Types of the events that are sent to the endpoint.",
    examples=[["fine_tuning.job.succeeded", "fine_tuning.job.failed"]],
)
Name = Annotated[Word, Field(min_length=1, max_length=256), NAME]
Address = Annotated[str, Field(max_length=2_048), AfterValidator(storable), URL]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=32), EVENT_TYPES]
EndpointId = Annotated[
    str, Field(description="Id of the webhook endpoint.", examples=["whe_DwGw5HqXDgLVXZx3scB8fnvG"])
]


class CreateEndpoint(Request):
    """A webhook endpoint to create."""

    name: Name
    url: Address
    event_types: EventTypes


class ChangeEndpoint(Request):
    """A change of an endpoint. What is left out stays."""

    name: Name = ""
    url: Address = ""
    event_types: EventTypes = Field(default_factory=list)
    enabled: bool = True
    """Whether events are sent to it. OpenAI's API has no such field."""


class RotateSecret(Request):
    """How an old secret ends."""

    keep_old_secret_active_for_24_hours: bool = False
    """Whether the old secret signs beside the new one for 24 hours; if not, it ends at once."""


class TestEndpoint(Request):
    """A sample event to send."""

    event_type: EventType
    """Type of the sample event."""


class OfTunery(Described):
    """What OpenAI's endpoints do not tell."""

    enabled: bool
    """Whether events are sent to it."""
    disabled_at: UnixTime | None
    """When the endpoint was disabled, in Unix seconds (UTC); null: it is enabled."""
    disabled_because: Annotated[str, Field(examples=["It answered 410 (Gone)."])] | None
    """Why the endpoint was disabled; null: it is enabled."""


class EndpointObject(Described):
    """An address that receives events about a project's jobs."""

    object: Kind[Literal["webhook_endpoint"]] = "webhook_endpoint"
    id: EndpointId
    name: Annotated[str, NAME]
    url: Annotated[str, URL]
    event_types: Annotated[list[str], EVENT_TYPES]
    signing_secret_hint: Annotated[str, Field(examples=["whsec_...W3k="])]
    """Beginning and end of the signing secret."""
    created_at: CreatedAt
    updated_at: UnixTime
    """When the endpoint was last changed, in Unix seconds (UTC)."""
    tunery: OfTunery
    """Whether the endpoint is enabled, and why not."""

    @classmethod
    def of(cls, endpoint: WebhookEndpoint, **more: str) -> Self:
        disabled_at = endpoint.disabled_at
        return cls(
            id=endpoint.id,
            name=endpoint.name,
            url=endpoint.url,
            event_types=endpoint.event_types,
            signing_secret_hint=endpoint.secret_hint,
            created_at=seconds(endpoint.created_at),
            updated_at=seconds(endpoint.updated_at),
            tunery=OfTunery(
                enabled=disabled_at is None,
                disabled_at=seconds(disabled_at) if disabled_at else None,
                disabled_because=endpoint.disabled_because,
            ),
            **more,
        )


class EndpointWithSecret(EndpointObject):
    """The answer to a create and to a rotation. No other shows the secret."""

    signing_secret: Annotated[
        str, Field(examples=["whsec_/T/rPJJQt5dKm1KLaWNjIaRhtV71W3vq/YCamp6SW3k="])
    ]
    """The secret that events are signed with, as Standard Webhooks has it."""


class EventTypeList(Described):
    """The types of events that endpoints can receive."""

    object: Kind[Literal["list"]] = "list"
    data: list[EventType]
    """All types of events."""


class TestResult(Described):
    """How an endpoint answered a sample event."""

    object: Kind[Literal["webhook_endpoint.test"]] = "webhook_endpoint.test"
    webhook_endpoint_id: EndpointId
    event_type: EventType
    """Type of the sample event."""
    status_code: Annotated[int, Field(examples=[200])]
    """HTTP status that the endpoint answered."""
    success: Literal[True] = True
    """Always true: an endpoint that does not answer is an error."""


DeliveryId = Annotated[
    str, Field(description="Id of the delivery.", examples=["whd_Nx6jvr7SIftRutlZfOjUStEk"])
]


class DeliveryObject(Described):
    """One event on its way to one endpoint."""

    object: Kind[Literal["webhook_endpoint.delivery"]] = "webhook_endpoint.delivery"
    id: DeliveryId
    webhook_endpoint_id: EndpointId
    event: Annotated[
        dict[str, Any],
        Field(
            examples=[
                {
                    "id": "evt_UdfMI7zcpVMw0qDPAjd6OcZF",
                    "object": "event",
                    "created_at": 1764043200,
                    "type": "fine_tuning.job.succeeded",
                    "data": {"id": "ftjob-NqVwYS81VP7Hb1DX8pPd5khx"},
                }
            ]
        ),
    ]
    """What is sent."""
    status: Annotated[str, Field(examples=["delivered"])]
    """`pending`, `delivered` or `failed`."""
    attempts: Annotated[int, Field(examples=[1])]
    """Number of attempts to send it."""
    status_code: Annotated[int, Field(examples=[200])] | None
    """HTTP status that the last attempt was answered with; null: with none."""
    error: Annotated[str, Field(examples=["No answer within 15 s."])] | None
    """What went wrong with the last attempt; null: nothing, or the status says it."""
    created_at: CreatedAt
    next_attempt_at: UnixTime | None
    """When the next attempt is due, in Unix seconds (UTC); null: there is none."""
    finished_at: UnixTime | None
    """When it was delivered or given up, in Unix seconds (UTC); null: it is pending."""

    @classmethod
    def of(cls, row: tuple[WebhookDelivery, str]) -> "DeliveryObject":
        delivery, body = row
        next_at, finished_at = delivery.next_at, delivery.finished_at
        return cls(
            id=delivery.id,
            webhook_endpoint_id=delivery.endpoint_id,
            event=orjson.loads(body),
            status=delivery.state,
            attempts=delivery.attempts,
            status_code=delivery.status_code,
            error=delivery.error,
            created_at=seconds(delivery.created_at),
            next_attempt_at=seconds(next_at) if next_at else None,
            finished_at=seconds(finished_at) if finished_at else None,
        )
