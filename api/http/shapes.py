"""What the shapes have in common: strict requests, storable text, pages."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.http import unreadable

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


def nameable(name: str) -> str:
    """What a file may be called: every disk holds such a name."""
    size = len(name.encode())
    if size > MOST_NAME_BYTES:
        raise ValueError(
            f"has {size:,} bytes in UTF-8; a file's name has at most {MOST_NAME_BYTES}"
        )
    return name


MOST_NAME_BYTES = 255
# No id, name or word of ours is longer.
Word = Annotated[str, Field(max_length=512), AfterValidator(storable)]
FileName = Annotated[
    str,
    Field(min_length=1, max_length=MOST_NAME_BYTES),
    AfterValidator(storable),
    AfterValidator(nameable),
]


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
    """A page from one row more than `limit`, which tells whether there are more. A row that cannot
    be read is left out.
    """
    items = []
    for row in rows[:limit]:
        try:
            items.append(shape(row))
        except unreadable.Misshapen as error:
            unreadable.note(type(row).__name__, str(getattr(row, "id", "")), error)
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
