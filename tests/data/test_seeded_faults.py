"""Faults of many kinds, planted on random lines of good files: each is found where it is, and
nothing else is.
"""

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tunery.data.check import check

INSTANCES = 8
ROWS = 160
Json = dict[str, Any]


class Maker:
    """Rows that are good, no two the same."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)

    def text(self) -> str:
        words = ["".join(self.rng.choices("abcdefgh é\n", k=6)) for _ in range(8)]
        return f'{self.rng.random()} {" ".join(words)} “{words[0]}” \\ {{"x": 1}}'

    def chat(self) -> Json:
        turns = [("user", self.text()), ("assistant", self.text())] * self.rng.randint(1, 3)
        if self.rng.random() < 0.3:
            turns.insert(0, ("system", self.text()))
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    def tools(self) -> Json:
        call = {"name": "look", "arguments": json.dumps({"at": self.text()})}
        user, answer = self.chat()["messages"][-2:]
        return {
            "messages": [
                user,
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c1", "type": "function", "function": call}],
                },
                {"role": "tool", "tool_call_id": "c1", "content": self.text()},
                answer,
            ],
            "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
        }

    def preference(self) -> Json:
        user, answer = self.chat()["messages"][-2:]
        return {
            "input": {"messages": [user]},
            "preferred_output": [answer],
            "non_preferred_output": [answer | {"content": self.text()}],
        }

    def sharegpt(self) -> Json:
        return {
            "conversations": [
                {"from": "human", "value": self.text()},
                {"from": "gpt", "value": self.text()},
            ]
        }

    def alpaca(self) -> Json:
        return {"instruction": self.text(), "input": self.text(), "output": self.text()}

    def completion(self) -> Json:
        return {"prompt": self.text(), "completion": self.text()}

    def plain(self) -> Json:
        return {"text": self.text()}

    def written(self, row: Json) -> bytes:
        compact = (",", ":") if self.rng.random() < 0.2 else None
        return json.dumps(row, ensure_ascii=self.rng.random() < 0.2, separators=compact).encode()


def last(**fields: Any) -> Callable[[Json], Json]:
    """With other fields in the last message."""

    def damage(row: Json) -> Json:
        *others, message = row["messages"]
        return row | {"messages": [*others, message | fields]}

    return damage


def without(field: str) -> Callable[[Json], Json]:
    return lambda row: {name: value for name, value in row.items() if name != field}


def called(**fields: Any) -> Callable[[Json], Json]:
    """With other fields in the called function."""

    def damage(row: Json) -> Json:
        row["messages"][1]["tool_calls"][0]["function"].update(fields)
        return row

    return damage


def twice(raw: bytes) -> bytes:
    """One key of a message again."""
    return raw.replace(b'"content"', b'"content": "once", "content"', 1)


# What is damaged, how, and the rule and field that say so: in the row's JSON, or in its bytes.
IN_JSON: dict[str, tuple[str, Callable[[Json], Any], str, str]] = {
    "no messages": ("chat", lambda row: {"talk": row["messages"]}, "missing_messages", "messages"),
    "empty messages": ("chat", lambda _: {"messages": []}, "missing_messages", "messages"),
    "a list": ("chat", lambda row: row["messages"], "not_an_object", ""),
    "a text": ("chat", lambda _: "row", "not_an_object", ""),
    "a thumbs-up": ("chat", lambda row: row | {"label": True}, "kto_not_offered", "label"),
    "images": ("chat", lambda row: row | {"images": ["a.jpg"]}, "media_not_offered", "images"),
    "an unknown role": ("chat", last(role="farmer"), "unrecognized_role", "].role"),
    "content missing": ("chat", last(content=None), "missing_content", "].content"),
    "content a number": ("chat", last(content=7), "missing_content", "].content"),
    "a picture": (
        "chat",
        last(content=[{"type": "image_url", "image_url": {"url": "x"}}]),
        "part_not_offered",
        "].content[0].type",
    ),
    "weight 2": ("chat", last(weight=2), "invalid_weight", "].weight"),
    "weight of a user": (
        "chat",
        lambda row: {
            "messages": [{"role": "user", "content": "Hi", "weight": 1}, row["messages"][-1]]
        },
        "weight_not_allowed",
        "].weight",
    ),
    "no answer": (
        "chat",
        lambda row: {"messages": row["messages"][-2:-1]},
        "missing_assistant",
        "messages",
    ),
    "ends with user": (
        "chat",
        lambda row: {"messages": [*row["messages"], row["messages"][-2]]},
        "last_not_assistant",
        "].role",
    ),
    "nothing trained": (
        "chat",
        lambda row: {"messages": [row["messages"][-1] | {"weight": 0}]},
        "nothing_to_train",
        "messages",
    ),
    "NUL": ("chat", last(content="a\0b"), "nul_character", "].content"),
    "call of no tool": ("tools", called(name="run"), "unknown_tool", "function.name"),
    "arguments a list": ("tools", called(arguments=[]), "invalid_arguments", ".arguments"),
    "arguments broken": ("tools", called(arguments="{"), "invalid_arguments", ".arguments"),
    "answer to no call": (
        "tools",
        lambda row: {"messages": [row["messages"][2], row["messages"][3]]},
        "unanswered_call",
        "tool_call_id",
    ),
    "tools no list": ("tools", lambda row: row | {"tools": {}}, "invalid_tools", "tools"),
    "no output": ("preference", without("preferred_output"), "missing_field", "preferred_output"),
    "same outputs": (
        "preference",
        lambda row: row | {"non_preferred_output": row["preferred_output"]},
        "same_outputs",
        "non_preferred_output",
    ),
    "unknown from": (
        "sharegpt",
        lambda row: {"conversations": [{"from": "me", "value": "x"}, *row["conversations"]]},
        "unrecognized_role",
        "conversations[0].from",
    ),
    "output a list": ("alpaca", lambda row: row | {"output": []}, "not_a_string", "output"),
    "no completion": ("completion", without("completion"), "missing_field", "completion"),
    "empty completion": (
        "completion",
        lambda row: row | {"completion": " "},
        "nothing_to_train",
        "completion",
    ),
    "text a number": ("plain", lambda _: {"text": 1}, "not_a_string", "text"),
    "another format": ("plain", lambda _: {"prompt": "a", "completion": "b"}, "mixed_formats", ""),
}
IN_BYTES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "joined files": ("chat", lambda raw: b"\xef\xbb\xbf" + raw, "byte_order_mark"),
    "cut off": ("chat", lambda raw: raw[:-2], "invalid_json"),
    "trailing comma": ("completion", lambda raw: raw[:-1] + b",}", "trailing_comma"),
    "comma behind": ("alpaca", lambda raw: raw + b",", "trailing_comma"),
    "two rows": ("chat", lambda raw: raw + raw, "two_rows"),
    "Python": ("plain", lambda raw: repr(json.loads(raw)).encode(), "python_notation"),
    "NaN": ("chat", lambda raw: raw[:-1] + b', "x": NaN}', "not_a_number"),
    "Latin-1": ("sharegpt", lambda raw: raw.replace(b"0", b"\xe9", 1), "not_utf8"),
    "zero bytes": ("chat", lambda raw: raw.replace(b"0", b"\0", 1), "not_utf8"),
    "key twice": ("chat", twice, "duplicate_key"),
    "lone surrogate": ("chat", lambda raw: raw.replace(b"0", b"\\ud83d", 1), "lone_surrogate"),
    "tab": ("preference", lambda raw: raw.replace(b"0", b"\t", 1), "control_character"),
    "bad escape": ("chat", lambda raw: raw.replace(b"0", b"\\q", 1), "invalid_escape"),
    "huge number": (
        "tools",
        lambda raw: raw.replace(
            b'"parameters"', b'"parameters": {"x": 1%s}, "strict"' % (b"0" * 30)
        ),
        "number_too_large",
    ),
    "too deep": (
        "tools",
        lambda raw: raw.replace(b"{}}", b'{"x":%s%s}}' % (b"[" * 200, b"]" * 200), 1),
        "too_deep",
    ),
    "too long": ("completion", lambda raw: raw + b" " * (8 << 20), "line_too_long"),
}


def planted(rng: random.Random, first: int = 0) -> set[int]:
    """The indexes of the rows to damage."""
    return set(rng.sample(range(first, ROWS), INSTANCES))


def found(path: Path) -> set[tuple[int, str, str]]:
    """(line, rule, field) of all faults, each with a mend."""
    report = check(path)
    assert report.fault_count == len(report.faults)
    assert report.rows == ROWS - INSTANCES
    assert all(fault.mend and fault.reason for fault in report.faults)
    return {(fault.line, fault.rule, fault.field) for fault in report.faults}


def write_lines(path: Path, rng: random.Random, rows: list[bytes], damaged: set[int]) -> set[int]:
    """JSONL with blank lines in it, packed or not; the physical lines of the damaged rows."""
    lines: list[bytes] = []
    at = set()
    end = rng.choice((b"\n", b"\r\n"))
    for index, row in enumerate(rows):
        lines += [b" " * rng.randint(0, 2)] * (rng.random() < 0.1)
        lines.append(row)
        if index in damaged:
            at.add(len(lines))
    content = b"".join(line + end for line in lines)
    path.write_bytes(gzip.compress(content, 1) if rng.random() < 0.2 else content)
    return at


@pytest.mark.parametrize("kind", IN_JSON)
def test_damage_in_the_json_of_a_row_is_found(tmp_path: Path, kind: str) -> None:
    form, damage, rule, field = IN_JSON[kind]
    maker = Maker(kind)
    # The first row of a file says which format the others have.
    damaged = planted(maker.rng, first=rule == "mixed_formats")
    rows = [getattr(maker, form)() for _ in range(ROWS)]
    written = [maker.written(damage(row) if i in damaged else row) for i, row in enumerate(rows)]
    lines = write_lines(tmp_path / "data.jsonl", maker.rng, written, damaged)
    faults = found(tmp_path / "data.jsonl")
    assert {(line, rule) for line, rule, _ in faults} == {(line, rule) for line in lines}
    assert all(at.endswith(field) for _, _, at in faults)


@pytest.mark.parametrize("kind", IN_BYTES)
def test_damage_in_the_bytes_of_a_line_is_found(tmp_path: Path, kind: str) -> None:
    form, damage, rule = IN_BYTES[kind]
    maker = Maker(kind)
    damaged = planted(maker.rng)
    rows = [maker.written(getattr(maker, form)()) for _ in range(ROWS)]
    written = [damage(row) if i in damaged else row for i, row in enumerate(rows)]
    lines = write_lines(tmp_path / "data.jsonl", maker.rng, written, damaged)
    assert {(line, rule) for line, rule, _ in found(tmp_path / "data.jsonl")} == {
        (line, rule) for line in lines
    }


IN_CELLS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cell too many": (lambda row: b"a," + row, "wrong_cell_count"),
    "cell too few": (lambda _: b"a", "wrong_cell_count"),
    "stray quote": (lambda _: b'"a"b,c', "broken_csv"),
    "Latin-1": (lambda _: b"caf\xe9,b", "not_utf8"),
    "NUL": (lambda _: b"a,b\0", "nul_character"),
    "empty": (lambda _: b'a,""', "nothing_to_train"),
}


@pytest.mark.parametrize("kind", IN_CELLS)
def test_damage_in_a_csv_file_is_found_at_the_line_where_the_row_begins(
    tmp_path: Path, kind: str
) -> None:
    damage, rule = IN_CELLS[kind]
    maker = Maker(kind)
    damaged = planted(maker.rng)
    content = b"prompt,completion\n"
    lines = set()
    for index in range(ROWS):
        record = io.StringIO()
        csv.writer(record, lineterminator="").writerow(maker.completion().values())
        written = record.getvalue().encode()
        if index in damaged:
            lines.add(content.count(b"\n") + 1)
            written = damage(written)
        content += written + b"\n"
    (tmp_path / "data.csv").write_bytes(content)
    assert {(line, rule) for line, rule, _ in found(tmp_path / "data.csv")} == {
        (line, rule) for line in lines
    }


@pytest.mark.parametrize("kind", ["an unknown role", "content missing", "no answer", "weight 2"])
def test_damage_in_a_parquet_file_is_found_at_its_row(tmp_path: Path, kind: str) -> None:
    _, damage, rule, _ = IN_JSON[kind]
    maker = Maker(kind)
    damaged = planted(maker.rng)
    rows = [maker.chat() for _ in range(ROWS)]
    written = [damage(row) if i in damaged else row for i, row in enumerate(rows)]
    parquet.write_table(pa.Table.from_pylist(written), tmp_path / "data.parquet")
    assert {(line, rule) for line, rule, _ in found(tmp_path / "data.parquet")} == {
        (index + 1, rule) for index in damaged
    }
