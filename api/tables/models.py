"""Base models."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, Table


class BaseModel(Table):
    """A model that jobs can start from. Shared by all projects."""

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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
