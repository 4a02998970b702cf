"""Rows as other trainers, other services and spreadsheets spell them."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tunery.data.check import check
from tunery.data.lines import row_of
from tunery.data.read import read_rows
from tunery.data.rows import Chat, ChatMessage, Completion, Fault, Preference, Row, Text
from tunery.data.tables import KNOWN

ASKED = ChatMessage("user", "Hi", trained=False)
SAID = ChatMessage("assistant", "Ahoy", trained=True)
WORSE = ChatMessage("assistant", "No.", trained=True)
BRIEF = ChatMessage("system", "Be brief.", trained=False)
USER, GOOD = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}
BAD = {"role": "assistant", "content": "No."}
CALL = {"name": "look", "arguments": {"at": 1, "not": None}}
TOOL = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}


def read(value: dict[str, Any]) -> Row:
    row = row_of(1, json.dumps(value).encode())
    assert not isinstance(row, Fault), row
    return row


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        pytest.param(
            {"conversations": [USER, GOOD]}, (ASKED, SAID), id="role within conversations"
        ),
        pytest.param({"conversations": ["Hi", "Ahoy"]}, (ASKED, SAID), id="LIMA"),
        pytest.param(
            {"messages": [{"role": "Human", "content": "Hi"}, {"role": "BOT", "content": "Ahoy"}]},
            (ASKED, SAID),
            id="roles by other names in any case",
        ),
        pytest.param({"messages": json.dumps([USER, GOOD])}, (ASKED, SAID), id="messages as JSON"),
        pytest.param(
            {
                "systemInstruction": {"parts": [{"text": "Be brief."}]},
                "contents": [
                    {"role": "user", "parts": [{"text": "H"}, {"text": "i"}]},
                    {"role": "model", "parts": [{"text": "Ahoy"}]},
                ],
            },
            (BRIEF, ASKED, SAID),
            id="Gemini",
        ),
        pytest.param(
            {
                "schemaVersion": "bedrock-conversation-2024",
                "system": [{"text": "Be brief."}],
                "messages": [
                    {"role": "user", "content": [{"text": "Hi"}]},
                    {"role": "assistant", "content": [{"text": "Ahoy"}]},
                ],
            },
            (BRIEF, ASKED, SAID),
            id="Bedrock",
        ),
        pytest.param({"system": "Be brief.", "messages": [USER, GOOD]}, (BRIEF, ASKED, SAID)),
        pytest.param({"prompt": [USER], "completion": [GOOD]}, (ASKED, SAID), id="TRL's messages"),
        pytest.param({"question": "Hi", "answer": "Ahoy"}, (ASKED, SAID)),
        pytest.param({"prompt": "Hi", "response": "Ahoy"}, (ASKED, SAID)),
        pytest.param({"input": "Hi", "output": "Ahoy"}, (ASKED, SAID)),
        pytest.param(
            {"system_prompt": "Be brief.", "question": "Hi", "response": "Ahoy"},
            (BRIEF, ASKED, SAID),
            id="OpenOrca",
        ),
        pytest.param(
            {"instruction": "Sum up.", "context": "A tale.", "response": "Ahoy", "category": "x"},
            (ChatMessage("user", "Sum up.\n\nA tale.", trained=False), SAID),
            id="Dolly",
        ),
        pytest.param(
            {"instruction": "Hi", "output": "Ahoy", "history": [["Hi", "Ahoy"]], "text": "###"},
            (ASKED, SAID, ASKED, SAID),
            id="Alpaca with history and its rendering",
        ),
        pytest.param(
            {"conversations": [{"from": "gpt", "value": "Ahoy"}, {"from": "human", "value": "Hi"}]},
            (SAID,),
            id="what nobody answers is left out",
        ),
        pytest.param(
            {
                "conversations": [
                    {"from": "human", "value": "Hi", "weight": None},
                    {"from": "gpt", "value": "Ahoy", "weight": 0},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Ahoy", "train": True},
                ]
            },
            (ASKED, ChatMessage("assistant", "Ahoy", trained=False), ASKED, SAID),
            id="weights of turns",
        ),
        pytest.param(
            {"messages": [USER, GOOD | {"reasoning": "Hm."}]},
            (ASKED, ChatMessage("assistant", "Ahoy", trained=True, reasoning="Hm.")),
            id="a thought apart",
        ),
    ],
)
def test_a_conversation_is_read_in_anybodys_spelling(
    value: dict[str, Any], messages: tuple[ChatMessage, ...]
) -> None:
    row = read(value)
    assert isinstance(row, Chat)
    assert row.messages == messages


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"prompt": "Hi", "chosen": "Ahoy", "rejected": "No."}, id="texts"),
        pytest.param({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, id="messages"),
        pytest.param({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, id="whole conversations"),
        pytest.param(
            {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 9},
            id="UltraFeedback",
        ),
        pytest.param(
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Ahoy",
                "rejected": "\n\nHuman: Hi\n\nAssistant: No.",
            },
            id="hh-rlhf",
        ),
        pytest.param(
            {
                "conversations": [{"from": "human", "value": "Hi"}],
                "chosen": {"from": "gpt", "value": "Ahoy"},
                "rejected": {"from": "gpt", "value": "No."},
            },
            id="LLaMA-Factory",
        ),
        pytest.param({"instruction": "Hi", "chosen": "Ahoy", "rejected": "No."}, id="Alpaca"),
        pytest.param({"messages": [USER], "chosen": [GOOD], "rejected": [BAD]}, id="a list before"),
    ],
)
def test_a_preference_is_read_in_anybodys_spelling(value: dict[str, Any]) -> None:
    assert read(value) == Preference(1, (ASKED,), (), (SAID,), (WORSE,))


@pytest.mark.parametrize(
    "turns",
    [
        pytest.param(
            [
                {"role": "assistant", "tool_calls": [{"function": CALL}]},
                {"role": "tool", "name": "look", "content": "rain"},
            ],
            id="Hugging Face: an object as arguments, no id",
        ),
        pytest.param(
            [
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "rain"},
            ],
            id="ShareGPT",
        ),
        pytest.param(
            [
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "name": "look", "input": {"at": 1}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "content": "rain"}]},
            ],
            id="Anthropic",
        ),
    ],
)
@pytest.mark.parametrize(
    "tools", [[TOOL], json.dumps([TOOL]), [{"type": "function", "function": TOOL}]]
)
def test_tools_are_read_in_anybodys_spelling(turns: list[Any], tools: object) -> None:
    sharegpt = "from" in turns[0]
    first = {"from": "human", "value": "Hi"} if sharegpt else USER
    last = {"from": "gpt", "value": "Ahoy"} if sharegpt else GOOD
    name = "conversations" if sharegpt else "messages"
    row = read({name: [first, *turns, last], "tools": tools})
    assert isinstance(row, Chat)
    assert row.tools == ({"type": "function", "function": TOOL},)
    _, calling, result, answer = row.messages
    [call] = calling.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("look", {"at": 1})
    assert (result.role, result.content, result.tool_call_id) == ("tool", "rain", call.id)
    assert answer == SAID


def test_a_system_message_of_whole_conversations_is_kept_before_both_answers() -> None:
    system = {"role": "system", "content": "Be brief."}
    row = read({"prompt": "Hi", "chosen": [system, USER, GOOD], "rejected": [system, USER, BAD]})
    assert row == Preference(1, (BRIEF, ASKED), (), (SAID,), (WORSE,))


def test_what_no_training_reads_is_left_out_and_counted_and_what_means_something_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.jsonl"
    row = {"id": 1, "source": "x", "messages": [USER | {"at": "9:00"}, GOOD], "tools": []}
    path.write_text("\n".join([json.dumps(row)] * 12 + [json.dumps({"messages": [USER, GOOD]})]))
    report = check(path).as_dict()
    assert (report["ok"], report["rows"]) == (True, 13)
    assert report["left_out"] == {"id": 12, "source": 12, "at of a message": 12}
    assert "source (12 rows)" in report["warnings"][-1]
    labels = (("label", True), ("label", 0), ("label", "False"), ("kto_tag", False))
    for field, value in (*labels, ("images", ["a.jpg"])):
        fault = row_of(1, json.dumps({"messages": [USER, GOOD], field: value}).encode())
        assert isinstance(fault, Fault)
        assert fault.field == field
        assert "emove" not in fault.mend
    assert read({"text": "Bread", "label": 1}) == Text(1, "Bread")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("semicolons.csv", b"\xef\xbb\xbfprompt;completion\r\na, b;c\r\n"),
        ("tabs.tsv", b"prompt\tcompletion\na, b\tc\n"),
        ("named.csv", b"sep=|\nprompt|completion\na, b|c\n"),
        ("capitals.csv", b'Prompt,COMPLETION\n"a, b",c\n'),
        ("pandas.csv", b',prompt,completion,source\n0,"a, b",c,crm\n'),
        ("empty-rows.csv", b'prompt,completion\n"a, b",c\n,\n,\n'),
        ("list.json", b' [ {"prompt": "a, b",\n "completion": "c"} ]\n'),
        ("one-key.json", b'{"data": [{"prompt": "a, b", "completion": "c"}]}'),
        ("columns.json", b'{"prompt": {"0": "a, b"}, "completion": {"0": "c"}}'),
        ("lists.json", b'{"prompt": ["a, b"], "completion": ["c"]}'),
        ("indented.jsonl", b'{\n  "prompt": "a, b",\n  "completion": "c"\n}\n'),
        ("utf-16.csv", "prompt;completion\na, b;c".encode("utf-16")),
        ("utf-16.jsonl", '{"prompt": "a, b", "completion": "c"}\n'.encode("utf-16")),
        ("lines.json", b'{"prompt": "a, b", "completion": "c"}\n'),
    ],
)
def test_a_table_or_document_is_read_as_it_was_written(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    [row] = read_rows(path)
    assert isinstance(row, Completion), row
    assert (row.prompt, row.completion) == ("a, b", "c")


def test_windows_letters_are_read_in_tables_and_plain_texts_and_it_is_said(tmp_path: Path) -> None:
    for name in ("data.csv", "data.txt"):
        path = tmp_path / name
        path.write_bytes("text\ncaf\xe9 \u2019\n".encode("cp1252"))
        [row] = read_rows(path)
        assert isinstance(row, Text)
        assert row.text.endswith("caf\xe9 \u2019")
        report = check(path).as_dict()
        assert (report["ok"], report["encoding"]) == (True, "cp1252")
        assert "read as cp1252" in " ".join(report["warnings"])
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "caf\xe9"}\n')
    [fault] = read_rows(path)
    assert isinstance(fault, Fault)
    assert fault.rule == "not_utf8"


def test_a_list_that_is_broken_or_not_alone_is_a_fault_behind_its_good_rows(tmp_path: Path) -> None:
    good = b'{"text": "a"}'
    ends = (b"", b",", b', {"text"', b"] {}", b",]", b' {"text": "b"}]', b", " + b"[" * 10**5)
    items = (
        b'{"text": "b", "text": "c"}',
        b'{"a": 99999999999999999999999}',
        b'{"text": "\\ud800"}',
    )
    for rest in (*ends, b", \xff]", *(b", " + item + b"]" for item in items)):
        path = tmp_path / "data.json"
        path.write_bytes(b"[" + good + rest)
        *rows, fault = read_rows(path)
        assert rows == [Text(1, "a")] or b"\xff" in rest
        assert isinstance(fault, Fault)
        found = {"invalid_json", "duplicate_key", "not_utf8", "number_too_large", "lone_surrogate"}
        assert fault.rule in found


def test_a_long_list_is_read_row_by_row_wherever_its_blocks_end(tmp_path: Path) -> None:
    rows = [{"text": f"row {number} " * (number % 700), "n": number} for number in range(1, 900)]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    found = [row for row in read_rows(path) if isinstance(row, Text)]
    assert [row.text for row in found] == [row["text"] for row in rows if str(row["text"]).strip()]


def test_a_question_has_its_context_with_it() -> None:
    row = read({"question": "Who?", "context": "A tale.", "answer": "Ahoy"})
    assert isinstance(row, Chat)
    assert row.messages == (ChatMessage("user", "Who?\n\nA tale.", trained=False), SAID)


def test_a_row_of_any_shape_is_a_row_or_a_fault() -> None:
    """Whatever stands where a turn, a text or a call is looked for."""
    rng = random.Random(0)
    fields = [*sorted(KNOWN), "images", "label"]
    inner = ["role", "from", "content", "value", "parts", "text", "type", "input", "name", "id"]
    inner += ["tool_calls", "function", "arguments", "functionCall", "toolResult", "thinking"]
    leaves = [None, True, 2.5, "user", "gpt", "tool", "function_call", "tool_use", "{}", "[]", ""]

    def value(depth: int) -> Any:
        kind = rng.random() if depth else 0
        if kind < 0.35:
            return rng.choice(leaves)
        if kind < 0.65:
            return [value(depth - 1) for _ in range(rng.randint(0, 3))]
        return {rng.choice(inner): value(depth - 1) for _ in range(rng.randint(0, 4))}

    for _ in range(20_000):
        row = {rng.choice(fields): value(4) for _ in range(rng.randint(1, 4))}
        assert row_of(1, json.dumps(row).encode()).line == 1


def test_each_paragraph_of_a_plain_text_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\nOne\ntwo\n\n \nThree\n")
    assert list(read_rows(path)) == [Text(2, "One\ntwo"), Text(6, "Three")]


@pytest.mark.parametrize("write", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_is_read_as_save_to_disk_writes_it(tmp_path: Path, write: Any) -> None:
    table = pa.table({"messages": [[USER, GOOD]] * 20})
    with write(tmp_path / "data.arrow", table.schema) as writer:
        writer.write_table(table)
    rows = list(read_rows(tmp_path / "data.arrow"))
    assert [row.line for row in rows] == list(range(1, 21))
    assert all(isinstance(row, Chat) and row.messages == (ASKED, SAID) for row in rows)
