"""Data sets and results, and the storage that holds all bytes."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, OfProject, Table, one_of
from tunery.data.columns import Columns
from tunery.errors import BytesDamaged, BytesGone
from tunery.states import FileState


class File(OfProject, Table):
    """`sequence` orders the list; `key` is where storage has the bytes until `deleted_at`. After
    `expires_at` it is as good as deleted, unless an unfinished job needs it. `checks` counts the
    checks that the janitors began. `columns` are those of `tunery.data.columns`.
    """

    __tablename__ = "file"
    __table_args__ = (
        one_of("status", FileState),
        UniqueConstraint("project_id", "id"),
        Index(None, "project_id", "sequence"),
        Index(None, "key"),
        Index("ix_file_unchecked", "sequence", postgresql_where=text("status = 'uploaded'")),
        Index(
            "ix_file_expiring",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL AND deleted_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str]
    columns: Mapped[Columns | None] = mapped_column(JSONB)
    status: Mapped[str]
    status_details: Mapped[str | None]
    report: Mapped[dict[str, Any] | None]
    checking_until: Mapped[datetime | None]
    checks: Mapped[int] = mapped_column(Integer, server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class StorageFolder(Table):
    """One row: `mark` is what the mark in the storage folder says, so that an empty folder in its
    place is not taken for it. The rest is how far the scrub has come (`api.storage.scrub`): up to
    these `sequence`s of files and of jobs, and this key of base models' files; `scrubbed_at` is
    when it was last through.
    """

    __tablename__ = "storage_folder"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    mark: Mapped[str]
    scrubbed_file: Mapped[int] = mapped_column(server_default="0")
    scrubbed_job: Mapped[int] = mapped_column(server_default="0")
    scrubbed_base: Mapped[str] = mapped_column(server_default="")
    scrubbed_at: Mapped[datetime | None]


class StorageFault(Table):
    """Stored bytes that are proven gone or damaged, by their key: `fault` is the error's code."""

    __tablename__ = "storage_fault"
    __table_args__ = (
        CheckConstraint(f"fault IN ('{BytesGone.code}', '{BytesDamaged.code}')", name="fault"),
    )

    key: Mapped[str] = mapped_column(primary_key=True)
    fault: Mapped[str]
    found_at: Mapped[datetime] = mapped_column(server_default=NOW)
