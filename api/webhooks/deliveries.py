"""From an event that was written to an endpoint that has heard of it: at least once, always under
the event's id and with the same body.
"""

import random
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Select, delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.db.session import WAKE_CHANNEL
from api.tables import (
    NOW,
    DeliveryState,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookTally,
    from_now,
)
from api.webhooks import endpoints
from tunery.errors import Conflict, InvalidRequest, NotFound

# After each attempt in vain, in seconds; three days and four hours in all. Then it has failed.
PAUSES = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
# How long a delivery is its claimer's: longer than an attempt can take.
CLAIM_SECONDS = 60
KEPT_SECONDS = 30 * 24 * 3600

Result = Literal["delivered", "refused", "unreachable", "blocked"]


@dataclass(frozen=True)
class Parcel:
    """All that an attempt needs. `sealed` are the signing secrets, the newest first."""

    project_id: str
    endpoint_id: str
    url: str
    sealed: tuple[str, ...]
    event_id: str
    body: str


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: an answer with this status, or none, in words."""

    result: Result
    status_code: int | None = None
    error: str | None = None


def parcel_of(tx: Session, endpoint: WebhookEndpoint, event_id: str, body: str) -> Parcel:
    until = endpoint.old_secret_until
    sealed = [endpoint.secret]
    if endpoint.old_secret and until and until > tx.scalars(select(NOW)).one():
        sealed.append(endpoint.old_secret)
    return Parcel(endpoint.project_id, endpoint.id, endpoint.url, tuple(sealed), event_id, body)


def claim(tx: Session) -> tuple[WebhookDelivery, Parcel] | None:
    """What is due longest at the endpoint that has been left alone longest: one attempt at a time
    at each, so that a slow one holds up itself. If its claimer dies, it comes up again.
    """
    due = (
        WebhookDelivery.state == DeliveryState.PENDING,
        # Not `clock_timestamp()`, which no index serves.
        WebhookDelivery.next_at <= func.now(),
    )
    its_own = WebhookDelivery.endpoint_id == WebhookEndpoint.id
    endpoint = tx.scalars(
        select(WebhookEndpoint)
        .where(WebhookEndpoint.free_at <= func.now(), exists().where(its_own, *due))
        .order_by(WebhookEndpoint.free_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if endpoint is None:
        return None
    found = tx.execute(
        with_body()
        .where(WebhookDelivery.endpoint_id == endpoint.id, *due)
        .order_by(WebhookDelivery.next_at, WebhookDelivery.sequence)
        .limit(1)
    ).one_or_none()
    if found is None:
        return None
    delivery, body = found
    endpoint.free_at = delivery.next_at = tx.scalars(select(from_now(CLAIM_SECONDS))).one()
    delivery.attempts += 1
    tx.flush()
    return delivery, parcel_of(tx, endpoint, delivery.event_id, body)


def record(tx: Session, claimed: WebhookDelivery, outcome: Outcome) -> None:
    """How a claimed attempt ended. Nothing, if it was claimed again or deleted meanwhile."""
    endpoint = tx.get(WebhookEndpoint, claimed.endpoint_id, with_for_update=True)
    delivery = tx.scalars(
        select(WebhookDelivery).where(
            WebhookDelivery.id == claimed.id, WebhookDelivery.attempts == claimed.attempts
        )
    ).one_or_none()
    if endpoint is None or delivery is None:
        return
    count(tx, outcome.result)
    now = endpoint.free_at = tx.scalars(select(NOW)).one()
    delivery.status_code, delivery.error = outcome.status_code, outcome.error
    gone = outcome.status_code == 410
    spent = delivery.attempts > len(PAUSES)
    if outcome.result == "delivered":
        delivery.state, delivery.next_at, delivery.finished_at = DeliveryState.DELIVERED, None, now
    elif gone or spent or endpoint.disabled_at:
        delivery.state, delivery.next_at, delivery.finished_at = DeliveryState.FAILED, None, now
    else:
        pause = PAUSES[delivery.attempts - 1] * random.uniform(0.8, 1.2)  # noqa: S311
        delivery.next_at = tx.scalar(select(from_now(pause)))
    tx.flush()
    if gone:
        endpoints.disable(tx, endpoint, "It answered 410 (Gone).")
    elif spent and delivery.state == DeliveryState.FAILED and not heard_since(tx, delivery):
        endpoints.disable(tx, endpoint, "Nothing reached it for three days.")


def heard_since(tx: Session, delivery: WebhookDelivery) -> bool:
    """Whether anything was delivered to the same endpoint since this delivery began."""
    heard = select(WebhookDelivery.id).where(
        WebhookDelivery.endpoint_id == delivery.endpoint_id,
        WebhookDelivery.state == DeliveryState.DELIVERED,
        WebhookDelivery.finished_at > delivery.created_at,
    )
    return tx.scalar(heard.limit(1)) is not None


def count(tx: Session, result: Result) -> None:
    tx.execute(
        insert(WebhookTally)
        .values(result=result, attempts=1)
        .on_conflict_do_update(
            index_elements=[WebhookTally.result], set_={"attempts": WebhookTally.attempts + 1}
        )
    )


def list_newest(
    tx: Session, endpoint_id: str, *, limit: int, after: str | None
) -> list[tuple[WebhookDelivery, str]]:
    """Up to `limit` + 1 deliveries, each with what is sent."""
    endpoints.get(tx, endpoint_id)
    query = with_body().where(WebhookDelivery.endpoint_id == endpoint_id)
    if after:
        cursor = tx.scalar(
            select(WebhookDelivery.sequence).where(
                WebhookDelivery.id == after, WebhookDelivery.endpoint_id == endpoint_id
            )
        )
        if cursor is None:
            raise InvalidRequest(f"No delivery {after!r} to continue after.", param="after")
        query = query.where(WebhookDelivery.sequence < cursor)
    rows = tx.execute(query.order_by(WebhookDelivery.sequence.desc()).limit(limit + 1))
    return [(delivery, body) for delivery, body in rows]


def with_body() -> Select[WebhookDelivery, str]:
    return select(WebhookDelivery, WebhookEvent.body).join(
        WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id
    )


def replay(tx: Session, endpoint_id: str, delivery_id: str) -> tuple[WebhookDelivery, str]:
    """Due now, whatever became of it. Where no attempts are left it is tried once more.

    Raises:
        NotFound: no such endpoint, or it has no such delivery.
        Conflict: the endpoint is disabled.

    """
    endpoint = endpoints.get(tx, endpoint_id, lock=True)
    found = tx.execute(
        with_body().where(
            WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == endpoint_id
        )
    ).one_or_none()
    if found is None:
        raise NotFound(f"Webhook endpoint {endpoint_id} has no delivery {delivery_id!r}.")
    if endpoint.disabled_at:
        raise Conflict(
            f"Webhook endpoint {endpoint_id} is disabled. {endpoint.disabled_because} "
            "Enable it first: send it `enabled: true`.",
            code="endpoint_disabled",
        )
    delivery, body = found
    delivery.state, delivery.finished_at = DeliveryState.PENDING, None
    delivery.next_at = tx.scalar(select(NOW))
    tx.flush()
    tx.execute(select(func.pg_notify(WAKE_CHANNEL, "")))
    return delivery, body


def forget_old(tx: Session) -> None:
    """Events of a month ago, with their deliveries, unless one is still to be tried."""
    pending = select(WebhookDelivery.id).where(
        WebhookDelivery.event_id == WebhookEvent.id,
        WebhookDelivery.state == DeliveryState.PENDING,
    )
    tx.execute(
        delete(WebhookEvent).where(
            WebhookEvent.created_at < from_now(-KEPT_SECONDS), ~pending.exists()
        )
    )
