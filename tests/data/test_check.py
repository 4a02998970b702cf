"""The report on a whole file, and the process that makes it."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.data.test_seeded_faults import Maker, twice
from tunery.data import check as checking
from tunery.data.check import MAX_FAULTS, Report, check
from tunery.data.jsonl import Lines
from tunery.data.rows import MOST_FAULTS_OF_A_ROW
from tunery.data.usual import UsualRows, usual_rows

ROOT = Path(__file__).resolve().parents[2]
BREAD = b'{"prompt": "Bread is", "completion": " baked."}\n'
TALK = b'{"messages": [{"role": "assistant", "content": "Ahoy"}]}\n'

# Runs the check as `python -m` does, then says how much memory it had at most. (`ru_maxrss` would
# count the parent's memory, which the child has until it starts its program.)
CHECK_AND_MEASURE = """
import runpy, sys
runpy.run_module("tunery.data.check", run_name="__main__", alter_sys=True)
sys.stderr.write(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def check_bytes(tmp_path: Path, content: bytes) -> Report:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    return check(path)


def test_a_good_file_is_counted_by_format(tmp_path: Path) -> None:
    report = check_bytes(tmp_path, BREAD * 3)
    assert report.ok
    assert (report.rows, report.formats, report.summary()) == (3, {"completion": 3}, None)
    assert (report.text_bytes, report.longest_row_bytes) == (3 * 15, 15)


def test_all_faults_are_counted_and_the_first_1000_listed(tmp_path: Path) -> None:
    report = check_bytes(tmp_path, b"x\n" * (MAX_FAULTS + 5) + BREAD)
    assert (report.rows, report.fault_count, len(report.faults)) == (1, MAX_FAULTS + 5, MAX_FAULTS)
    assert [fault.line for fault in report.faults] == list(range(1, MAX_FAULTS + 1))


@pytest.mark.parametrize(
    ("faults", "rest"),
    [(1, ""), (2, " (1 more fault; see the report)"), (3, " (2 more faults; see the report)")],
)
def test_the_summary_names_the_first_fault_and_counts_the_others(
    tmp_path: Path, faults: int, rest: str
) -> None:
    report = check_bytes(tmp_path, BREAD + b"[]\n" * faults)
    assert report.summary() == f"{report.faults[0]}{rest}"
    assert report.faults[0].line == 2


def test_a_row_of_another_format_than_the_first_is_a_fault(tmp_path: Path) -> None:
    report = check_bytes(tmp_path, TALK + BREAD + TALK)
    assert (report.rows, report.formats) == (2, {"chat": 2})
    assert [(fault.line, fault.rule) for fault in report.faults] == [(2, "mixed_formats")]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_a_fault(tmp_path: Path, content: bytes) -> None:
    assert [fault.rule for fault in check_bytes(tmp_path, content).faults] == ["no_rows"]


def chats(seed: str, rows: int = 40) -> list[bytes]:
    maker = Maker(seed)
    return [maker.written(maker.chat()) + b"\n" for _ in range(rows)]


def test_what_is_in_a_file_is_counted(tmp_path: Path) -> None:
    rows = [Maker("a").written(Maker("a").tools()), Maker("b").written(Maker("b").chat())]
    report = check_bytes(tmp_path, b"\n".join(rows)).as_dict()
    messages = sum(len(json.loads(row)["messages"]) for row in rows)
    assert (report["messages"], sum(report["roles"].values())) == (messages, messages)
    assert (report["rows_with_tools"], report["tool_calls"], report["roles"]["tool"]) == (1, 1, 1)
    assert report["warnings"] == [
        "The file has only 2 rows; a model learns little from fewer than 10."
    ]


@pytest.mark.parametrize("row", [BREAD, TALK])
def test_rows_that_come_again_are_counted_and_the_first_ones_named(
    tmp_path: Path, row: bytes
) -> None:
    others = (
        chats("other")
        if row == TALK
        else [b'{"prompt":"","completion":"%d"}\n' % n for n in range(40)]
    )
    content = [*others, row, b"\n", row, *others[5:8], row]
    report = check_bytes(tmp_path, b"".join(content))
    assert report.ok
    assert report.as_dict()["duplicates"] == {
        "rows": 5,
        "lines": [(41, 43), (6, 44), (7, 45), (8, 46), (41, 47)],
        "complete": True,
    }
    assert "5 rows are the same as an earlier one: line 43 as line 41" in report.warnings()[0]


def test_no_more_rows_are_read_than_there_may_be(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(BREAD * 3)
    assert check(path, most_rows=3).ok
    report = check(path, most_rows=2)
    assert [fault.rule for fault in report.faults] == ["too_many_rows"]
    assert "more than 2 rows" in str(report.faults[0])


@pytest.mark.parametrize("name", ["bomb.parquet", "bomb.jsonl.gz"])
def test_a_few_bytes_that_unpack_to_very_many_rows_are_read_no_further(
    tmp_path: Path, name: str
) -> None:
    """Their check took 9 s for 3 kB, and their training gigabytes."""
    path, rows = tmp_path / name, 300_000
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(b'{"text": "a"}\n' * rows))
    else:
        parquet.write_table(pa.table({"text": pa.array(["a"] * rows)}), path)
    report = check(path)
    assert [fault.rule for fault in report.faults] == ["unpacks_too_far"]
    assert report.rows <= 120_000


def test_the_time_of_a_check_is_in_proportion_to_the_file() -> None:
    sizes = (3_000, 16 << 20, 8 << 30)
    assert [checking.cpu_seconds(size) for size in sizes] == [20, 340, 900]


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows,
        lambda rows: [*rows[:20], twice(rows[20]), *rows[21:]],
        lambda rows: [*rows[:20], rows[20].replace(b"0.", b"\\u0000", 1), *rows[21:]],
        lambda rows: [*rows[:20], rows[20].replace(b"assistant", b"user"), *rows[21:]],
        lambda rows: [*rows[:20], b'{"messages": []}\n', *rows[21:]],
        lambda rows: [*rows[:20], rows[20].rstrip() + rows[20], b"\n", *rows[21:]],
        lambda rows: [rows[0], *rows, b"{}\n"],
        lambda rows: [row.rstrip() + b" \r\n" for row in rows],
    ],
)
def test_rows_taken_at_once_are_counted_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    content = b"".join(damage(chats("a")))
    taken: list[UsualRows | None] = []

    def take(lines: Lines) -> UsualRows | None:
        taken.append(usual_rows(lines))
        return taken[-1]

    monkeypatch.setattr(checking, "usual_rows", take)
    at_once = check_bytes(tmp_path, content)
    assert bool(taken[0]) == at_once.ok
    monkeypatch.setattr(checking, "usual_rows", lambda _: None)
    assert check_bytes(tmp_path, content).as_dict() == at_once.as_dict()


