"""Each line of a data set gives its row or its fault, whatever its bytes are."""

import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from tunery.data.jsonl import MAX_LINE_BYTES
from tunery.data.lines import row_of
from tunery.data.read import read_rows
from tunery.data.rows import (
    Chat,
    ChatMessage,
    Completion,
    Fault,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BREAD = b'{"prompt": "Bread is", "completion": " baked."}'
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]


def chat_line(**message: Any) -> bytes:
    """A chat whose last message has these fields, over a good assistant message's."""
    return json.dumps({"messages": [TALK[0], TALK[1] | message]}).encode()


def fault_of(raw: bytes) -> Fault:
    result = row_of(7, raw)
    assert isinstance(result, Fault), result
    return result


def read(tmp_path: Path, content: bytes) -> list[Any]:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    return list(read_rows(path))


@pytest.mark.parametrize(
    ("line", "rule", "field", "reason", "mend"),
    [
        (2, "invalid_json", "", "unexpected end of data at column 66", "one complete JSON object"),
        (3, "not_an_object", "", "expected a JSON object, found a list", '{"messages": [...]}'),
        (4, "missing_messages", "messages", "it has `front` and `back`", '{"messages": [...]}'),
        (5, "missing_messages", "messages", "found an empty list", "at least one user"),
        (6, "unrecognized_role", "messages[1].role", "'farmer' is not a role", "Use one of system"),
        (7, "missing_content", "messages[1].content", "it is missing", '"content": "..."'),
        (8, "missing_content", "messages[1].content", "found a number", "as a string"),
        (10, "missing_assistant", "messages", "no assistant message", "Add the answer"),
        (11, "last_not_assistant", "messages[2].role", "is from 'user'", "End the row with"),
        (12, "invalid_weight", "messages[1].weight", "'2' is not 0 or 1", "Use 1 to train"),
        (13, "nothing_to_train", "messages", "has weight 0", "Give at least one of them"),
        (14, "part_not_offered", "messages[1].content[0].type", "is not text", "Choose a data set"),
    ],
)
def test_a_broken_example_is_named_with_line_field_reason_and_mend(
    line: int, rule: str, field: str, reason: str, mend: str
) -> None:
    (fault,) = [row for row in read_rows(EXAMPLES / "broken.jsonl") if row.line == line]
    assert isinstance(fault, Fault)
    assert (fault.rule, fault.field) == (rule, field)
    assert reason in fault.reason
    assert mend in fault.mend
    assert str(fault).startswith(f"line {line}: {field}")


def test_the_good_lines_between_broken_ones_are_rows() -> None:
    rows = [row for row in read_rows(EXAMPLES / "broken.jsonl") if isinstance(row, Chat)]
    assert [row.line for row in rows] == [1, 9, 15]
    assert rows[0].messages == (
        ChatMessage("user", "What does a cow eat?", trained=False),
        ChatMessage("assistant", "A cow eats grass.", trained=True),
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbf" + BREAD + b"\n", id="byte-order mark"),
        pytest.param(BREAD + b"\r\n", id="CRLF"),
        pytest.param(BREAD, id="no newline at the end"),
        pytest.param(BREAD + b"\n\n \t\r\n", id="blank lines behind"),
    ],
)
def test_a_row_is_read_however_its_line_ends_or_begins(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) == [Completion(1, "Bread is", " baked.")]


def test_blank_lines_are_no_rows_and_count_as_lines(tmp_path: Path) -> None:
    rows = read(tmp_path, b"\n" + BREAD + b"\n   \n" + BREAD + b"\n")
    assert [row.line for row in rows] == [2, 4]


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        ("utf-32", "the file is in UTF-32"),
        ("utf-16-le", "zero bytes, as in UTF-16"),
        ("utf-16-be", "zero bytes, as in UTF-16"),
        ("latin-1", "byte 16 is not UTF-8; in Latin-1 it is '\xe9'"),
    ],
)
def test_another_encoding_than_utf8_is_refused_in_words(
    tmp_path: Path, encoding: str, reason: str
) -> None:
    text = '{"prompt": "caf\xe9"}' if encoding == "latin-1" else '{"prompt": "cafe"}'
    (fault,) = read(tmp_path, text.encode(encoding))
    assert (fault.line, fault.rule, fault.mend) == (1, "not_utf8", "Save the file as UTF-8")
    assert reason in fault.reason


