"""OpenAI's messages and tools: from decoded JSON to the messages of a row.

An optional field that is null counts as absent: Parquet writes all fields of all messages. The
deprecated `functions`, `function_call` and role `function` are read as tools.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from tunery.data.rows import (
    ChatMessage,
    Faulty,
    ToolCall,
    excerpt,
    kind,
    not_a_string,
    quoted,
    unknown_field,
)

MOST_TOOLS = 128
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

FIELDS = {
    "system": ("role", "content", "name"),
    "developer": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "assistant": ("role", "content", "name", "weight", "tool_calls", "function_call", "refusal"),
    "tool": ("role", "content", "name", "tool_call_id"),
    "function": ("role", "content", "name"),
}
KNOWN = {name for fields in FIELDS.values() for name in fields}
# The SDK's own messages have these, empty, when they are dumped.
EMPTY = {"audio", "annotations"}
ROLES = tuple(FIELDS)


@dataclass
class Calls:
    """The tool calls of a row so far. `names` are the functions it has tools for, None: it does not
    say; `latest` has the id of each deprecated function's latest call.
    """

    names: frozenset[str] | None = None
    ids: set[str] = field(default_factory=set)
    latest: dict[str, str] = field(default_factory=dict)


def read_messages(at: str, given: object, calls: Calls, *, trained: bool) -> list[ChatMessage]:
    """The messages at the path `at`, at least one. `trained` says whether they may be at all."""
    if not isinstance(given, list) or not given:
        found = "an empty list" if given == [] else kind(given)
        raise Faulty(
            at,
            "missing_messages",
            f"expected a list of messages, found {found}",
            "Add at least one user and one assistant message",
            given,
        )
    return [
        read_message(f"{at}[{index}]", message, calls, trained=trained)
        for index, message in enumerate(given)
    ]


def must_end_in_an_answer(at: str, messages: list[ChatMessage]) -> None:
    """An assistant message is last, and one of them is trained on."""
    if all(message.role != "assistant" for message in messages):
        raise Faulty(
            at,
            "missing_assistant",
            "there is no assistant message, so nothing to train on",
            "Add the answer the model should learn",
        )
    if messages[-1].role != "assistant":
        raise Faulty(
            f"{at}[{len(messages) - 1}].role",
            "last_not_assistant",
            f"the last message is from {messages[-1].role!r}",
            "End the row with the assistant's answer",
        )
    if not any(message.trained for message in messages):
        raise Faulty(
            at,
            "nothing_to_train",
            "every assistant message has weight 0",
            "Give at least one of them weight 1, or remove the row",
        )


def read_message(at: str, given: object, calls: Calls, *, trained: bool = True) -> ChatMessage:
    if not isinstance(given, dict):
        raise Faulty(
            at,
            "message_not_an_object",
            f"expected an object, found {kind(given)}",
            'Write {"role": "...", "content": "..."}',
            given,
        )
    role = given.get("role")
    if not isinstance(role, str) or role not in FIELDS:
        found = "it is missing" if role is None else f"{excerpt(role)!r} is not a role"
        raise Faulty(f"{at}.role", "unrecognized_role", found, f"Use one of {', '.join(ROLES)}")
    message = {key: value for key, value in given.items() if value is not None or key not in KNOWN}
    must_fit_role(at, role, message)
    tool_calls = read_calls(at, message, calls)
    content = read_content(f"{at}.content", given, needed=not tool_calls)
    name = message.get("name")
    if name is not None and not isinstance(name, str):
        raise not_a_string(f"{at}.name", name)
    weight = message.get("weight", 1)
    if weight not in (0, 1) or isinstance(weight, bool):
        raise Faulty(
            f"{at}.weight",
            "invalid_weight",
            f"{excerpt(weight)!r} is not 0 or 1",
            "Use 1 to train on the message, 0 to leave it out",
        )
    return ChatMessage(
        role="tool" if role == "function" else role,
        content=content,
        trained=trained and role == "assistant" and weight == 1,
        name=name,
        tool_calls=tool_calls,
        tool_call_id=answered_call(at, role, message, calls),
    )


def must_fit_role(at: str, role: str, message: dict[str, Any]) -> None:
    for name, value in message.items():
        if name in EMPTY and not value:
            continue
        if name not in KNOWN:
            raise unknown_field(f"{at}.{excerpt(name)}", quoted(FIELDS[role]))
        if name == "weight" and role != "assistant":
            raise Faulty(
                f"{at}.weight",
                "weight_not_allowed",
                f"only an assistant message has a weight, this one is from {role!r}",
                "Remove it",
            )
        if name not in FIELDS[role]:
            raise Faulty(
                f"{at}.{name}",
                "field_not_allowed",
                f"a message from {role!r} has only {quoted(FIELDS[role])}",
                "Remove the field, or correct the role",
            )
    if "refusal" in message:
        raise Faulty(
            f"{at}.refusal",
            "refusal_not_offered",
            "training on a refusal apart from the content is not offered",
            "Write the words of the refusal into `content`",
            message["refusal"],
        )


def read_content(at: str, message: dict[str, Any], *, needed: bool) -> str:
    """A message's text: a string, or OpenAI's text parts joined."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and not needed:
        return ""
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else kind(content)
        raise Faulty(
            at,
            "missing_content",
            f"expected text, found {found}" if "content" in message else "it is missing",
            'Write "content": "..." as a string',
            message.get("content", ""),
        )
    return "".join(read_part(f"{at}[{index}]", part) for index, part in enumerate(content))


