"""Where a project wants to be told of its jobs, and what it is told: written in the transaction of
what it tells of. Deliveries follow in their own time (`api.deliveries`).
"""

import secrets
from base64 import b64encode
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from api import outbound, sealing
from api.db import WAKE_CHANNEL
from api.ids import new_id
from api.settings import Settings
from api.tables import (
    NOW,
    DeliveryState,
    Job,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    from_now,
)
from tunery.errors import Conflict, InvalidRequest, NotFound
from tunery.states import JobState

MOST_ENDPOINTS = 10
SECRET_BYTES = 32
OLD_SECRET_SECONDS = 24 * 3600


class EventType(StrEnum):
    """OpenAI's three, and ours in the same form."""

    SUCCEEDED = "fine_tuning.job.succeeded"
    FAILED = "fine_tuning.job.failed"
    CANCELLED = "fine_tuning.job.cancelled"
    STARTED = "fine_tuning.job.started"
    CHECKPOINT = "fine_tuning.job.checkpoint"
    PAUSED = "fine_tuning.job.paused"


TOLD = {
    JobState.SUCCEEDED: EventType.SUCCEEDED,
    JobState.FAILED: EventType.FAILED,
    JobState.CANCELLED: EventType.CANCELLED,
    JobState.RUNNING: EventType.STARTED,
    JobState.PAUSED: EventType.PAUSED,
}


def announce(tx: Session, job: Job, event_type: EventType) -> None:
    """For the endpoints of the job's project that ask for it; nothing if there is none. It tells
    of the job's newest event.
    """
    subscribed = tx.scalars(
        select(WebhookEndpoint.id)
        .where(
            WebhookEndpoint.project_id == job.project_id,
            WebhookEndpoint.disabled_at.is_(None),
            WebhookEndpoint.event_types.contains([event_type]),
        )
        # None is disabled before its delivery is there.
        .with_for_update(read=True)
    ).all()
    if not subscribed:
        return
    event_id = new_id("evt_")
    event = WebhookEvent(
        id=event_id,
        project_id=job.project_id,
        job_id=job.id,
        number=job.event_count,
        body=body_of(event_id, event_type, job.id, tx.scalars(select(NOW)).one()),
    )
    tx.add(event)
    tx.flush()
    for endpoint_id in subscribed:
        tx.add(
            WebhookDelivery(
                id=new_id("whd_"),
                project_id=job.project_id,
                endpoint_id=endpoint_id,
                event_id=event_id,
            )
        )
    tx.flush()
    tx.execute(select(func.pg_notify(WAKE_CHANNEL, "")))


def body_of(event_id: str, event_type: EventType, job_id: str, at: datetime) -> str:
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(at.timestamp()),
        "type": event_type,
        "data": {"id": job_id},
    }
    return orjson.dumps(event).decode()


def create(
    tx: Session,
    settings: Settings,
    project_id: str,
    *,
    name: str,
    url: str,
    event_types: list[EventType],
) -> tuple[WebhookEndpoint, str]:
    """The endpoint, and its signing secret in the clear for the only time.

    Raises:
        InvalidRequest: the url leads nowhere public.
        Conflict: the project has all the endpoints that it may have.

    """
    outbound.target_of(url, to_private=settings.webhooks_to_private_addresses)
    lock = f"webhook endpoints {project_id}"
    tx.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(lock, 0))))
    if (tx.scalar(select(func.count()).select_from(WebhookEndpoint)) or 0) >= MOST_ENDPOINTS:
        raise Conflict(
            f"This project has {MOST_ENDPOINTS} webhook endpoints, which is the most. Delete one.",
            code="too_many_endpoints",
        )
    endpoint = WebhookEndpoint(
        id=new_id("whe_"),
        project_id=project_id,
        name=name,
        url=url,
        event_types=list(dict.fromkeys(event_types)),
    )
    secret = give_secret(settings, endpoint)
    tx.add(endpoint)
    tx.flush()
    return endpoint, secret


