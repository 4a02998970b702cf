"""Data sets in tables, where a row's fields are its cells by the names of the columns; and CSV."""

import csv
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from tunery.data import columns as named
from tunery.data.columns import OPTIONAL
from tunery.data.jsonl import MAX_LINE_BYTES
from tunery.data.lines import Fields, in_other_encodings, not_utf8, read_json
from tunery.data.rows import Fault, Faulty, excerpt, quoted
from tunery.data.spelled_turns import TURN_LISTS, without_nulls
from tunery.data.spellings import (
    ANSWERS,
    CHOSEN,
    NEWER_OUTPUTS,
    OLDER_OUTPUTS,
    QUESTIONS,
    REJECTED,
    SYSTEMS,
    is_known,
)
from tunery.data.values import joined

MAX_RECORD_BYTES = MAX_LINE_BYTES

# What a cell holds as JSON if it is text; `input` only beside outputs.
IN_JSON = {
    *("messages", "conversations", "tools", "functions", "parallel_tool_calls"),
    *NEWER_OUTPUTS,
    *OLDER_OUTPUTS,
}
# What may be JSON or text.
MAYBE_JSON = {*TURN_LISTS, *CHOSEN, *REJECTED, "history", "prompt"} - IN_JSON
# Without a word in it such a cell is a fault of the row; any other is as if it were not there.
NEEDED = {"messages", "conversations", "text", *QUESTIONS, *ANSWERS} - {"input"}
KNOWN = {*IN_JSON, *MAYBE_JSON, *NEEDED, *SYSTEMS, "systemInstruction", "input", "context"}
# The numbers of the rows, which pandas writes before them.
INDEX = {"", "unnamed:_0", "__index_level_0__"}
SEPARATORS = ",;\t"


class Columns:
    """Raises Faulty if they are no format's. `ours` are the columns by our names, if they have
    names of their own.
    """

    def __init__(self, names: list[str], ours: named.Columns | None = None) -> None:
        self.names = [name.strip() if ours else known_as(name) for name in names]
        if len(set(self.names)) < len(self.names):
            raise Faulty(
                "",
                "column_twice",
                "two columns have the same name",
                "Keep one of them",
                ",".join(names),
            )
        if ours:
            named.require(self.names, ours)
        elif not is_known(self.names):
            raise unknown_columns(names)
        of_theirs = {theirs: name for name, theirs in (ours or {}).items()}
        self.ours = [of_theirs.get(name, "") if ours else name for name in self.names]
        self.needed = {*NEEDED, *(ours or ())} - {*OPTIONAL}
        self.in_json = IN_JSON & set(self.ours)
        if set(self.ours) & {*NEWER_OUTPUTS, *OLDER_OUTPUTS}:
            self.in_json |= {"input"} & set(self.ours)

    def row(self, line: int, cells: Sequence[Any]) -> Fields | Fault:
        try:
            return self.fields(cells)
        except Faulty as fault:
            return fault.at(line)

    def fields(self, cells: Sequence[Any]) -> Fields:
        """A cell that is empty is left out, and within a Parquet cell what is null: there all
        tools, for one, have the parameters of each.
        """
        fields: Fields = {}
        for name, ours, cell in zip(self.names, self.ours, cells, strict=True):
            if name in INDEX or (cell in (None, "", []) and ours not in self.needed):
                continue
            fields[name] = cell
            if not isinstance(cell, str):
                fields[name] = without_nulls(cell)
            elif ours in self.in_json or (ours in MAYBE_JSON and cell.lstrip()[:1] in {"[", "{"}):
                try:
                    fields[name] = read_json(cell.encode())
                except Faulty as fault:
                    if ours in MAYBE_JSON:
                        continue
                    fault.field = joined(name, fault.field)
                    raise
        return fields


def known_as(name: str) -> str:
    """As fields are written, where the column's own name is none of theirs."""
    name = name.strip()
    return name if name in KNOWN else "_".join(name.lower().split())


def unknown_columns(names: list[str]) -> Faulty:
    if not names:
        return Faulty("", "unknown_columns", "it has no columns", "Save it with its columns")
    if names[0].startswith("{"):
        return Faulty(
            "",
            "jsonl_as_csv",
            "the file is called .csv and begins as JSON",
            "Call it .jsonl if each line is a row in JSON",
            names[0],
        )
    return Faulty(
        "",
        "unknown_columns",
        f"the columns are {quoted(tuple(excerpt(name)[:20] for name in names[:8]))}",
        "Name them in the first row: `prompt` and `completion`, `question` and `answer`, "
        "`instruction` and `output`, `chosen` and `rejected`, `messages`, or `text`",
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
                    f"the row is longer than {MAX_RECORD_BYTES >> 20} MiB, and is read no further",
                    "Close its quotes, or split it",
                )
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                self.bad = self.bad or not_utf8(in_other_encodings(raw, error))
                yield raw.decode(errors="replace")


def csv_rows(
    file: BinaryIO, separator: str | None = None, ours: named.Columns | None = None
) -> Iterator[tuple[int, Fields | Fault]]:
    """(physical line where the row begins, its fields). Without a `separator` it is the one that
    makes columns of the first line, or that a spreadsheet's `sep=` names before it.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    first = cast("bytes", file.peek(1 << 12)).split(b"\n")[0].strip()  # type: ignore[attr-defined]
    skipped = 0
    if first.lower().startswith(b"sep=") and len(first) == len(b"sep=") + 1:
        separator = first[-1:].decode()
        file.readline()
        skipped = 1
    lines = Lines(file)
    reader = csv.reader(
        lines, strict=True, delimiter=separator or separator_of(first.decode("latin-1"), ours)
    )
    columns: Columns | None = None
    while True:
        line = reader.line_num + 1 + skipped
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
            if not any(cells):
                continue
            if columns is None:
                columns = Columns(cells, ours)
                continue
            if len(cells) != len(columns.names):
                raise wrong_cell_count(len(cells), len(columns.names))
        except Faulty as fault:
            yield line, fault.at(line)
            if columns is None:
                return
        else:
            yield line, columns.row(line, cells)


def separator_of(header: str, ours: named.Columns | None) -> str:
    """The one that makes known columns of it; a comma, if none does."""
    for separator in SEPARATORS:
        names = next(csv.reader([header], delimiter=separator), [])
        if named.make_rows([name.strip() if ours else known_as(name) for name in names], ours):
            return separator
    return max(SEPARATORS, key=header.count)


def too_long() -> Faulty:
    found = f"the row is longer than {MAX_RECORD_BYTES >> 20} MiB"
    return Faulty("", "line_too_long", found, "Split the row")


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
