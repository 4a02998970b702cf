"""A row of a data set as models are asked it, and as a grader knows it."""

from collections.abc import Sequence
from typing import Any

from tunery.completions import ChatPrompt, TextPrompt
from tunery.data.rows import Chat, ChatMessage, Completion, Preference, Row


def asked_of(row: Row) -> tuple[dict[str, Any], str]:
    """(what a grader knows of the row besides its own fields, the end of what is asked). Raises
    `TypeError` for a text, which has no answer.
    """
    match row:
        case Chat(messages=(*before, answer)):
            return of_chat(before, answer) | {"tools": list(row.tools)}, last_text(before)
        case Preference(input=before, preferred=(*earlier, answer), non_preferred=(*_, other)):
            item = of_chat([*before, *earlier], answer)
            return item | {"rejected": other.content}, last_text(before)
        case Completion():
            item = {"prompt": row.prompt, "completion": row.completion}
            return item | {"reference": row.completion}, row.prompt
    raise TypeError(f"a {row.format} has no answer")


def prompt_of(row: Row) -> ChatPrompt | TextPrompt:
    """What comes before the row's last answer. Raises `TypeError` as `asked_of`."""
    match row:
        case Chat(messages=(*before, _), tools=tools):
            return of_messages(before, tools)
        case Preference(input=before, preferred=(*earlier, _), tools=tools):
            return of_messages([*before, *earlier], tools)
        case Completion():
            return TextPrompt(text=row.prompt)
    raise TypeError(f"a {row.format} has no answer")


def last_text(before: Sequence[ChatMessage]) -> str:
    return before[-1].content if before else ""


def of_chat(before: Sequence[ChatMessage], answer: ChatMessage) -> dict[str, Any]:
    return {
        "messages": [{"role": said.role, "content": said.content} for said in before],
        "reference": answer.content,
        "reference_tool_calls": [function_of(call) for call in answer.tool_calls],
    }


def of_messages(before: Sequence[ChatMessage], tools: Sequence[dict[str, Any]]) -> ChatPrompt:
    messages = [as_openai_has_it(message) for message in before]
    return ChatPrompt(messages=messages, tools=list(tools) or None)


def as_openai_has_it(message: ChatMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [function_of(call) | {"id": call.id} for call in message.tool_calls]
    optional = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning,
    }
    return said | {name: value for name, value in optional.items() if value}


def function_of(call: Any) -> dict[str, Any]:  # noqa: ANN401 (of a row, or of an answer)
    return {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
