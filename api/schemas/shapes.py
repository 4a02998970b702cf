"""What the shapes have in common: strict requests, storable text, pages."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Item = TypeVar("Item")


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


def storable(text: str) -> str:
    """Postgres keeps neither NUL nor half a surrogate pair."""
    if "\x00" in text:
        raise ValueError("holds a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair; write valid Unicode") from None
    return text


Word = Annotated[str, AfterValidator(storable)]


def is_none(value: object) -> bool:
    return value is None


# A key that OpenAI's schema lets be absent, but never null.
OrAbsent = Annotated[Item | None, Field(exclude_if=is_none)]


class Page(BaseModel, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


def page(rows: Sequence[Any], limit: int, shape: Callable[[Any], Any]) -> Page[Any]:
    """A page from one row more than `limit`, which tells whether there are more."""
    items = [shape(row) for row in rows[:limit]]
    return Page(
        data=items,
        has_more=len(rows) > limit,
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
    )


def seconds(time: datetime) -> int:
    return int(time.timestamp())


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True] = True
