"""What the tables have in common."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    Double,
    MetaData,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Times are the database's: one clock decides leases, whatever the machines' clocks say.
NOW = func.clock_timestamp()


def from_now(seconds: float) -> ColumnElement[datetime]:
    """The database's time, so many seconds from now."""
    return NOW + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        str: Text,
        int: BigInteger,
        float: Double,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[str]: ARRAY(Text),
    }


class OfProject:
    """What every table with `project_id` inherits: in a project's transaction `api.db.session`
    adds the filter to each query, and row-level security stands beneath it.
    """

    project_id: Mapped[str] = mapped_column()


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=column)
