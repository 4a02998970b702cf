"""How commands print: sentences, tables, and the API's answers as JSON."""

import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON.")]


def plain(*, as_json: bool = False) -> Console:
    """Prints text as it is. Beside JSON on stdout it prints to stderr."""
    return Console(highlight=False, soft_wrap=True, markup=False, stderr=as_json)


def print_json(answer: object) -> None:
    sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")


def print_line(line: str, answer: object, *, as_json: bool) -> None:
    """What the answer comes to, or the answer itself as JSON."""
    if as_json:
        print_json(answer)
    else:
        plain().print(line)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Ids are there to be copied: a narrow terminal wraps a line rather than cutting it off."""
    lines = [tuple(heads), *(tuple("" if x is None else str(x) for x in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    console = plain()
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        console.print("  ".join(cells).rstrip())


def print_fields(fields: Mapping[str, Any]) -> None:
    """One a line; what is None is left out."""
    shown = {name: value for name, value in fields.items() if value is not None}
    width = max(map(len, shown))
    console = plain()
    for name, value in shown.items():
        console.print(f"{name.ljust(width)}  {value}")


def harmless(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def day(seconds: float | None) -> str:
    """Of Unix time, in UTC."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def size(count: float) -> str:
    """Of bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
