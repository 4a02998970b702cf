"""Files that come in parts."""

from datetime import datetime

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, Integer, String, UniqueConstraint
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, OfProject, Table, one_of
from tunery.data.columns import Columns
from tunery.states import UploadState


class Upload(OfProject, Table):
    """`bytes` is what its parts must come to. The last three columns are there once it is
    completed: its file, out of which parts, and their MD5 in hex.
    """

    __tablename__ = "upload"
    __table_args__ = (
        one_of("state", UploadState),
        UniqueConstraint("project_id", "id"),
        ForeignKeyConstraint(["project_id", "file_id"], ["file.project_id", "file.id"]),
        Index("ix_upload_pending", "expires_at", postgresql_where=sql("state = 'pending'")),
        Index(
            "ix_upload_pending_of_project", "project_id", postgresql_where=sql("state = 'pending'")
        ),
        Index(None, "file_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    file_expires_seconds: Mapped[int | None] = mapped_column(Integer)
    columns: Mapped[Columns | None] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(server_default=UploadState.PENDING)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]
    file_id: Mapped[str | None]
    part_ids: Mapped[list[str] | None]
    md5: Mapped[str | None] = mapped_column(String(32))


class Arrival(OfProject, Table):
    """A request that brings bytes, of a file or of a part of `upload_id`. `bytes` are what it is
    known to bring; of one without a content-length, what it has brought so far but for the last
    few. A server that died leaves its rows: after some time without news they count no more.
    """

    __tablename__ = "arrival"
    __table_args__ = (
        ForeignKeyConstraint(["project_id", "upload_id"], ["upload.project_id", "upload.id"]),
        Index(None, "project_id"),
        Index(None, "upload_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    upload_id: Mapped[str | None]
    bytes: Mapped[int]
    heard_at: Mapped[datetime] = mapped_column(server_default=NOW)


class UploadPart(OfProject, Table):
    """Bytes that lie under `key` until the upload is no longer pending; then the row goes too."""

    __tablename__ = "upload_part"
    __table_args__ = (
        ForeignKeyConstraint(["project_id", "upload_id"], ["upload.project_id", "upload.id"]),
        Index(None, "upload_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    upload_id: Mapped[str]
    bytes: Mapped[int]
    key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