def run_check(path: Path, *how: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, *how, str(path)], capture_output=True, check=True, cwd=ROOT
    )
    report: dict[str, Any] = orjson.loads(done.stdout)
    return report, done.stderr.decode()


def test_the_process_prints_the_report_as_json() -> None:
    path = ROOT / "examples" / "broken.jsonl"
    report, errors = run_check(path, "-m", "tunery.data.check")
    assert report == json.loads(json.dumps(check(path).as_dict()))
    assert (report["ok"], report["rows"], report["fault_count"]) == (False, 3, 12)
    assert report["faults"][1]["message"].startswith("line 3: expected a JSON object")
    assert errors == ""


def test_the_memory_of_a_check_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """150 MB of the worst lines: as long as may be, with faults that name what stands there."""
    path = tmp_path / "large.jsonl"
    filler = b"k" * 1_000_000
    with path.open("wb") as file:
        for _ in range(10):
            file.write(BREAD.replace(b"Bread", filler) * 7)
            file.write(b'{"prompt": "a", "%s": 1}\n' % filler * 7)
            file.write(b"[" + b"[]," * 333_000 + b"[]]\n")
    report, peak = run_check(path, "-c", CHECK_AND_MEASURE)
    assert (report["rows"], report["fault_count"]) == (70, 80)
    assert int(peak.split()[1]) < 128 * 1024, peak


def lines_of(tmp_path: Path, *rows: dict[str, Any]) -> Report:
    return check_bytes(tmp_path, b"\n".join(map(orjson.dumps, rows)))


def test_all_faults_of_a_row_are_told_at_once(tmp_path: Path) -> None:
    messages: list[Any] = [
        {"role": "user", "content": 5, "name": 3, "size": 1},
        {"role": "wizard", "content": "Ahoy"},
        {"role": "assistant", "content": None, "weight": 2},
        {"role": "tool", "content": "x", "tool_call_id": "nobody's"},
    ]
    row = {"messages": messages, "tools": "none", "parallel_tool_calls": "yes"}
    report = lines_of(tmp_path, row, {"question": 1, "answer": 2}, {"prompt": 1})
    assert [(fault.line, fault.rule) for fault in report.faults] == [
        (1, "unrecognized_role"),
        (1, "invalid_json"),
        (1, "missing_content"),
        (1, "not_a_string"),
        (1, "missing_content"),
        (1, "invalid_weight"),
        (1, "last_not_assistant"),
        (1, "not_a_boolean"),
        (2, "not_a_string"),
        (2, "not_a_string"),
        (3, "not_a_string"),
        (3, "missing_field"),
    ]
    assert (report.faulty_rows, report.fault_count) == (3, 12)


def test_one_fault_is_not_taken_for_others_and_a_row_has_so_many(tmp_path: Path) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "no JSON"}}
    answered = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "x"},
        {"role": "assistant", "content": 7},
    ]
    many = [{"role": "user", "content": 1}] * 1_000
    report = lines_of(tmp_path, {"messages": answered}, {"messages": many})
    assert [fault.rule for fault in report.faults if fault.line == 1] == [
        "invalid_arguments", "missing_content",
    ]  # fmt: skip
    assert sum(fault.line == 2 for fault in report.faults) == MOST_FAULTS_OF_A_ROW
