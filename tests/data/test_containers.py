"""The files that rows come in: packed, in tables, or not what their names say."""

import csv
import gzip
import io
import json
import struct
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tunery.data import container
from tunery.data.check import check
from tunery.data.read import container_of, read_rows
from tunery.data.rows import Chat, Completion, Fault, Text

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy, “you”"}]
CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
ROW = b'{"text": "Bread is baked."}\n'


def write(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def table(*rows: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def only_fault(path: Path) -> Fault:
    (fault,) = read_rows(path)
    assert isinstance(fault, Fault), fault
    assert fault.mend
    return fault


def test_gzip_is_unpacked_as_it_is_read_whatever_its_name(tmp_path: Path) -> None:
    packed = gzip.compress(ROW * 2) + gzip.compress(ROW)  # of two members, as `cat` makes them
    path = write(tmp_path, "data.jsonl", packed)
    assert list(read_rows(path)) == [Text(line, "Bread is baked.") for line in (1, 2, 3)]
    assert container_of(path) == "jsonl.gz"


def test_a_packed_file_that_ends_early_is_a_fault_where_it_ends(tmp_path: Path) -> None:
    rows = b"".join(b'{"text": "%d"}\n' % number for number in range(50_000))
    path = write(tmp_path, "data.jsonl.gz", gzip.compress(rows)[:-1_000])
    *good, fault = read_rows(path)
    assert isinstance(fault, Fault)
    assert (fault.rule, fault.line) == ("damaged_file", len(good) + 1)
    assert "ends too early" in fault.reason


def test_what_unpacks_to_far_more_than_text_does_is_read_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = b'{"text": "%s"}\n' % (b"x" * 100_000)
    path = write(tmp_path, "bomb.jsonl.gz", gzip.compress(row * 200))
    *good, fault = read_rows(path)
    assert isinstance(fault, Fault)
    assert fault.rule == "unpacks_too_far"
    assert len(good) * len(row) <= container.RATIO_COUNTS_FROM_BYTES
    monkeypatch.setattr(container, "MOST_UNPACKED_BYTES", 1_000)
    assert only_fault(write(tmp_path, "x", gzip.compress(ROW * 100))).rule == "unpacks_too_far"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.jsonl", ROW)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped(), "a zip archive"),
        (b"(\xb5/\xfd rest", "zstd"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\x93NUMPY\x01", "NumPy"),
        (b"data.jsonl" + b"\0" * 247 + b"ustar", "a tar archive"),
        (gzip.compress(gzip.compress(ROW)), "packed twice"),
        (gzip.compress(zipped()), "a zip archive"),
        (gzip.compress(b"PAR1"), "Parquet within gzip"),
    ],
    ids=range(10),  # what is packed holds the time
)
def test_other_archives_and_pickles_are_refused_in_words(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    fault = only_fault(write(tmp_path, "data.jsonl", content))
    assert (fault.line, fault.rule) == (1, "unsupported_file")
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("x.jsonl", b"prompt,completion\na,b\n", "csv_as_jsonl"),
        ("x.jsonl", ROW.replace(b"\n", b"\r") * 3, "carriage_returns"),
        ("x.csv", b"front,back\na,b\n", "unknown_columns"),
        ("x.csv", b"text,text\na,b\n", "column_twice"),
        ("x.csv", ROW, "jsonl_as_csv"),
        ("x.parquet", b"PAR1 and no more", "damaged_file"),
    ],
)
def test_a_file_that_is_something_else_has_one_fault_that_says_so(
    tmp_path: Path, name: str, content: bytes, rule: str
) -> None:
    fault = only_fault(write(tmp_path, name, content))
    assert (fault.rule, fault.line) == (rule, 2 if content.startswith(b"\n") else 1)


def test_a_list_on_a_line_that_is_json_itself_is_a_fault_of_that_line(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", b'[{"role": "user"}]\n' + ROW)
    assert [getattr(row, "rule", "") for row in read_rows(path)] == [
        "missing_messages",
        "invalid_json",
    ]


def test_csv_rows_are_named_by_their_header(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + table(
        ["prompt", " completion"], ["a, b", 'c "d"\ne'], [], ["f", ""]
    )
    path = write(tmp_path, "data.CSV", content)
    first, second = read_rows(path)
    assert first == Completion(2, "a, b", 'c "d"\ne')
    assert isinstance(second, Fault)
    assert (second.line, second.rule) == (5, "nothing_to_train")
    packed = write(tmp_path, "data.csv.gz", gzip.compress(content))
    assert list(read_rows(packed)) == [first, second]
    assert next(iter(read_rows(packed, "other.jsonl"))) != first


def test_json_in_the_cells_of_a_table_is_read(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    cells = [json.dumps(TALK), json.dumps(tools), "false"]
    path = write(
        tmp_path,
        "data.csv",
        table(
            ["messages", "tools", "parallel_tool_calls"], cells, [cells[0], "", ""], ["[", "", ""]
        ),
    )
    full, bare, fault = read_rows(path)
    assert isinstance(full, Chat)
    assert isinstance(bare, Chat)
    assert (full.tools, full.parallel_tool_calls) == (tuple(tools), False)
    assert (bare.tools, bare.messages) == ((), full.messages)
    assert isinstance(fault, Fault)
    assert (fault.line, fault.field, fault.rule) == (4, "messages", "invalid_json")


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'"a "b" c",d\n', "broken_csv"),
        (b"a,b,c\n", "wrong_cell_count"),
        (b"a\n", "wrong_cell_count"),
        (b"a,caf\x81\n", "not_utf8"),
        (b"a,b\0\n", "nul_character"),
    ],
)
def test_a_broken_line_of_a_csv_file_is_one_fault(tmp_path: Path, line: bytes, rule: str) -> None:
    content = b'prompt,completion\na,"b\nc"\n' + line + b"d,e\n"
    rows = list(read_rows(write(tmp_path, "data.csv", content)))
    assert [row.line for row in rows] == [2, 4, 5]
    assert isinstance(rows[1], Fault)
    assert rows[1].rule == rule


