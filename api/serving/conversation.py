"""A conversation that is asked for. It is read by the rules of training data, so that a model is
asked as it was trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunery.completions import ChatPrompt
from tunery.data.chat import read_messages
from tunery.data.rows import ChatMessage, Faulty, Several, excerpt
from tunery.data.tools import Calls, read_tools
from tunery.errors import InvalidRequest

# The kinds of parts that are text, and the field that has it.
TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
MOST_TOLD = 10

Object = dict[str, Any]


def wrong(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {message}", param=param, code="invalid_value")


def chat_prompt(
    messages: Sequence[Object],
    tools: Sequence[Object],
    tool_choice: str | Object | None,
    *,
    places: Mapping[str, str] | None = None,
) -> ChatPrompt:
    """`places` has the paths in the request, by those in `messages`, where they differ. Raises
    `InvalidRequest`, which names the first faults.
    """
    places = places or {}
    spoken = [
        plain(in_request(f"messages[{index}]", places), message)
        for index, message in enumerate(messages)
    ]
    several = Several()
    functions: tuple[Object, ...] = ()
    try:
        with several:
            functions = tuple(read_functions(tools))
        read = read_messages("messages", spoken, Calls(), several, trained=False)
        several.end()
    except Faulty as fault:
        raise in_words(fault, places) from None
    choice, allowed = chosen(tool_choice, [*functions])
    return ChatPrompt(
        messages=[spelled(message) for message in read], tools=allowed or None, tool_choice=choice
    )


def spelled(message: ChatMessage) -> Object:
    """As OpenAI has it, with the content as one text."""
    role = "system" if message.role == "developer" else message.role
    said: Object = {"role": role, "content": message.content}
    if message.name:
        said["name"] = message.name
    if message.reasoning:
        said["reasoning_content"] = message.reasoning
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        said["tool_call_id"] = message.tool_call_id
    return said


def in_request(path: str, places: Mapping[str, str]) -> str:
    """By the longest path that is known to be another."""
    for known in sorted(places, key=len, reverse=True):
        if path.startswith(known):
            return places[known] + path.removeprefix(known)
    return path


def in_words(fault: Faulty, places: Mapping[str, str]) -> InvalidRequest:
    told = []
    for each in [fault, *fault.others]:
        at = in_request(each.field, places)
        told.append((at, f"{at}: {each.reason}. {each.mend}."))
    more = f" … and {len(told) - MOST_TOLD} more." if len(told) > MOST_TOLD else ""
    words = " ".join(sentence for _, sentence in told[:MOST_TOLD])
    return InvalidRequest(f"{words}{more}", param=told[0][0], code="invalid_value")


def plain(at: str, message: Object) -> Object:
    """The message without what says nothing, its content as one text. A refusal is what the model
    said. Raises `InvalidRequest` for a part that is not text.
    """
    said = {**message}
    if said.get("tool_calls") == []:
        del said["tool_calls"]
    if isinstance(said.get("content"), list):
        said["content"] = [*text_parts(f"{at}.content", said["content"])]
    if said.get("role") == "assistant" and isinstance(said.get("refusal"), str):
        refusal = said.pop("refusal")
        said["content"] = said.get("content") or refusal
    return said


def text_parts(at: str, parts: list[Any]) -> Iterator[Any]:
    """As `text` parts; what has no such form is left for who reads the message."""
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in TEXTS:
            raise wrong(
                f"{at}[{index}].type",
                f"{excerpt(kind)!r} is not text, and models here read no images, audio or files. "
                "Remove the part.",
            )
        if kind is None or kind == "text":
            yield part
        else:
            yield {"type": "text", "text": part.get(TEXTS[kind])}


def read_functions(tools: Sequence[Object]) -> tuple[Object, ...]:
    """Raises `InvalidRequest` for a tool that is no function, and `Faulty`."""
    for index, tool in enumerate(tools):
        if tool.get("type", "function") != "function":
            raise wrong(
                f"tools[{index}].type",
                f"{excerpt(tool['type'])!r} is not 'function', the only kind of tool that is "
                "offered: the model names a function, and your program calls it.",
            )
    return read_tools({"tools": [*tools]}) if tools else ()


def chosen(asked: str | Object | None, tools: list[Object]) -> tuple[str, list[Object]]:
    """What a prompt says of it, and the functions that the model may call."""
    names = [tool["function"]["name"] for tool in tools]
    match asked:
        case None:
            return "auto", tools
        case "auto" | "none":
            return asked, tools
        case "required":
            must_be_there("required", names)
            return asked, tools
        case {"type": "function", "function": {"name": str(name)}} | {
            "type": "function",
            "name": str(name),
        }:
            must_be_there(name, names, name)
            return name, tools
        case {"type": "allowed_tools", "allowed_tools": dict(allowed)}:
            return chosen({"type": "allowed_tools", **allowed}, tools)
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": [*listed]}:
            allowed_names = [name_in(tool) for tool in listed]
            for name in allowed_names:
                must_be_there(name, names, name)
            return mode, [tool for tool in tools if tool["function"]["name"] in allowed_names]
    raise wrong(
        "tool_choice",
        'it must be "auto", "none", "required", a function as {"type": "function", "function": '
        '{"name": "..."}}, or allowed_tools with a mode and a list of functions.',
    )


def name_in(tool: object) -> str:
    match tool:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
    raise wrong("tool_choice", f"{excerpt(tool)} names no function.")


def must_be_there(what: str, names: list[str], name: str | None = None) -> None:
    if not names:
        raise wrong("tool_choice", f"{excerpt(what)!r} needs `tools`, and there are none.")
    if name is not None and name not in names:
        raise wrong("tool_choice", f"{excerpt(name)!r} is not among the tools. Add it to `tools`.")
