"""Webhook endpoints in the shapes of the newest openai SDK, and deliveries, which are ours."""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, BaseModel, Field

from api.http.shapes import Request, Word, seconds, storable
from api.tables import WebhookDelivery, WebhookEndpoint
from api.webhooks.outbox import EventType

Name = Annotated[Word, Field(min_length=1, max_length=256)]
Address = Annotated[str, Field(max_length=2_048), AfterValidator(storable)]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=32)]


class CreateEndpoint(Request):
    name: Name
    url: Address
    event_types: EventTypes


class ChangeEndpoint(Request):
    """What is left out stays. `enabled` is ours."""

    name: Name = ""
    url: Address = ""
    event_types: EventTypes = Field(default_factory=list)
    enabled: bool = True


class RotateSecret(Request):
    keep_old_secret_active_for_24_hours: bool = False


class TestEndpoint(Request):
    event_type: EventType


class OfTunery(BaseModel):
    """What OpenAI's endpoints do not tell."""

    enabled: bool
    disabled_at: int | None
    disabled_because: str | None


class EndpointObject(BaseModel):
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    id: str
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    created_at: int
    updated_at: int
    tunery: OfTunery

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
    """The only two answers that show the secret: to a create, and to a rotation."""

    signing_secret: str


class EventTypeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EventType]


class TestResult(BaseModel):
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: EventType
    status_code: int
    success: Literal[True] = True


class DeliveryObject(BaseModel):
    """`event` is what is sent; `status_code` or `error` how the last attempt ended."""

    object: Literal["webhook_endpoint.delivery"] = "webhook_endpoint.delivery"
    id: str
    webhook_endpoint_id: str
    event: dict[str, Any]
    status: str
    attempts: int
    status_code: int | None
    error: str | None
    created_at: int
    next_attempt_at: int | None
    finished_at: int | None

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
