"""A data set's own names for the fields of a row, where they are others than ours: `{"prompt":
"question", "completion": "answer"}`. What is not named is left out.
"""

from collections.abc import Collection
from typing import Any

from tunery.data.rows import Faulty, excerpt, quoted
from tunery.data.spellings import CHOSEN, NEWER_OUTPUTS, OLDER_OUTPUTS, REJECTED, is_known

Columns = dict[str, str]

# Of these a row may have none.
OPTIONAL = ("system", "tools", "functions", "parallel_tool_calls", "input", "context", "history")
FIELDS = (
    *("messages", "conversations", "prompt", "completion", "text", "chosen", "rejected"),
    *("instruction", "output", "question", "answer", *NEWER_OUTPUTS, *OLDER_OUTPUTS),
    *OPTIONAL,
)
MOST_CHARACTERS = 256
NAMES_SHOWN = 16


def checked(columns: Columns) -> Columns:
    """Raises ValueError for what cannot be a row's fields, whatever the file."""
    for ours, theirs in columns.items():
        if ours not in FIELDS:
            raise ValueError(
                f"has {excerpt(ours)!r}, which is no field of a row here; name {listed(FIELDS)}"
            )
        if not 0 < len(theirs) <= MOST_CHARACTERS:
            raise ValueError(f"must name columns of 1 to {MOST_CHARACTERS} characters")
    if len(set(columns.values())) < len(columns):
        raise ValueError("must name each column once")
    if not (is_known(columns) or (set(columns) & {*CHOSEN} and set(columns) & {*REJECTED})):
        raise ValueError(
            "must name what makes a row: `messages`, `text`, `prompt` and `completion`, `question` "
            "and `answer`, `instruction` and `output`, or `chosen` and `rejected`"
        )
    return columns


def make_rows(names: Collection[str], columns: Columns | None) -> bool:
    """Whether fields or columns of these names make a row."""
    return set(columns.values()) <= set(names) if columns else is_known(names)


def require(names: Collection[str], columns: Columns) -> None:
    """Raises Faulty if a table lacks one of them."""
    for ours, theirs in columns.items():
        if theirs not in names:
            raise missing(ours, theirs, names, "the file")


def renamed(value: dict[str, Any], columns: Columns) -> tuple[dict[str, Any], list[str]]:
    """The row in our names, and what is left out of it. Raises Faulty for a row that lacks one."""
    for ours, theirs in columns.items():
        if theirs not in value and ours not in OPTIONAL:
            raise missing(ours, theirs, value, "the row")
    row = {ours: value[theirs] for ours, theirs in columns.items() if theirs in value}
    named = set(columns.values())
    return row, [excerpt(name) for name in value if name not in named]


def missing(ours: str, theirs: str, names: Collection[str], of: str) -> Faulty:
    has = f"it has {listed(names)}" if names else "it has none"
    return Faulty(
        excerpt(theirs),
        "missing_column",
        f"{of} has no `{excerpt(theirs)}`, which `columns` names as the {ours}; {has}",
        "Name one of those in `columns`",
    )


def listed(names: Collection[str]) -> str:
    shown = tuple(excerpt(name)[:40] for name in names)[:NAMES_SHOWN]
    return quoted(shown) if len(names) <= NAMES_SHOWN else f"{quoted(shown)} and more"


def own_path(path: str, columns: Columns) -> str:
    """The path of a fault in the file's own names: `completion` is `answer`."""
    for ours, theirs in columns.items():
        rest = path.removeprefix(ours)
        if rest != path and rest[:1] in {"", ".", "["}:
            return excerpt(theirs) + rest
    return path
