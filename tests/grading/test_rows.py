"""A row as it is asked, and as a grader knows it."""

from typing import Any

import pytest

from tunery.data.formats import read_row
from tunery.grading.rows import asked_of, prompt_of

TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}}
HI = {"role": "user", "content": "Hi"}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "item", "asked"),
    [
        (
            {"messages": [HI, said("Ho"), HI, said("Ahoy")]},
            {
                "messages": [HI, said("Ho"), HI],
                "reference": "Ahoy",
                "reference_tool_calls": [],
                "tools": [],
            },
            {"type": "chat", "messages": [HI, said("Ho"), HI], "tools": None},
        ),
        (
            {
                "messages": [HI, {"role": "assistant", "tool_calls": [CALL | {"id": "c1"}]}],
                "tools": [TOOL],
            },
            {
                "messages": [HI],
                "reference": "",
                "reference_tool_calls": [CALL],
                "tools": [TOOL],
            },
            {"type": "chat", "messages": [HI], "tools": [TOOL]},
        ),
        (
            {
                "input": {"messages": [HI]},
                "preferred_output": [said("Ahoy")],
                "non_preferred_output": [said("No")],
            },
            {
                "messages": [HI],
                "reference": "Ahoy",
                "reference_tool_calls": [],
                "rejected": "No",
            },
            {"type": "chat", "messages": [HI], "tools": None},
        ),
        (
            {"prompt": "1 + 1 =", "completion": " 2"},
            {"prompt": "1 + 1 =", "completion": " 2", "reference": " 2"},
            {"type": "text", "text": "1 + 1 ="},
        ),
    ],
)
def test_a_row_is_asked_up_to_its_last_answer_which_is_the_reference(
    row: dict[str, Any], item: dict[str, Any], asked: dict[str, Any]
) -> None:
    read = read_row(1, row)
    assert asked_of(read)[0] == item
    prompt = prompt_of(read).model_dump()
    assert {name: prompt[name] for name in asked} == asked
