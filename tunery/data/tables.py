"""Data sets in tables, where a row's fields are its cells by the names of the columns; and CSV."""

import csv
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from tunery.data.lines import Fields, in_other_encodings, joined, not_utf8, read_json
from tunery.data.rows import Fault, Faulty, excerpt, quoted

MAX_RECORD_BYTES = 1 << 20

# The columns that a table must have, and those it may have.
LAYOUTS = (
    (("messages",), ("tools", "functions", "parallel_tool_calls")),
    (("conversations",), ("system",)),
    (("input", "preferred_output", "non_preferred_output"), ()),
    (("input", "preferred_completion", "non_preferred_completion"), ()),
    (("prompt", "completion"), ()),
    (("instruction", "output"), ("input", "system")),
    (("text",), ()),
)
# What a cell holds as JSON if it is text; `input` only beside outputs.
IN_JSON = {
    "messages",
    "conversations",
    "tools",
    "functions",
    "parallel_tool_calls",
    *("preferred_output", "non_preferred_output"),
    *("preferred_completion", "non_preferred_completion"),
}


class Columns:
    """Raises Faulty if they are no format's."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        if len(set(names)) < len(names):
            raise Faulty(
                "",
                "column_twice",
                "two columns have the same name",
                "Keep one of them",
                ",".join(names),
            )
        for required, optional in LAYOUTS:
            if set(required) <= set(names) <= {*required, *optional}:
                self.optional = optional
                break
        else:
            raise unknown_columns(names)
        self.in_json = IN_JSON & set(names)
        if "instruction" not in names:
            self.in_json |= {"input"} & set(names)

    def row(self, line: int, cells: Sequence[Any]) -> Fields | Fault:
        try:
            return self.fields(cells)
        except Faulty as fault:
            return fault.at(line)

    def fields(self, cells: Sequence[Any]) -> Fields:
        """An optional cell that is empty is left out."""
        fields = {
            name: cell
            for name, cell in zip(self.names, cells, strict=True)
            if cell is not None and not (cell == "" and name in self.optional)
        }
        for name in self.in_json & set(fields):
            if isinstance(fields[name], str):
                try:
                    fields[name] = read_json(fields[name].encode())
                except Faulty as fault:
                    fault.field = joined(name, fault.field)
                    raise
        return fields


def unknown_columns(names: list[str]) -> Faulty:
    if not names:
        return Faulty("", "unknown_columns", "it has no columns", "Save it with its columns")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        return Faulty(
            "",
            "not_commas",
            "its columns are not separated by commas",
            "Save it with commas between the columns",
            names[0],
        )
    layouts = "; ".join(
        quoted(required) + (f" (and {quoted(optional)})" if optional else "")
        for required, optional in LAYOUTS
    )
    return Faulty(
        "",
        "unknown_columns",
        f"the columns are {quoted(tuple(excerpt(name)[:20] for name in names[:8]))}",
        f"Name them in the first row, one of: {layouts}",
        ",".join(names),
    )


class Lines:
    """A CSV file's physical lines, for the csv module. `bad` is the first byte that is not UTF-8
    since `begin`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.begin()

    def begin(self) -> None:
        self.bytes = 0
        self.bad: Faulty | None = None

    def __iter__(self) -> Iterator[str]:
        while raw := self.file.readline(MAX_RECORD_BYTES + 1):
            self.bytes += len(raw)
            if self.bytes > MAX_RECORD_BYTES:
                raise Faulty(
                    "",
                    "line_too_long",
                    "the row is longer than 1 MiB, and is read no further",
                    "Close its quotes, or split it",
                )
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                self.bad = self.bad or not_utf8(in_other_encodings(raw, error))
                yield raw.decode(errors="replace")


def csv_rows(file: BinaryIO) -> Iterator[tuple[int, Fields | Fault]]:
    """(physical line where the row begins, its fields)."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    lines = Lines(file)
    reader = csv.reader(lines, strict=True)
    columns: Columns | None = None
    while True:
        line = reader.line_num + 1
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, not_csv(str(error)).at(line)
            if columns is None:
                return
            continue
        except Faulty as fault:
            yield line, fault.at(line)
            return
        try:
            if lines.bad:
                raise lines.bad
            if not cells:
                continue
            if columns is None:
                columns = Columns([cell.strip() for cell in cells])
                continue
            if len(cells) != len(columns.names):
                raise wrong_cell_count(len(cells), len(columns.names))
        except Faulty as fault:
            yield line, fault.at(line)
            if columns is None:
                return
        else:
            yield line, columns.row(line, cells)


def not_csv(reason: str) -> Faulty:
    return Faulty(
        "",
        "broken_csv",
        f"not valid CSV ({reason})",
        'Put a cell with commas, quotes or line breaks into "quotes", and write a quote within it '
        'as ""',
    )


def wrong_cell_count(cells: int, columns: int) -> Faulty:
    return Faulty(
        "",
        "wrong_cell_count",
        f"the row has {cells} cells, the file has {columns} columns",
        'Put a cell with commas into "quotes", and write empty cells, too',
    )
