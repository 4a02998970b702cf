"""What the shapes have in common: strict requests, storable text, pages."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field

from api.http import unreadable
from tunery.fields import Described, Kind

Item = TypeVar("Item")


class Request(Described):
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
Metadata = Annotated[
    dict[
        Annotated[Word, Field(min_length=1, max_length=64)],
        Annotated[Word, Field(max_length=512)],
    ],
    Field(max_length=16, examples=[{"team": "dairy"}]),
]
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


def with_ids(schema: dict[str, Any], page: type["Page[Any]"]) -> None:
    """Gives a page the ids of its own items as examples."""
    (item,) = page.__pydantic_generic_metadata__["args"]
    for name in ("first_id", "last_id"):
        schema["properties"][name]["examples"] = item.model_fields["id"].examples


class Page(Described, Generic[Item]):
    """A part of a list. `GET` the next one with `after` set to `last_id`, if the route takes it."""

    model_config = ConfigDict(json_schema_extra=with_ids)

    object: Kind[Literal["list"]] = "list"
    data: list[Item]
    """The objects of this page, in the order of the list."""
    has_more: bool = False
    """Whether the list goes on after this page."""
    first_id: str | None = None
    """Id of the first object; null: the page is empty, or the list always comes whole."""
    last_id: str | None = None
    """Id of the last object; null: the page is empty, or the list always comes whole."""


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


class Deleted(Described):
    """Confirms that an object was deleted."""

    id: Annotated[str, Field(examples=["file-E3pyIgKpaUnArl63XykWZeiN", "tunery-demo"])]
    """Id of what was deleted."""
    object: Annotated[str, Field(examples=["file", "model"])]
    """The type of what was deleted."""
    deleted: Literal[True] = True
    """Always true. If nothing is deleted, the response is an error."""
