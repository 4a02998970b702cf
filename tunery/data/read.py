"""The one door to a data set's rows: check, command line and training all read it here.

JSONL in UTF-8, with or without a byte-order mark. Rows and faults never meet silently: a line
yields exactly one of the two, a blank line neither.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tunery.data.lines import row_of
from tunery.data.rows import Fault, Row

MAX_LINE_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"


def read_rows(path: Path) -> Iterator[Row | Fault]:
    """Rows and faults in the file's order. Memory is bounded by the longest allowed line."""
    for line, record in read_records(path):
        if not blank(record):
            yield row_of(line, record)


def read_records(path: Path, _: str | None = None) -> Iterator[tuple[int, bytes | Fault]]:
    return read_lines(path)


def blank(record: bytes | Fault) -> bool:
    return isinstance(record, bytes) and not record.strip()


def read_lines(path: Path) -> Iterator[tuple[int, bytes | Fault]]:
    """(line number from 1, bytes without the line's end). A line over 1 MiB is a fault."""
    with path.open("rb") as file:
        start = file.read(len(BOM))
        if start != BOM:
            file.seek(0)
        line = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            line += 1
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                skip_to_line_end(file)
                yield (
                    line,
                    Fault(
                        line, "", "line_too_long", "the line is longer than 1 MiB", "Split the row"
                    ),
                )
            else:
                yield line, raw.rstrip(b"\r\n")


def skip_to_line_end(file: BinaryIO) -> None:
    while (raw := file.readline(MAX_LINE_BYTES)) and not raw.endswith(b"\n"):
        pass