def give_secret(settings: Settings, endpoint: WebhookEndpoint) -> str:
    """A new signing secret, kept sealed and returned in the clear."""
    secret = "whsec_" + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    endpoint.secret = sealing.seal(
        settings.secret.get_secret_value(),
        secret,
        project_id=endpoint.project_id,
        name=endpoint.id,
    )
    endpoint.secret_hint = f"whsec_...{secret[-4:]}"
    return secret


def get(tx: Session, endpoint_id: str, *, lock: bool = False) -> WebhookEndpoint:
    endpoint = tx.get(WebhookEndpoint, endpoint_id, with_for_update=True if lock else None)
    if endpoint is None:
        raise NotFound(f"No webhook endpoint {endpoint_id!r} in this project.")
    return endpoint


def list_newest(tx: Session, *, limit: int, after: str | None) -> list[WebhookEndpoint]:
    """Up to `limit` + 1 endpoints."""
    query = select(WebhookEndpoint)
    if after:
        cursor = tx.scalar(select(WebhookEndpoint.sequence).where(WebhookEndpoint.id == after))
        if cursor is None:
            raise InvalidRequest(f"No webhook endpoint {after!r} to continue after.", param="after")
        query = query.where(WebhookEndpoint.sequence < cursor)
    return list(tx.scalars(query.order_by(WebhookEndpoint.sequence.desc()).limit(limit + 1)))


def change(
    tx: Session, settings: Settings, endpoint_id: str, wanted: dict[str, Any]
) -> WebhookEndpoint:
    """Sets what is `wanted` of name, url, event_types and enabled. The same again changes nothing.
    Raises as `create`.
    """
    endpoint = get(tx, endpoint_id, lock=True)
    wanted = dict(wanted)
    enabled = wanted.pop("enabled", None)
    if "url" in wanted:
        to_private = settings.webhooks_to_private_addresses
        outbound.target_of(wanted["url"], to_private=to_private)
    if "event_types" in wanted:
        wanted["event_types"] = list(dict.fromkeys(wanted["event_types"]))
    before = {name: getattr(endpoint, name) for name in wanted}
    for name, value in wanted.items():
        setattr(endpoint, name, value)
    if enabled is False and endpoint.disabled_at is None:
        disable(tx, endpoint, "It was disabled by its project.")
    elif enabled and endpoint.disabled_at is not None:
        endpoint.disabled_at = endpoint.disabled_because = None
    elif before == wanted:
        return endpoint
    endpoint.updated_at = tx.scalars(select(NOW)).one()
    tx.flush()
    return endpoint


def disable(tx: Session, endpoint: WebhookEndpoint, why: str) -> None:
    """Nothing more is sent to it; what waits for it has failed, and can be replayed."""
    endpoint.disabled_at = tx.scalars(select(NOW)).one()
    endpoint.disabled_because = why
    tx.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.endpoint_id == endpoint.id,
            WebhookDelivery.state == DeliveryState.PENDING,
        )
        .values(
            state=DeliveryState.FAILED,
            error=f"The endpoint was disabled. {why}",
            next_at=None,
            finished_at=NOW,
        )
    )
    tx.flush()


def rotate_secret(
    tx: Session, settings: Settings, endpoint_id: str, *, keep_old: bool
) -> tuple[WebhookEndpoint, str]:
    """A new signing secret, in the clear for the only time. With `keep_old` what is sent carries
    the old one's signature too, for a day.
    """
    endpoint = get(tx, endpoint_id, lock=True)
    endpoint.old_secret = endpoint.secret if keep_old else None
    endpoint.old_secret_until = (
        tx.scalar(select(from_now(OLD_SECRET_SECONDS))) if keep_old else None
    )
    secret = give_secret(settings, endpoint)
    endpoint.updated_at = tx.scalars(select(NOW)).one()
    tx.flush()
    return endpoint, secret


def delete(tx: Session, endpoint_id: str) -> None:
    """With its deliveries. One that is under way arrives nevertheless."""
    tx.delete(get(tx, endpoint_id, lock=True))
    tx.flush()