@pytest.mark.parametrize("length", [10, 2_000_000])
def test_a_quote_that_is_never_closed_is_named_where_it_opens(tmp_path: Path, length: int) -> None:
    content = b'text\nBread\n"open\n' + b"more\n" * length
    rows = list(read_rows(write(tmp_path, "data.csv", content)))
    assert isinstance(rows[1], Fault)
    assert rows[1].line == 3
    assert rows[1].rule == ("broken_csv" if length == 10 else "line_too_long")
    assert len(rows) == 2


def test_parquet_rows_are_read_with_their_nulls(tmp_path: Path) -> None:
    """Parquet gives each message all fields."""
    messages = [TALK[0], {"role": "assistant", "tool_calls": [CALL]}]
    rows = [{"messages": TALK}, {"messages": messages}, {"messages": [TALK[0]]}]
    path = tmp_path / "data.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    first, second, fault = read_rows(path)
    assert isinstance(first, Chat)
    assert isinstance(second, Chat)
    assert first.messages[1].content == "Ahoy, “you”"
    assert second.messages[1].tool_calls[0].id == "a"
    assert isinstance(fault, Fault)
    assert (fault.line, fault.rule) == (3, "missing_assistant")
    assert check(path).as_dict()["container"] == "parquet"


def test_tools_in_parquet_have_only_their_own_parameters(tmp_path: Path) -> None:
    """Its structs give each all of them."""
    parameters = {name: {"properties": {name: {"enum": [name, None]}}} for name in ("look", "go")}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": each}}
        for name, each in parameters.items()
    ]
    rows = [{"messages": TALK, "tools": tools}, {"messages": TALK, "tools": []}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    full, bare = read_rows(tmp_path / "data.parquet")
    assert isinstance(full, Chat)
    assert isinstance(bare, Chat)
    assert (full.tools, bare.tools) == (tuple(tools), ())


def test_a_parquet_file_of_other_columns_or_far_larger_than_it_looks_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.parquet"
    parquet.write_table(pa.table({"front": ["a"], "back": ["b"]}), path)
    assert only_fault(path).rule == "unknown_columns"
    parquet.write_table(pa.table({"text": ["x" * 500_000] * 70}), path)
    *_, fault = read_rows(path)
    assert isinstance(fault, Fault)
    assert fault.rule == "unpacks_too_far"


def test_what_parquet_has_and_json_has_not_is_a_fault_of_its_row(tmp_path: Path) -> None:
    latin = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(struct.pack("<3i", 0, 4, 5)), pa.py_buffer(b"caf\xe9a")]
    )
    function = {"name": "look", "parameters": {"price": Decimal(1)}}
    tools = [[{"type": "function", "function": function}]]
    found = []
    for table in (
        pa.table({}),
        pa.table({"text": latin}),
        pa.table({"text": pa.array([2**62, 1], pa.timestamp("us"))}),
        pa.table({"text": pa.array([None, "a"])}),
        pa.table({"text": pa.array([b"Bread"])}),
        pa.table({"messages": [TALK], "tools": tools}),
        pa.table({"messages": [TALK], "tools": [[{"x": float("nan")}]]}),
    ):
        parquet.write_table(table, tmp_path / "data.parquet")
        first, *rest = read_rows(tmp_path / "data.parquet")
        assert isinstance(first, Fault)
        found.append((first.line, first.field, first.rule, len(rest)))
    assert found == [
        (1, "", "unknown_columns", 0),
        (1, "", "not_utf8", 1),
        (1, "", "unreadable_value", 1),
        (1, "text", "not_a_string", 1),
        (1, "text", "not_json", 0),
        (1, "tools[0].function.parameters.price", "not_json", 0),
        (1, "tools[0].x", "not_a_number", 0),
    ]


def test_pages_that_no_memory_holds_are_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.parquet"
    parquet.write_table(pa.table({"text": ["a"]}), path)

    def fails(*_: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 57600064 failed")

    monkeypatch.setattr("tunery.data.parquet.cells_of", fails)
    assert only_fault(path).rule == "too_much_at_once"


def test_a_first_line_of_carriage_returns_takes_no_longer_than_another(tmp_path: Path) -> None:
    fault = only_fault(write(tmp_path, "x.jsonl", b"{" + b"\r" * 1_000_000 + b"x\n"))
    assert fault.rule == "unquoted_key"


def test_without_pyarrow_parquet_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tunery.data.parquet", None)
    fault = only_fault(write(tmp_path, "data.parquet", b"PAR1"))
    assert fault.rule == "needs_pyarrow"
    assert 'pip install "tunery[parquet]"' in fault.mend


def test_a_long_document_is_a_row_and_a_text_of_one_line_is_read_in_pieces(tmp_path: Path) -> None:
    document = "The cow eats grass. " * 100_000
    rows = list(read_rows(write(tmp_path, "data.jsonl", json.dumps({"text": document}).encode())))
    assert rows == [Text(1, document)]
    pieces = list(read_rows(write(tmp_path, "book.txt", f"{document}\n\nEnd\n".encode())))
    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == f"{document}End"
    assert [piece.line for piece in pieces] == [1] * (len(pieces) - 1) + [3]
