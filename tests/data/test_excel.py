"""Rows in an Excel workbook."""

import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from tunery.data.check import check
from tunery.data.read import read_rows
from tunery.data.rows import Chat, Completion, Fault


def saved(folder: Path, **sheets: list[list[Any]]) -> Path:
    book = Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    file = folder / "rows.xlsx"
    book.save(file)
    return file


def changed(file: Path, part: str, old: bytes, new: bytes) -> Path:
    """As if another program had written that part."""
    other = file.with_name("changed.xlsx")
    with zipfile.ZipFile(file) as known, zipfile.ZipFile(other, "w") as written:
        for info in known.infolist():
            content = known.read(info)
            if info.filename == part:
                assert old in content
                content = content.replace(old, new)
            written.writestr(info.filename, content)
    return other


def completions(file: Path) -> list[tuple[int, str, str]]:
    rows = list(read_rows(file))
    assert all(isinstance(row, Completion) for row in rows), rows
    return [(row.line, row.prompt, row.completion) for row in rows if isinstance(row, Completion)]


EMPTY = b"<v />"
HEAD = ["prompt", "completion"]


def test_the_first_sheet_with_rows_is_read_each_cell_as_its_text(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        HEAD,
        ["Hi", 5],
        ["Half", 0.1 + 0.2],
        ["When?", date(2026, 11, 29)],
        ["And when?", datetime(2026, 11, 29, 8, 30)],  # noqa: DTZ001 - Excel knows no zones
        ["True?", True],
        [None, None],
        ["Two\nlines", " kept "],
        ["", None],
    ]
    file = saved(tmp_path, Empty=[], Rows=rows, Notes=[["x"]])
    assert completions(file) == [
        (2, "Hi", "5"),
        (3, "Half", "0.3"),
        (4, "When?", "2026-11-29"),
        (5, "And when?", "2026-11-29 08:30:00"),
        (6, "True?", "TRUE"),
        (8, "Two\nlines", " kept "),
    ]
    report = check(file).as_dict()
    assert (report["ok"], report["container"], report["sheets"]) == (
        True,
        "xlsx",
        ["Rows", "Notes"],
    )
    assert any(
        "Only the sheet `Rows` is read; `Notes` has rows too" in w for w in report["warnings"]
    )


def test_columns_are_known_as_in_other_tables(tmp_path: Path) -> None:
    file = saved(tmp_path, A=[["Question", "Answer", None, "Source"], ["Hi", "Ahoy", None, "web"]])
    (row,) = read_rows(file)
    assert isinstance(row, Chat)
    assert [message.content for message in row.messages] == ["Hi", "Ahoy"]
    assert row.left_out == ("source",)
    named = {"prompt": "Question", "completion": "Answer"}
    (other,) = read_rows(file, columns=named)
    assert isinstance(other, Completion)
    lacks = check(saved(tmp_path, A=[["q", "a"], ["Hi", "Ahoy"]]))
    assert [fault.rule for fault in lacks.faults] == ["unknown_columns"]


def test_a_formula_counts_by_its_value(tmp_path: Path) -> None:
    file = saved(tmp_path, A=[HEAD, ["Sum?", "=1+1"]])
    without = check(file)
    assert [(fault.rule, fault.field) for fault in without.faults] == [("no_value", "B2")]
    computed = changed(file, "xl/worksheets/sheet1.xml", EMPTY, b"<v>2</v>")
    assert completions(computed) == [(2, "Sum?", "2")]


def faults(file: Path) -> list[tuple[int, str]]:
    return [(row.line, row.rule) for row in read_rows(file) if isinstance(row, Fault)]


def test_a_cell_that_cannot_be_trained_is_a_fault_of_its_row(tmp_path: Path) -> None:
    file = saved(
        tmp_path, A=[HEAD, ["Hi", "#N/A"], ["Hi", "Ahoy", "stray"], ["Hi", "x" * 20], ["Hi"]]
    )
    assert faults(file) == [
        (2, "cell_error"), (3, "wrong_cell_count"), (5, "nothing_to_train"),
    ]  # fmt: skip


def test_what_is_no_workbook_or_a_hostile_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "rows.xls"
    old.write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    assert "Save it as .xlsx without a password" in str(check(old).faults[0])
    file = saved(tmp_path, A=[HEAD, ["Hi", "Ahoy"]])
    sheet = "xl/worksheets/sheet1.xml"
    assert faults(changed(file, sheet, b"</row>", b"")) == [(1, "damaged_file")]
    assert faults(changed(file, sheet, b'<row r="2"', b'<row r="99999999999"')) == []
    damaged = tmp_path / "damaged.xlsx"
    damaged.write_bytes(file.read_bytes()[:-200])
    assert faults(damaged) == [(1, "unsupported_file")]
    bomb = tmp_path / "bomb.xlsx"
    with zipfile.ZipFile(file) as known, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as made:
        for info in known.infolist():
            made.writestr(info.filename, known.read(info))
        made.writestr("xl/media/large.png", bytes(20 << 20))
    assert faults(bomb) == [(1, "unpacks_too_far")]
    monkeypatch.setattr("tunery.data.excel.MAX_RECORD_BYTES", 5)
    assert faults(saved(tmp_path, A=[HEAD, ["Hi", "Ahoy"]])) == [(2, "line_too_long")]
