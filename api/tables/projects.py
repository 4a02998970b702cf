"""Projects, their keys, and the creates they sent."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Identity,
    Index,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, OfProject, Table


class Project(Table):
    __tablename__ = "project"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ApiKey(Table):
    """`hash` is the SHA-256 of the key, in hex; the key itself is shown once and kept nowhere."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    hash: Mapped[str] = mapped_column(unique=True)
    prefix: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    revoked_at: Mapped[datetime | None]


class Creation(OfProject, Table):
    """A create that was answered, so that the same request sent again is answered alike and makes
    nothing. `key` is the client's `Idempotency-Key`; `fingerprint` the SHA-256 of what was asked.
    """

    __tablename__ = "creation"
    __table_args__ = (
        UniqueConstraint("project_id", "key"),
        Index(None, "project_id", "fingerprint", "created_at"),
        Index(None, "created_at"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    key: Mapped[str | None]
    fingerprint: Mapped[str] = mapped_column(String(64))
    reply: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
