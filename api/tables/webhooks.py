"""Webhooks: where they go, what they tell, and how each delivery fared."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, OfProject, Table, one_of
from api.tables.jobs import of_job


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class WebhookEndpoint(OfProject, Table):
    """`secret` and `old_secret` are sealed (`api.db.sealing`). Nothing is sent to it before
    `free_at`: whoever delivers moves that ahead, and back to now when it is done. A disabled one
    has no pending deliveries.
    """

    __tablename__ = "webhook_endpoint"
    __table_args__ = (
        UniqueConstraint("project_id", "id"),
        Index(None, "project_id", "sequence"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[str]]
    secret: Mapped[str]
    secret_hint: Mapped[str]
    old_secret: Mapped[str | None]
    old_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    free_at: Mapped[datetime] = mapped_column(server_default=NOW)
    disabled_at: Mapped[datetime | None]
    disabled_because: Mapped[str | None]


class WebhookEvent(OfProject, Table):
    """Told once for each change: `number` is that of the job's event, if it is of a job. `body` is
    what is sent, byte for byte, at each attempt.
    """

    __tablename__ = "webhook_event"
    __table_args__ = (
        of_job(),
        UniqueConstraint("project_id", "id"),
        UniqueConstraint("job_id", "number"),
        Index(None, "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str | None]
    number: Mapped[int | None]
    body: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class WebhookDelivery(OfProject, Table):
    """Of one event to one endpoint. `attempts` counts those begun, and fences what a stalled one
    has to say; `next_at` is when the next is due, if none is under way that ends well.
    """

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        one_of("state", DeliveryState),
        ForeignKeyConstraint(
            ["project_id", "endpoint_id"],
            ["webhook_endpoint.project_id", "webhook_endpoint.id"],
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["project_id", "event_id"],
            ["webhook_event.project_id", "webhook_event.id"],
            ondelete="CASCADE",
        ),
        UniqueConstraint("event_id", "endpoint_id"),
        Index(None, "endpoint_id", "sequence"),
        Index(
            "ix_webhook_delivery_pending",
            "endpoint_id",
            "next_at",
            postgresql_where=text("state = 'pending'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    project_id: Mapped[str]
    endpoint_id: Mapped[str]
    event_id: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    status_code: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None]
    next_at: Mapped[datetime | None] = mapped_column(server_default=NOW)
    finished_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class WebhookTally(Table):
    """Attempts of all projects by how they ended, since the beginning: deliveries are forgotten in
    time, and a counter must never fall.
    """

    __tablename__ = "webhook_tally"

    result: Mapped[str] = mapped_column(primary_key=True)
    attempts: Mapped[int]
