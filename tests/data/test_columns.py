"""A file's own names for the fields of a row."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunery.data.check import Report, check
from tunery.data.columns import checked
from tunery.data.read import read_rows

ROWS: list[dict[str, Any]] = [
    {"asked": "Hi", "said": "Ahoy", "topic": "sea"},
    {"asked": "Why?", "said": "Aye", "topic": "sea"},
]
COLUMNS = {"prompt": "asked", "completion": "said"}


def written(folder: Path, name: str) -> Path:
    file = folder / name
    match file.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), file)
        case ".csv":
            lines = [";".join(row.values()) for row in ROWS]
            file.write_text("\n".join(["asked;said;topic", *lines]))
        case ".json":
            document = ROWS if name == "list.json" else {"rows": ROWS}
            file.write_text(json.dumps(document))
        case _:
            file.write_text("\n".join(map(json.dumps, ROWS)))
    return file


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "rows.csv", "rows.parquet", "list.json", "object.json"]
)
def test_a_file_is_read_by_its_own_names_and_the_rest_is_left_out(
    tmp_path: Path, name: str
) -> None:
    file = written(tmp_path, name)
    found = check(file, columns=COLUMNS)
    assert (found.ok, found.rows, dict(found.formats)) == (True, 2, {"completion": 2}), found
    assert found.left_out == {"topic": 2}
    assert [row.text for row in read_rows(file, columns=COLUMNS)] == ["HiAhoy", "Why?Aye"]  # type: ignore[union-attr]
    lacks = check(file, columns={"prompt": "question", "completion": "said"})
    assert not lacks.rows
    assert (lacks.faults[0].rule, lacks.faults[0].field) == ("missing_column", "question")
    assert "it has `asked`, `said` and `topic`" in str(lacks.faults[0])


def of_rows(folder: Path, columns: dict[str, str], *rows: dict[str, Any]) -> Report:
    file = folder / "some.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return check(file, columns=columns)


def test_a_fault_names_the_files_own_field(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "wizard", "content": "Ahoy"}]
    found = of_rows(tmp_path, {"messages": "talk"}, {"talk": talk}, {"talk": "no"})
    assert [fault.field for fault in found.faults] == ["talk[1].role", "talk"]


def test_a_row_may_lack_what_no_row_needs(tmp_path: Path) -> None:
    columns = {"question": "q", "answer": "a", "system": "persona"}
    found = of_rows(tmp_path, columns, {"q": "Hi", "a": "Ahoy", "persona": "Be brief."}, ROWS[0])
    assert (found.rows, found.fault_count) == (1, 1)
    found = of_rows(tmp_path, columns, {"q": "Hi", "a": "Ahoy"})
    assert found.ok


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompts": "q", "completion": "a"}, "'prompts', which is no field of a row"),
        ({"prompt": "q", "completion": "q"}, "each column once"),
        ({"prompt": "q", "system": "s"}, "what makes a row"),
        ({"text": ""}, "1 to 256"),
        ({}, "what makes a row"),
    ],
)
def test_names_that_make_no_row_are_refused(columns: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked(columns)