def test_a_line_over_1_mib_is_a_fault_and_the_next_line_is_read(tmp_path: Path) -> None:
    fits = BREAD.ljust(MAX_LINE_BYTES)
    rows = read(tmp_path, b"\n".join([fits, fits + b" ", BREAD.ljust(3 * MAX_LINE_BYTES), fits]))
    assert [row.line for row in rows] == [1, 2, 3, 4]
    assert [row.rule for row in rows if isinstance(row, Fault)] == ["line_too_long"] * 2
    assert isinstance(rows[3], Completion)


def test_the_text_parts_of_a_content_are_joined() -> None:
    parts = [{"type": "text", "text": "One "}, {"type": "text", "text": "two"}]
    row = row_of(1, chat_line(content=parts))
    assert isinstance(row, Chat)
    assert row.messages[1].content == "One two"


@pytest.mark.parametrize("content", [None, [], {}, 1, True])
def test_a_content_that_is_not_text_is_refused(content: Any) -> None:
    fault = fault_of(chat_line(content=content))
    assert (fault.rule, fault.field) == ("missing_content", "messages[1].content")


@pytest.mark.parametrize(
    ("part", "rule", "field"),
    [
        (7, "invalid_part", ""),
        ({"type": "text", "text": 1}, "invalid_part", ".text"),
        ({"type": "image_url", "image_url": {"url": "x"}}, "part_not_offered", ".type"),
        ({"type": "input_audio", "input_audio": {}}, "part_not_offered", ".type"),
    ],
)
def test_a_part_that_is_not_text_is_refused(part: Any, rule: str, field: str) -> None:
    fault = fault_of(chat_line(content=[{"type": "text", "text": "x"}, part]))
    assert (fault.rule, fault.field) == (rule, f"messages[1].content[1]{field}")


def test_a_developer_message_is_read() -> None:
    raw = json.dumps({"messages": [{"role": "developer", "content": "Be brief."}, *TALK]}).encode()
    row = row_of(1, raw)
    assert isinstance(row, Chat)
    assert row.messages[0] == ChatMessage("developer", "Be brief.", trained=False)


@pytest.mark.parametrize(("weight", "trained"), [(0, False), (1, True), (None, True)])
def test_an_assistant_message_is_trained_unless_its_weight_is_0(
    weight: int | None, *, trained: bool
) -> None:
    answers = [{"role": "assistant", "content": "Ahoy", "weight": weight}, *TALK]
    row = row_of(1, json.dumps({"messages": answers}).encode())
    assert isinstance(row, Chat)
    assert [message.trained for message in row.messages] == [trained, False, True]


@pytest.mark.parametrize("weight", [0.5, True, "1", [], {}])
def test_a_weight_that_is_not_0_or_1_is_refused(weight: Any) -> None:
    assert fault_of(chat_line(weight=weight)).rule == "invalid_weight"


def test_only_an_assistant_message_has_a_weight() -> None:
    assert fault_of(chat_line(role="user", weight=1)).rule == "weight_not_allowed"


@pytest.mark.parametrize("message", [[], "Hi", 1, None])
def test_a_message_that_is_not_an_object_is_refused(message: Any) -> None:
    fault = fault_of(json.dumps({"messages": [message]}).encode())
    assert (fault.rule, fault.field) == ("message_not_an_object", "messages[0]")


