"""Tools, and what messages may carry beside their text."""

import json
from typing import Any

import pytest

from tunery.data.lines import row_of
from tunery.data.rows import Chat, ChatMessage, Fault, ToolCall

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
        "strict": True,
    },
}
ARGUMENTS = '{"town": "Oslo"}'
ASK = {"role": "user", "content": "What is the weather in Oslo?", "name": "anna"}
FUNCTION = {"name": "weather", "arguments": ARGUMENTS}
CALL = {"id": "a1", "type": "function", "function": FUNCTION}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER = {"role": "tool", "tool_call_id": "a1", "content": "rain"}
SAY = {"role": "assistant", "content": "It rains."}


def row(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages), **fields}


def read(value: dict[str, Any]) -> Any:
    return row_of(3, json.dumps(value).encode())


def test_a_chat_with_tools_is_read() -> None:
    chat = read(row(ASK, CALLING, ANSWER, SAY, tools=[WEATHER], parallel_tool_calls=False))
    assert chat == Chat(
        3,
        (
            ChatMessage("user", "What is the weather in Oslo?", trained=False, name="anna"),
            ChatMessage(
                "assistant", "", trained=True, tool_calls=(ToolCall("a1", "weather", ARGUMENTS),)
            ),
            ChatMessage("tool", "rain", trained=False, tool_call_id="a1"),
            ChatMessage("assistant", "It rains.", trained=True),
        ),
        (WEATHER,),
        parallel_tool_calls=False,
    )
    assert chat.text.startswith('What is the weather in Oslo?weather{"town": "Oslo"}rainIt rains.[')


def test_deprecated_functions_are_read_as_tools() -> None:
    calling = {"role": "assistant", "content": None, "function_call": FUNCTION}
    answer = {"role": "function", "name": "weather", "content": "rain"}
    older = read(row(ASK, calling, answer, SAY, functions=[WEATHER["function"]]))
    newer = read(row(ASK, CALLING, ANSWER | {"name": "weather"}, SAY, tools=[WEATHER]))
    assert older.tools == newer.tools
    assert repr(older.messages).replace("call_0", "a1") == repr(newer.messages)


def test_an_optional_field_that_is_null_counts_as_absent() -> None:
    nothing = dict.fromkeys(
        ["weight", "name", "tool_calls", "function_call", "tool_call_id", "refusal", "audio"]
    )
    messages = [nothing | message for message in (ASK, CALLING, ANSWER, SAY)]
    bare = row(ASK, CALLING, ANSWER, SAY)
    assert read(row(*messages, tools=None, parallel_tool_calls=None)) == read(bare)


def test_a_call_needs_no_tools_in_the_row() -> None:
    assert isinstance(read(row(ASK, CALLING)), Chat)


def calling(**fields: Any) -> dict[str, Any]:
    return row(ASK, CALLING | {"tool_calls": [CALL | fields]})


def function(**fields: Any) -> dict[str, Any]:
    return calling(function=FUNCTION | fields)


def tool(**fields: Any) -> dict[str, Any]:
    return row(ASK, SAY, tools=[{"type": "function", "function": {"name": "weather"} | fields}])


@pytest.mark.parametrize(
    ("value", "rule", "field"),
    [
        (row(ASK, SAY | {"refusal": "No."}), "refusal_not_offered", "messages[1].refusal"),
        (row(ASK | {"name": 1}, SAY), "not_a_string", "messages[0].name"),
        (row(ASK | {"weight": 1}, SAY), "weight_not_allowed", "messages[0].weight"),
        (row(ASK | {"tool_calls": [CALL]}, SAY), "field_not_allowed", "messages[0].tool_calls"),
        (row(ASK, SAY | {"tool_call_id": "a"}), "field_not_allowed", "messages[1].tool_call_id"),
        (row(ASK, SAY | {"tool_calls": [1]}), "invalid_tool_calls", "messages[1].tool_calls[0]"),
        (
            row(ASK, CALLING | {"function_call": FUNCTION}),
            "two_kinds_of_calls",
            "messages[1].function_call",
        ),
        (calling(type="x"), "tool_not_offered", "messages[1].tool_calls[0].type"),
        (calling(function=1), "invalid_tool_calls", "messages[1].tool_calls[0].function"),
        (
            function(name="no spaces"),
            "invalid_function_name",
            "messages[1].tool_calls[0].function.name",
        ),
        (
            function(arguments="{town"),
            "invalid_arguments",
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            function(arguments="[]"),
            "invalid_arguments",
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            function(arguments='{"a": ' + "[" * 101 + "]" * 101 + "}"),  # json.loads has its limit
            "too_deep",
            "messages[1].tool_calls[0].function.arguments.a" + "[0]" * 99,
        ),
        (
            function(name="snow") | {"tools": [WEATHER]},
            "unknown_tool",
            "messages[1].tool_calls[0].function.name",
        ),
        (row(ASK, ANSWER, SAY), "unanswered_call", "messages[1].tool_call_id"),
        (
            row(ASK, {"role": "function", "name": "weather", "content": "rain"}, SAY),
            "unanswered_call",
            "messages[1].name",
        ),
        (row(ASK, CALLING, ANSWER), "last_not_assistant", "messages[2].role"),
        (row(ASK, SAY, tools={}), "invalid_tools", "tools"),
        (row(ASK, SAY, functions=[{"name": f"f{i}"} for i in range(129)]), "invalid_tools", None),
        (row(ASK, SAY, tools=[1]), "invalid_tools", "tools[0]"),
        (row(ASK, SAY, tools=[WEATHER, WEATHER]), "tool_twice", "tools[1].function.name"),
        (
            row(ASK, SAY, tools=[WEATHER], functions=[WEATHER["function"]]),
            "two_kinds_of_tools",
            "functions",
        ),
        (row(ASK, SAY, tools=[WEATHER | {"type": "x"}]), "tool_not_offered", "tools[0].type"),
        (tool(name=None), "invalid_function_name", "tools[0].function.name"),
        (tool(parameters=[]), "invalid_tools", "tools[0].function.parameters"),
        (tool(description=1), "invalid_tools", "tools[0].function.description"),
        (tool(strict="yes"), "invalid_tools", "tools[0].function.strict"),
        (row(ASK, SAY, parallel_tool_calls=1), "not_a_boolean", "parallel_tool_calls"),
    ],
)
def test_what_is_wrong_with_tools_is_named(value: Any, rule: str, field: str | None) -> None:
    fault = read(value)
    assert isinstance(fault, Fault), fault
    assert (fault.rule, fault.field) == (rule, field or "functions")
    assert fault.mend
