"""Each format's rows, and what is wrong with one."""

import json
from typing import Any

import pytest

from tunery.data.lines import row_of
from tunery.data.rows import Chat, ChatMessage, Fault, Preference, Text

HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ahoy"}
USER, GOOD, BAD = (
    {"role": role, "content": text}
    for role, text in (("user", "Hi"), ("assistant", "Ahoy"), ("assistant", "Go away"))
)
ASKED = ChatMessage("user", "Hi", trained=False)
SAID = ChatMessage("assistant", "Ahoy", trained=True)


def read(value: dict[str, Any]) -> Any:
    return row_of(3, json.dumps(value).encode())


def preference(**fields: Any) -> dict[str, Any]:
    return {
        "input": {"messages": [USER]},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    } | fields


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ({"conversations": [HUMAN, GPT]}, (ASKED, SAID)),
        (
            {"conversations": [{"from": "user", "value": "Hi"}, GPT], "system": "Be brief."},
            (ChatMessage("system", "Be brief.", trained=False), ASKED, SAID),
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    HUMAN,
                    {"from": "assistant", "value": "Ahoy"},
                    {"from": "tool", "value": "rain"},
                    GPT,
                ]
            },
            (
                ChatMessage("system", "Be brief.", trained=False),
                ASKED,
                SAID,
                ChatMessage("tool", "rain", trained=False),
                SAID,
            ),
        ),
        ({"instruction": "Hi", "output": "Ahoy"}, (ASKED, SAID)),
        ({"instruction": "Hi", "input": "", "output": "Ahoy"}, (ASKED, SAID)),
        (
            {"instruction": "Sum up.", "input": "A tale.", "output": "Ahoy", "system": "Be brief."},
            (
                ChatMessage("system", "Be brief.", trained=False),
                ChatMessage("user", "Sum up.\n\nA tale.", trained=False),
                SAID,
            ),
        ),
    ],
)
def test_sharegpt_and_alpaca_rows_are_chats(
    value: dict[str, Any], messages: tuple[ChatMessage, ...]
) -> None:
    name = "sharegpt" if "conversations" in value else "alpaca"
    assert read(value) == Chat(3, messages, format=name)  # type: ignore[arg-type]


def test_a_text_row_is_read() -> None:
    assert read({"text": "Ahoy"}) == Text(3, "Ahoy")


@pytest.mark.parametrize("ending", ["output", "completion"])
def test_a_preference_row_is_read_in_both_spellings(ending: str) -> None:
    row = read(
        {
            "input": {"messages": [USER], "parallel_tool_calls": True},
            f"preferred_{ending}": [GOOD],
            f"non_preferred_{ending}": [BAD],
        }
    )
    worse = ChatMessage("assistant", "Go away", trained=True)
    assert row == Preference(3, (ASKED,), (), (SAID,), (worse,), parallel_tool_calls=True)
    assert row.text == "HiAhoyHiGo away"


@pytest.mark.parametrize(
    ("value", "rule", "field"),
    [
        ({}, "missing_messages", "messages"),
        ({"front": "a", "back": "b"}, "missing_messages", "messages"),
        ({"text": 1}, "not_a_string", "text"),
        ({"text": " "}, "nothing_to_train", "text"),
        ({"instruction": "a"}, "missing_field", "output"),
        ({"output": "a"}, "missing_field", "instruction"),
        ({"instruction": "a", "output": ""}, "nothing_to_train", "output"),
        ({"instruction": "a", "output": "b", "input": 1}, "not_a_string", "input"),
        ({"conversations": []}, "missing_messages", "conversations"),
        ({"conversations": [1]}, "message_not_an_object", "conversations[0]"),
        (
            {"conversations": [HUMAN | {"from": "bob"}, GPT]},
            "unrecognized_role",
            "conversations[0].from",
        ),
        (
            {"conversations": [HUMAN, {"from": "gpt"}]},
            "missing_content",
            "conversations[1].value",
        ),
        ({"conversations": [HUMAN]}, "missing_assistant", "conversations"),
        (
            {"conversations": [{"from": "system", "value": "a"}, GPT], "system": "b"},
            "two_systems",
            "system",
        ),
        (preference(input=None), "missing_field", "input"),
        (preference(input="Hi"), "invalid_input", "input"),
        (preference(input={"messages": []}), "missing_messages", "input.messages"),
        (
            preference(input={"messages": [USER, GOOD]}),
            "input_ends_in_answer",
            "input.messages[1].role",
        ),
        ({"input": {"messages": [USER]}}, "missing_field", "preferred_output"),
        (preference(preferred_output=[USER]), "output_from_user", "preferred_output[0].role"),
        (preference(preferred_output="Hi"), "missing_messages", "preferred_output"),
        (preference(non_preferred_output=[GOOD]), "same_outputs", "non_preferred_output"),
        (
            preference(preferred_output=[GOOD | {"weight": 0}]),
            "nothing_to_train",
            "preferred_output",
        ),
        (preference(preferred_completion=[GOOD]), "missing_field", "non_preferred_completion"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(value: Any, rule: str, field: str) -> None:
    fault = read(value)
    assert isinstance(fault, Fault), fault
    assert (fault.rule, fault.field) == (rule, field)
    assert fault.mend