@pytest.mark.parametrize("role", [None, [], {}, 1, "farmer"])
def test_an_unknown_role_is_refused(role: Any) -> None:
    assert fault_of(chat_line(role=role)).rule == "unrecognized_role"


@pytest.mark.parametrize(
    ("row", "rule", "field"),
    [
        ({"prompt": "a"}, "missing_field", "completion"),
        ({"completion": "a"}, "missing_field", "prompt"),
        ({"prompt": 1, "completion": "a"}, "not_a_string", "prompt"),
        ({"prompt": "a", "completion": ["b"]}, "not_a_string", "completion"),
        ({"prompt": "a", "completion": " \n"}, "nothing_to_train", "completion"),
    ],
)
def test_a_row_of_another_shape_is_refused(row: dict[str, Any], rule: str, field: str) -> None:
    fault = fault_of(json.dumps(row).encode())
    assert (fault.rule, fault.field) == (rule, field)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"prompt": NaN}', id="NaN"),
        pytest.param(b'{"prompt": 1e999}', id="infinity"),
        pytest.param(b'{"prompt": %s}' % (b"9" * 100_000), id="a number of 100,000 digits"),
        pytest.param(b'{"prompt": "\\ud800", "completion": "x"}', id="a lone surrogate"),
        pytest.param(b'{"prompt": "\xed\xa0\x80", "completion": "x"}', id="a surrogate's bytes"),
        pytest.param(b"[" * MAX_LINE_BYTES, id="lists in lists"),
        pytest.param(b'{"messages":' * 80_000, id="objects in objects"),
        pytest.param(b"[" * 1000 + b"]" * 1000, id="as deep as can be read"),
        pytest.param(b'{"messages":[%s]}' % (b"[" * 900 + b"]" * 900), id="a deep message"),
        pytest.param(b'{"\xef\xbf\xbe": 1, "\xef\xbf\xbe": 1}', id="a key twice"),
        pytest.param(b'{"prompt":"' + b"x" * 1_000_000, id="a string without end"),
    ],
)
def test_a_hostile_line_is_a_fault(raw: bytes) -> None:
    assert isinstance(row_of(1, raw), Fault)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"prompt": "a", "%s": 1}' % (b"k" * 1_000_000),
        chat_line(weight="m" * 1_000_000),
        chat_line(role="r" * 1_000_000),
        chat_line(content=[{"c" * 1_000_000: 1}]),
        b"[" + b"1," * 400_000 + b"1]",
        b'{"prompt": "a", "\\u0000\\u001b[2J": 1}',
        chat_line(role="\0\x1b[2J"),
        b"\x1b[2J" + b"x" * 1_000_000,
    ],
)
def test_a_fault_is_short_and_printable_whatever_the_line_holds(raw: bytes) -> None:
    fault = fault_of(raw)
    assert len(str(fault)) < 400
    assert str(fault).isprintable()
    assert len(fault.excerpt) <= 80
    assert fault.excerpt.isprintable()


def test_a_damaged_line_always_gives_a_row_or_a_fault() -> None:
    rng = random.Random(0)
    parts = chat_line(content=[{"type": "text", "text": "Ahoy\U0001f99c"}], weight=1)
    chats = (EXAMPLES / "multiturn.jsonl").read_bytes().splitlines()[:10]
    lines = [*chats, BREAD, parts]
    pieces = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"null", b"1e9", b"\0", b"\xff"]
    for _ in range(5_000):
        raw = bytearray(rng.choice(lines))
        for _ in range(rng.randint(1, 3)):
            at, width = rng.randrange(len(raw)), rng.choice([0, 1, 1, 8])
            raw[at : at + width] = rng.choice([*pieces, rng.randbytes(1)])
        result = row_of(1, bytes(raw))
        assert isinstance(result, Chat | Completion | Fault)
        if isinstance(result, Fault):
            assert b"\\u0000" not in orjson.dumps(result.as_dict())  # Postgres' jsonb takes none