def read_part(at: str, part: object) -> str:
    shape = 'Write {"type": "text", "text": "..."}, or the whole content as a string'
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise Faulty(at, "invalid_part", "this part of the content has no `type`", shape, part)
    if part["type"] != "text":
        raise Faulty(
            f"{at}.type",
            "part_not_offered",
            f"{excerpt(part['type'])!r} is not text, and training on images, audio or files is not "
            "offered",
            "Remove the part, or the row",
            part["type"],
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise Faulty(f"{at}.text", "invalid_part", f"expected text, found {kind(text)}", shape)
    for name, value in part.items():
        if name not in {"type", "text"} and value is not None:
            raise unknown_field(f"{at}.{excerpt(name)}", "`type` and `text`")
    return text


def read_calls(at: str, message: dict[str, Any], calls: Calls) -> tuple[ToolCall, ...]:
    if "function_call" in message:
        if "tool_calls" in message:
            raise Faulty(
                f"{at}.function_call",
                "two_kinds_of_calls",
                "a message has either `tool_calls` or the deprecated `function_call`",
                "Keep `tool_calls`",
            )
        call_id = f"call_{len(calls.ids)}"
        call = read_function(f"{at}.function_call", message["function_call"], call_id, calls)
        calls.latest[call.name] = call.id
        return (call,)
    if "tool_calls" not in message:
        return ()
    given = message["tool_calls"]
    if not isinstance(given, list) or not given:
        found = "an empty list" if given == [] else kind(given)
        raise Faulty(
            f"{at}.tool_calls",
            "invalid_tool_calls",
            f"expected a list of calls, found {found}",
            "List the calls, or remove the field",
            given,
        )
    return tuple(
        read_call(f"{at}.tool_calls[{index}]", call, calls) for index, call in enumerate(given)
    )


def read_call(at: str, given: object, calls: Calls) -> ToolCall:
    shape = '{"id": "...", "type": "function", "function": {"name": "...", "arguments": "{}"}}'
    if not isinstance(given, dict):
        raise Faulty(
            at,
            "invalid_tool_calls",
            f"expected an object, found {kind(given)}",
            f"Write {shape}",
            given,
        )
    for name in given:
        if name not in {"id", "type", "function"}:
            raise unknown_field(f"{at}.{excerpt(name)}", "`id`, `type` and `function`")
    if given.get("type", "function") != "function":
        raise Faulty(
            f"{at}.type",
            "tool_not_offered",
            f"{excerpt(given['type'])!r} is not 'function', the only kind of tool there is",
            'Write "type": "function"',
        )
    if not isinstance(given.get("id"), str) or not given["id"]:
        raise Faulty(
            f"{at}.id", "missing_call_id", "a call needs an id", f"Write {shape}", given.get("id")
        )
    return read_function(f"{at}.function", given.get("function"), given["id"], calls)


def read_function(at: str, given: object, call_id: str, calls: Calls) -> ToolCall:
    if not isinstance(given, dict):
        raise Faulty(
            at,
            "invalid_tool_calls",
            "it is missing" if given is None else f"expected an object, found {kind(given)}",
            'Write {"name": "...", "arguments": "{}"}',
            given,
        )
    for key in given:
        if key not in {"name", "arguments"}:
            raise unknown_field(f"{at}.{excerpt(key)}", "`name` and `arguments`")
    name = function_name(f"{at}.name", given.get("name"))
    if calls.names is not None and name not in calls.names:
        raise Faulty(
            f"{at}.name",
            "unknown_tool",
            f"{name!r} is called and is not among the row's tools",
            "Add it to `tools`, or correct the name",
            name,
        )
    calls.ids.add(call_id)
    return ToolCall(call_id, name, read_arguments(f"{at}.arguments", given.get("arguments")))


def read_arguments(at: str, given: object) -> str:
    if not isinstance(given, str):
        raise Faulty(
            at,
            "invalid_arguments",
            "it is missing" if given is None else f"expected JSON as a string, found {kind(given)}",
            'Write them as a string, such as "{\\"city\\": \\"Oslo\\"}"',
            given,
        )
    try:
        value = orjson.loads(given)
    except orjson.JSONDecodeError as error:
        raise Faulty(
            at,
            "invalid_arguments",
            f"the string is not valid JSON ({error.msg} at column {error.colno})",
            'Write a JSON object in it, "{}" for a call without arguments',
            given,
        ) from None
    if not isinstance(value, dict):
        raise Faulty(
            at,
            "invalid_arguments",
            f"expected a JSON object in the string, found {kind(value)}",
            'Write a JSON object in it, "{}" for a call without arguments',
            given,
        )
    return given


def answered_call(at: str, role: str, message: dict[str, Any], calls: Calls) -> str | None:
    """The id of the call that a tool's message answers."""
    if role == "tool":
        answered = message.get("tool_call_id")
        if not isinstance(answered, str) or answered not in calls.ids:
            raise Faulty(
                f"{at}.tool_call_id",
                "unanswered_call",
                "it is missing"
                if answered is None
                else f"no call before it has the id {excerpt(answered)!r}",
                "Write the `id` of the call that this message answers",
            )
        return answered
    if role == "function":
        name = function_name(f"{at}.name", message.get("name"))
        if name not in calls.latest:
            raise Faulty(
                f"{at}.name",
                "unanswered_call",
                f"no `function_call` before it calls {name!r}",
                "Write the `name` of the function that was called",
                name,
            )
        return calls.latest[name]
    return None


def read_tools(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """A row's `tools`, or its deprecated `functions` written as tools."""
    if row.get("tools") is not None:
        if row.get("functions") is not None:
            raise Faulty(
                "functions",
                "two_kinds_of_tools",
                "a row has either `tools` or the deprecated `functions`",
                "Keep `tools`",
            )
        tools = listed("tools", row["tools"])
    elif row.get("functions") is not None:
        functions = listed("functions", row["functions"])
        tools = [{"type": "function", "function": function} for function in functions]
    else:
        return ()
    names = set()
    for index, tool in enumerate(tools):
        at = f"tools[{index}]"
        name = must_be_a_tool(at, tool)
        if name in names:
            raise Faulty(
                f"{at}.function.name",
                "tool_twice",
                f"there is already a tool {name!r}",
                "Give each tool a name of its own",
                name,
            )
        names.add(name)
    return tuple(tools)


def listed(at: str, given: object) -> list[Any]:
    if isinstance(given, list) and 1 <= len(given) <= MOST_TOOLS:
        return given
    found = f"{len(given)} of them" if isinstance(given, list) else kind(given)
    raise Faulty(
        at,
        "invalid_tools",
        f"expected a list of 1 to {MOST_TOOLS} tools, found {found}",
        "List the tools that the model may call, or remove the field",
        given,
    )


def must_be_a_tool(at: str, tool: object) -> str:
    """The name of its function."""
    shape = '{"type": "function", "function": {"name": "...", "parameters": {...}}}'
    if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
        raise Faulty(
            at, "invalid_tools", "expected an object with a function", f"Write {shape}", tool
        )
    for key in tool:
        if key not in {"type", "function"}:
            raise unknown_field(f"{at}.{excerpt(key)}", "`type` and `function`")
    if tool.get("type") != "function":
        raise Faulty(
            f"{at}.type",
            "tool_not_offered",
            "expected 'function', the only kind of tool there is",
            f"Write {shape}",
            tool.get("type"),
        )
    function = tool["function"]
    at = f"{at}.function"
    for key in function:
        if key not in {"name", "description", "parameters", "strict"}:
            known = "`name`, `description`, `parameters` and `strict`"
            raise unknown_field(f"{at}.{excerpt(key)}", known)
    for key, expected in (("description", str), ("parameters", dict), ("strict", bool)):
        value = function.get(key)
        if value is not None and not isinstance(value, expected):
            wanted = kind(expected())
            raise Faulty(
                f"{at}.{key}",
                "invalid_tools",
                f"expected {wanted}, found {kind(value)}",
                f"Write {shape}",
                value,
            )
    return function_name(f"{at}.name", function.get("name"))


def function_name(at: str, given: object) -> str:
    if isinstance(given, str) and FUNCTION_NAME.fullmatch(given):
        return given
    raise Faulty(
        at,
        "invalid_function_name",
        "it is missing" if given is None else f"{excerpt(given)!r} is not a function's name",
        "Use 1 to 64 letters, digits, underscores and dashes",
    )
