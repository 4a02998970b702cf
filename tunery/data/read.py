"""The one door to a data set's rows: check, command line and training all read it here.

JSONL, CSV or Parquet, the first two in gzip or not. Rows and faults never meet silently: a line
yields exactly one of the two, a blank line neither.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from tunery.data.container import BUFFER_BYTES, GZIP, PARQUET, Inflated, must_be_data
from tunery.data.jsonl import Lines, json_lines
from tunery.data.lines import Fields, row_of
from tunery.data.rows import Fault, Faulty, Row
from tunery.data.tables import csv_rows

BOM = b"\xef\xbb\xbf"

Record = bytes | Fields | Fault
Block = Lines | Fields | Fault


def read_rows(path: Path, name: str | None = None) -> Iterator[Row | Fault]:
    """Rows and faults in the file's order. Memory is bounded by the longest allowed row. `name` is
    the file's own, if `path` is not: CSV is known by it, all else by its content.
    """
    for line, record in read_records(path, name):
        if not blank(record):
            yield row_of(line, record)


def read_records(path: Path, name: str | None = None) -> Iterator[tuple[int, Record]]:
    """(line, what stands there): a line's bytes, a table's row, or the fault of a line or file."""
    for line, block in read_blocks(path, name):
        if isinstance(block, Lines):
            yield from enumerate(block.each, line)
        else:
            yield line, block


def blank(record: Record) -> bool:
    return isinstance(record, bytes) and record.isspace()


def read_blocks(path: Path, name: str | None = None) -> Iterator[tuple[int, Block]]:
    """As `read_records`, some lines at once."""
    with path.open("rb", buffering=BUFFER_BYTES) as file:
        try:
            blocks = blocks_of(file, name or path.name)
        except Faulty as fault:
            yield 1, fault.at(1)
            return
        yield from blocks


def blocks_of(file: BinaryIO, name: str) -> Iterator[tuple[int, Block]]:
    name = name.lower()
    start = peek(file)
    if start.startswith(PARQUET):
        try:
            from tunery.data.parquet import parquet_rows  # noqa: PLC0415 - only these need pyarrow
        except ImportError:
            raise needs_pyarrow() from None
        return parquet_rows(file)
    if start.startswith(GZIP):
        file = Inflated.reader(file)
        name = name.removesuffix(".gz")
        start = peek(file)
    must_be_data(start, name)
    if start.startswith(BOM):
        file.read(len(BOM))
    return csv_rows(file) if name.endswith(".csv") else json_lines(file)


def needs_pyarrow() -> Faulty:
    return Faulty(
        "",
        "needs_pyarrow",
        "reading Parquet needs pyarrow, which is not installed here",
        'pip install "tunery[parquet]", or save the data set as .jsonl',
    )


def container_of(path: Path, name: str | None = None) -> str:
    """jsonl, csv or parquet, with .gz behind it."""
    with path.open("rb") as file:
        start = file.read(len(PARQUET))
    if start == PARQUET:
        return "parquet"
    packed = start.startswith(GZIP)
    plain = (name or path.name).lower()
    kind = "csv" if plain.removesuffix(".gz" if packed else "").endswith(".csv") else "jsonl"
    return f"{kind}.gz" if packed else kind


def peek(file: BinaryIO) -> bytes:
    """What the file begins with."""
    return cast("bytes", file.peek(512))  # type: ignore[attr-defined]  # a BufferedReader
