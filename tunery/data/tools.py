"""A row's tools, the calls of them, and the answers. The deprecated `functions`, `function_call`
and role `function` are read as tools.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from tunery.data.rows import Faulty, ToolCall, excerpt, kind, unknown_field
from tunery.data.spelled_turns import parsed, without_nulls
from tunery.data.values import joined, look_through

MOST_TOOLS = 128
FUNCTION = ("name", "description", "parameters", "strict")
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass
class Calls:
    """The tool calls of a row so far. `names` are the functions it has tools for, None: it does not
    say; `latest` has the id of each deprecated function's latest call. `any`: some call is faulty,
    which may be the one that is answered.
    """

    names: frozenset[str] | None = None
    ids: set[str] = field(default_factory=set)
    latest: dict[str, str] = field(default_factory=dict)
    any: bool = False


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
    try:
        look_through(value)
    except Faulty as fault:
        fault.field = joined(at, fault.field)
        raise
    return given


def answered_call(at: str, role: str, message: dict[str, Any], calls: Calls) -> str | None:
    """The id of the call that a tool's message answers."""
    if role == "tool":
        answered = message.get("tool_call_id")
        if answered == "":
            return None
        if not isinstance(answered, str) or not (calls.any or answered in calls.ids):
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
        if name not in calls.latest and calls.any:
            return None
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
    if row.get("tools") not in (None, "", []):
        if row.get("functions") not in (None, "", []):
            raise Faulty(
                "functions",
                "two_kinds_of_tools",
                "a row has either `tools` or the deprecated `functions`",
                "Keep `tools`",
            )
        tools = [as_tool(tool) for tool in listed("tools", row["tools"])]
    elif row.get("functions") not in (None, "", []):
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


def as_tool(given: Any) -> Any:  # noqa: ANN401 - what is none is refused later
    """A bare function as a tool; without what a provider or a library adds to one."""
    if not isinstance(given, dict):
        return given
    if "function" not in given and "name" in given:
        given = {"type": "function", "function": given}
    function = given.get("function")
    if not isinstance(function, dict):
        return given
    schema = function.get("parameters", function.get("input_schema"))
    known = {name: function[name] for name in FUNCTION if function.get(name) is not None}
    if isinstance(schema, dict):
        known["parameters"] = without_nulls(schema)
    return {"type": given.get("type") or "function", "function": known}


def listed(at: str, given: object) -> list[Any]:
    if isinstance(given, str):
        given = parsed(at, given)
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
