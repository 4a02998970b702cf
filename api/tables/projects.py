"""Projects, their keys, what was done with them, and the creates they sent."""

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
    """`most_...` are its own limits; None: the service's. `..._warned_at` is when it was told that
    the budget it has now was nearly used. `files` are those it has stored and not deleted;
    `stored_bytes` are theirs and those of its checkpoints, artifacts and exports;
    `checkpoint_bytes` are of these the checkpoints'. They are counted by the database at the end of
    each transaction.
    """

    __tablename__ = "project"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    most_files: Mapped[int | None]
    most_stored_bytes: Mapped[int | None]
    most_unfinished_jobs: Mapped[int | None]
    most_running_jobs: Mapped[int | None]
    most_device_hours: Mapped[int | None]
    most_cost: Mapped[float | None]
    device_hours_warned_at: Mapped[datetime | None]
    cost_warned_at: Mapped[datetime | None]
    files: Mapped[int] = mapped_column(server_default="0")
    stored_bytes: Mapped[int] = mapped_column(server_default="0")
    checkpoint_bytes: Mapped[int] = mapped_column(server_default="0")


class Person(Table):
    """Who signs in at the OpenID Connect provider `issuer`, which knows them as `subject`; `email`
    and `name` are what it called them last. `rights` are scopes by the ids of projects, or "*" for
    all of them, as their groups gave them at the last sign-in. `last_project_id` is where they were
    last.
    """

    __tablename__ = "person"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    issuer: Mapped[str]
    subject: Mapped[str]
    email: Mapped[str | None]
    name: Mapped[str | None]
    rights: Mapped[dict[str, Any]]
    last_project_id: Mapped[str | None] = mapped_column(ForeignKey("project.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    signed_in_at: Mapped[datetime] = mapped_column(server_default=NOW)

    @property
    def label(self) -> str:
        return self.email or self.name or self.subject


class ApiKey(Table):
    """`hash` is the SHA-256 of the key, in hex; the key itself is shown once and kept nowhere.
    `prefix` is how it begins. `last_used_at` is exact to a minute. `session_of` is the key that
    somebody signed in to the console with: the row is that session's own key, which ends with it.
    The session of a person, `person_id`, is of itself.
    """

    __tablename__ = "api_key"
    __table_args__ = (
        Index(None, "project_id", "created_at"),
        Index(None, "session_of"),
        Index(None, "person_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    hash: Mapped[str] = mapped_column(unique=True)
    prefix: Mapped[str]
    name: Mapped[str | None]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    session_of: Mapped[str | None] = mapped_column(ForeignKey("api_key.id"))
    person_id: Mapped[str | None] = mapped_column(ForeignKey("person.id"))


class SignInCode(Table):
    """Opens the console once, as whoever has the key. `hash` is the SHA-256 of the code, in hex."""

    __tablename__ = "sign_in_code"

    hash: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_key.id"))
    expires_at: Mapped[datetime]


class AuditEntry(OfProject, Table):
    """Somebody changed something. `project_id` is the project it was done in or to; what all
    projects share is changed in that of the key. `key_id`, `request_id` and `address` are None for
    an operator's command on the database; `person_id` is whose key or session it was, if it is
    somebody's. Rows are added and read, and nothing else.
    """

    __tablename__ = "audit"
    __table_args__ = (Index(None, "project_id", "id"), Index(None, "action", "id"))

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    key_id: Mapped[str | None]
    person_id: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    action: Mapped[str]
    subject: Mapped[str]
    request_id: Mapped[str | None]
    address: Mapped[str | None]


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
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    key: Mapped[str | None]
    fingerprint: Mapped[str] = mapped_column(String(64))
    reply: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
