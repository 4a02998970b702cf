"""Where a project wants to be told of its jobs, and the secret that proves it is us."""

import secrets
from base64 import b64encode
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from api.db import sealing
from api.db.session import take_lock
from api.ids import new_id
from api.settings import Settings
from api.tables import (
    NOW,
    DeliveryState,
    WebhookDelivery,
    WebhookEndpoint,
    from_now,
)
from api.webhooks import outbound
from api.webhooks.outbox import EventType
from tunery.errors import Conflict, InvalidRequest, NotFound

MOST_ENDPOINTS = 10
SECRET_BYTES = 32
OLD_SECRET_SECONDS = 24 * 3600


def create(
    tx: Session,
    settings: Settings,
    project_id: str,
    *,
    name: str,
    url: str,
    event_types: list[EventType],
) -> WebhookEndpoint:
    """A new endpoint with a secret.

    Raises:
        InvalidRequest: the url leads nowhere public.
        Conflict: the project has all the endpoints that it may have.

    """
    outbound.target_of(url, to_private=settings.webhooks_to_private_addresses)
    take_lock(tx, f"webhook endpoints {project_id}")
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
    give_secret(settings, endpoint)
    tx.add(endpoint)
    tx.flush()
    return endpoint


def secret_of(settings: Settings, endpoint: WebhookEndpoint) -> str:
    """In the clear, for the answer to a create and its repeats alone."""
    return sealing.unseal(
        settings.secret.get_secret_value(),
        endpoint.secret,
        project_id=endpoint.project_id,
        name=endpoint.id,
    )


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


def is_there(tx: Session, endpoint_id: str) -> bool:
    return tx.get(WebhookEndpoint, endpoint_id) is not None


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
