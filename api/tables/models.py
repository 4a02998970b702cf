"""Base models, and tuned ones that are shared."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, Table
from api.tables.jobs import JobPart, of_job


class BaseModel(Table):
    """A model that jobs can start from. Shared by all projects. `chat_template` is one that an
    operator gave it, in Jinja. `broken` is why a worker could not load or train it though its files
    are those registered: until it is registered again no job starts on workers of that build, of
    which `broken_for` has all that tried. `examined`
    (`tunery.facts.Examined`) is what was found of its family last.
    """

    __tablename__ = "base_model"

    id: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[str]
    source: Mapped[str]
    licence: Mapped[str | None]
    architecture: Mapped[str]
    hidden_size: Mapped[int]
    context_length: Mapped[int]
    has_chat_template: Mapped[bool]
    files: Mapped[list[Any]]
    shape: Mapped[dict[str, Any] | None]
    not_for_ollama: Mapped[str | None]
    chat_template: Mapped[str | None]
    broken: Mapped[str | None]
    broken_for: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    examined: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class CheckpointPermission(JobPart):
    """Another project, `shared_with`, may see a model of this one and start jobs from it: the tuned
    one of the job, or its checkpoint of a `step`. `model` is the name.
    """

    __tablename__ = "checkpoint_permission"
    __table_args__ = (of_job(), UniqueConstraint("model", "shared_with"), Index(None, "job_id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    step: Mapped[int | None]
    model: Mapped[str]
    shared_with: Mapped[str] = mapped_column(ForeignKey("project.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
