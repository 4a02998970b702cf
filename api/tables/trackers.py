"""Trackers: a project's key for one, and the runs that are told there."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, OfProject, Table
from api.tables.jobs import JobPart, of_job


class TrackerKey(OfProject, Table):
    """`sealed` opens with `api.db.sealing`, under the tracker's name."""

    __tablename__ = "tracker_key"

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), primary_key=True)
    tracker: Mapped[str] = mapped_column(primary_key=True)
    sealed: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class TrackedRun(JobPart):
    """Of a job that a tracker is told of. It has heard of the steps up to `told_step`; `claims`
    fences what a stalled telling has to say. `next_at` is when it may be told again, None when it
    was told of the end or was given up.
    """

    __tablename__ = "tracked_run"
    __table_args__ = (
        of_job(),
        Index("ix_tracked_run_next", "next_at", postgresql_where=text("next_at IS NOT NULL")),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    told_step: Mapped[int] = mapped_column(server_default="-1")
    claims: Mapped[int] = mapped_column(Integer, server_default="0")
    failures: Mapped[int] = mapped_column(Integer, server_default="0")
    failing_since: Mapped[datetime | None]
    url: Mapped[str | None]
    next_at: Mapped[datetime | None] = mapped_column(server_default=NOW)
