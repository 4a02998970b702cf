"""The one door to a data set's rows: check, command line and training all read it here.

JSONL, tables, JSON documents and plain texts, each in gzip or not; Parquet, Arrow and Excel. Rows
and faults never meet silently: a line yields exactly one of the two, a blank line neither.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from tunery.data import documents
from tunery.data.columns import Columns
from tunery.data.container import (
    ARROW,
    BUFFER_BYTES,
    GZIP,
    PARQUET,
    ZIP,
    Inflated,
    is_workbook,
    must_be_data,
)
from tunery.data.encodings import Recoded, encoding_of
from tunery.data.jsonl import Lines, json_lines
from tunery.data.lines import Fields, row_of
from tunery.data.rows import Fault, Faulty, Row
from tunery.data.tables import csv_rows

BOM = b"\xef\xbb\xbf"
TABBED = (".tsv", ".tab")
TABLES = (".csv", *TABBED)

Record = bytes | Fields | Fault
Block = Lines | Fields | Fault


def read_rows(
    path: Path, name: str | None = None, columns: Columns | None = None
) -> Iterator[Row | Fault]:
    """Rows and faults in the file's order. Memory is bounded by the longest allowed row. `name` is
    the file's own, if `path` is not: CSV is known by it, all else by its content. `columns` are the
    file's names for our fields, if it has its own.
    """
    for line, record in read_records(path, name, columns):
        if not blank(record):
            yield row_of(line, record, columns)


def read_records(
    path: Path, name: str | None = None, columns: Columns | None = None
) -> Iterator[tuple[int, Record]]:
    """(line, what stands there): a line's bytes, a table's row, or the fault of a line or file."""
    for line, block in read_blocks(path, name, columns):
        if isinstance(block, Lines):
            yield from enumerate(block.each, line)
        else:
            yield line, block


def blank(record: Record) -> bool:
    return isinstance(record, bytes) and record.isspace()


def read_blocks(
    path: Path, name: str | None = None, columns: Columns | None = None
) -> Iterator[tuple[int, Block]]:
    """As `read_records`, some lines at once."""
    with path.open("rb", buffering=BUFFER_BYTES) as file:
        try:
            blocks = blocks_of(file, name or path.name, columns)
        except Faulty as fault:
            yield 1, fault.at(1)
            return
        yield from blocks


def blocks_of(file: BinaryIO, name: str, columns: Columns | None) -> Iterator[tuple[int, Block]]:
    name = name.lower()
    start = peek(file)
    if start.startswith((PARQUET, *ARROW)):
        try:
            from tunery.data.parquet import (  # noqa: PLC0415 - only these need pyarrow
                arrow_rows,
                parquet_rows,
            )
        except ImportError:
            raise needs("Parquet", "pyarrow", "parquet") from None
        rows = parquet_rows if start.startswith(PARQUET) else arrow_rows
        return rows(file, columns)
    if start.startswith(ZIP) and is_workbook(file):
        try:
            from tunery.data.excel import excel_rows  # noqa: PLC0415 - only these need openpyxl
        except ImportError:
            raise needs("Excel's files", "openpyxl", "excel") from None
        return excel_rows(file, columns)
    if start.startswith(GZIP):
        file = Inflated.reader(file)
        name = name.removesuffix(".gz")
        start = peek(file)
    elif (encoding := encoding_of(file, western=name.endswith((*TABLES, ".txt")))) != "utf-8":
        file = Recoded.reader(file, encoding)
        start = peek(file)
    must_be_data(start)
    if start.startswith(BOM):
        file.read(len(BOM))
        start = start.removeprefix(BOM)
    if name.endswith(TABLES):
        return csv_rows(file, "\t" if name.endswith(TABBED) else None, columns)
    first = start.lstrip()
    if name.endswith(".txt") and not first.startswith((b"{", b"[")):
        return documents.paragraphs(file)
    if first.startswith(b"["):
        return documents.list_rows(file)
    if first.startswith(b"{") and (name.endswith(".json") or first.split(b"\n")[0].strip() == b"{"):
        return of_document(file, columns)
    return json_lines(file)


def of_document(file: BinaryIO, columns: Columns | None) -> Iterator[tuple[int, Block]]:
    """One JSON object; or lines, which many call .json too."""
    written = file.read(documents.MOST_DOCUMENT_BYTES + 1)
    if len(written) <= documents.MOST_DOCUMENT_BYTES:
        try:
            orjson.loads(written)
        except orjson.JSONDecodeError:
            return json_lines(BytesIO(written))
        return documents.document_rows(written, columns)
    if written.split(b"\n")[0].strip() == b"{":
        raise Faulty(
            "",
            "document_too_large",
            f"the file is one JSON object of over {documents.MOST_DOCUMENT_BYTES >> 20} MiB",
            "Write each row as JSON on a line of its own (in Python: json.dumps(row))",
        )
    file.seek(0)
    return json_lines(file)


def needs(what: str, library: str, extra: str) -> Faulty:
    return Faulty(
        "",
        f"needs_{library}",
        f"reading {what} needs {library}, which is not installed here",
        f'pip install "tunery[{extra}]", or save the data set as .jsonl',
    )


def encoding_at(path: Path, name: str | None = None) -> str:
    """What a file of text is in, as it is read."""
    plain = (name or path.name).lower()
    with path.open("rb") as file:
        if file.read(len(GZIP)).startswith(GZIP):
            return "utf-8"
        file.seek(0)
        return encoding_of(file, western=plain.endswith((*TABLES, ".txt")))


def sheets_of(path: Path) -> list[str]:
    """Of an Excel workbook: the sheets that have rows, the one that is read first."""
    try:
        from tunery.data import excel  # noqa: PLC0415 - only these need openpyxl
    except ImportError:
        return []
    with path.open("rb") as file:
        return excel.sheets_of(file)


def container_of(path: Path, name: str | None = None) -> str:
    """jsonl, csv, parquet, xlsx and the like, with .gz behind it."""
    with path.open("rb") as file:
        start = file.read(512)
        if start.startswith(ZIP) and is_workbook(file):
            return "xlsx"
    if start.startswith(PARQUET):
        return "parquet"
    if start.startswith(ARROW):
        return "arrow"
    packed = start.startswith(GZIP)
    plain = (name or path.name).lower()
    plain = plain.removesuffix(".gz") if packed else plain
    endings = {"csv": TABLES, "txt": (".txt",), "json": (".json",)}
    kind = next((kind for kind, ends in endings.items() if plain.endswith(ends)), "jsonl")
    return f"{kind}.gz" if packed else kind


def peek(file: BinaryIO) -> bytes:
    """What the file begins with."""
    return cast("bytes", file.peek(512))  # type: ignore[attr-defined]  # a BufferedReader
