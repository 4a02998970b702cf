"""The rows of an Excel workbook (.xlsx): of its first sheet that has any. It is the only module
that needs openpyxl.
"""

import re
import warnings
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any, BinaryIO

from openpyxl import Workbook, load_workbook
from openpyxl.utils import get_column_letter
from openpyxl.utils.escape import unescape

from tunery.data.columns import Columns as Named
from tunery.data.container import (
    MOST_RATIO,
    RATIO_COUNTS_FROM_BYTES,
    damaged,
    unpacks_too_far,
)
from tunery.data.lines import Fields
from tunery.data.rows import Fault, Faulty, excerpt
from tunery.data.tables import MAX_RECORD_BYTES, Columns, too_long

MOST_UNPACKED_BYTES = 1 << 30
MOST_ROWS = 1 << 20  # Excel's own limit
CHUNK_BYTES = 1 << 20
FORMULA_BYTES = 1 << 15  # no cell with a formula is longer
# A formula that was written by a program and never computed: the cell would look empty.
NOT_COMPUTED = re.compile(
    rb'<c r="([A-Z]+[0-9]+)"[^<>]*><f[^<>]*(?:/>|>[^<]*</f>)(?:<v */>|<v></v>)?</c>'
)
ERRORS = {"#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!"}
MIDNIGHT = time()

# It warns of drawings and the like, which are not read.
warnings.filterwarnings("ignore", module="openpyxl")


def excel_rows(file: BinaryIO, ours: Named | None = None) -> Iterator[tuple[int, Fields | Fault]]:
    """(row's number in the sheet, its fields). The first row that is not empty has the columns'
    names; empty ones are left out.
    """
    line = 0
    try:
        workbook = opened(file)
        columns: Columns | None = None
        for line, cells in numbered(workbook, next(iter(filled(workbook)), None)):
            if columns is None:
                columns = Columns(names_of(cells), ours)
                continue
            try:
                texts = texts_of(cells, len(columns.names))
            except Faulty as fault:
                yield line, fault.at(line)
            else:
                yield line, columns.row(line, texts)
    except Faulty as fault:
        yield line + 1, fault.at(line + 1)
    except MemoryError:
        yield line + 1, too_large().at(line + 1)
    except Exception as error:  # noqa: BLE001 - what openpyxl raises of a broken one is its own
        yield line + 1, damaged(excerpt(f"{type(error).__name__}: {error}")).at(line + 1)


def sheets_of(file: BinaryIO) -> list[str]:
    """The names of the sheets that have rows, the one that is read first. None of a file that
    cannot be read, of which `excel_rows` says why.
    """
    try:
        return filled(opened(file))
    except Exception:  # noqa: BLE001 - as above
        return []


def opened(file: BinaryIO) -> Workbook:
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        unpacked = sum(part.file_size for part in parts)
        packed = file.seek(0, 2)
        most = max(RATIO_COUNTS_FROM_BYTES, MOST_RATIO * packed)
        if unpacked > min(most, MOST_UNPACKED_BYTES):
            raise unpacks_too_far()
        for part in parts:
            if part.filename.startswith("xl/worksheets/"):
                require_computed(archive, part)
    file.seek(0)
    return load_workbook(file, read_only=True, data_only=True, keep_links=False)


def require_computed(archive: zipfile.ZipFile, sheet: zipfile.ZipInfo) -> None:
    """Raises Faulty for a formula whose value the file does not have."""
    kept = b""
    with archive.open(sheet) as part:
        while chunk := part.read(CHUNK_BYTES):
            if found := NOT_COMPUTED.search(written := kept + chunk):
                raise Faulty(
                    found[1].decode(),
                    "no_value",
                    "the cell has a formula, and the file does not have its value",
                    "Open the file in Excel or LibreOffice, and save it",
                )
            kept = written[-FORMULA_BYTES:]


def filled(workbook: Workbook) -> list[str]:
    """The names of the sheets that have rows; of hidden ones only if no other has."""
    found = [(sheet.title, sheet.sheet_state) for sheet in workbook.worksheets]
    with_rows = [(name, state) for name, state in found if any(numbered(workbook, name))]
    shown = [name for name, state in with_rows if state == "visible"]
    return shown or [name for name, _ in with_rows]


def numbered(workbook: Workbook, name: str | None) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(number from 1, cells) of a sheet's rows that are not empty."""
    if name is None:
        return
    sheet = workbook[name]
    sheet.reset_dimensions()  # it may say anything
    for line, cells in enumerate(sheet.iter_rows(max_row=MOST_ROWS, values_only=True), 1):
        if any(cell not in (None, "") for cell in cells):
            yield line, cells


def names_of(cells: tuple[Any, ...]) -> list[str]:
    """Of the columns up to the last with a name; one without between them by its letter."""
    texts = [text_of(cell) for cell in cells]
    while texts and not texts[-1].strip():
        texts.pop()
    return [
        text if text.strip() or not index else f"column {get_column_letter(index + 1)}"
        for index, text in enumerate(texts)
    ]


def texts_of(cells: tuple[Any, ...], width: int) -> list[str]:
    """As many as there are columns."""
    texts = [text_of(cell) for cell in cells]
    for index, text in enumerate(texts):
        letter = get_column_letter(index + 1)
        if index >= width and text:
            raise Faulty(
                letter,
                "wrong_cell_count",
                f"the row has a cell in column {letter}, which has no name in the first row",
                "Name the column, or empty the cell",
                text,
            )
        if text in ERRORS:
            raise Faulty(
                letter,
                "cell_error",
                f"the cell has the error {text}",
                "Fix its formula, or leave the row out",
                text,
            )
    if sum(map(len, texts)) > MAX_RECORD_BYTES:
        raise too_long()
    return (texts + [""] * width)[:width]


def text_of(cell: Any) -> str:  # noqa: ANN401 - what a cell holds
    """As a reader of the sheet would write it."""
    match cell:
        case None:
            return ""
        case bool():
            return str(cell).upper()
        case float():
            return f"{cell:.15g}"
        case datetime():
            return str(cell.date() if cell.time() == MIDNIGHT else cell)
        case date() | time():
            return str(cell)
        case str():
            return unescape(cell) if "_x" in cell else cell
        case _:
            return str(cell)


def too_large() -> Faulty:
    return Faulty(
        "",
        "too_much_at_once",
        "the workbook is too large to be read in the memory that there is",
        "Save it as .csv",
    )
