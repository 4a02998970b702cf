"""OpenAI's messages: from decoded JSON to the messages of a row.

An optional field that is null counts as absent: Parquet writes all fields of all messages.
"""

from typing import Any

from tunery.data.rows import (
    ChatMessage,
    Faulty,
    excerpt,
    kind,
    not_a_string,
    quoted,
    unknown_field,
)
from tunery.data.tools import Calls, answered_call, read_calls

FIELDS = {
    "system": ("role", "content", "name"),
    "developer": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "assistant": (
        "role",
        "content",
        "name",
        "weight",
        "tool_calls",
        "function_call",
        "refusal",
        "reasoning_content",
    ),
    "tool": ("role", "content", "name", "tool_call_id"),
    "function": ("role", "content", "name"),
}
KNOWN = {name for fields in FIELDS.values() for name in fields}
# The SDK's own messages have these, empty, when they are dumped.
EMPTY = {"audio", "annotations"}
ROLES = tuple(FIELDS)


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
    reasoning = message.get("reasoning_content") or ""
    if not isinstance(reasoning, str):
        raise not_a_string(f"{at}.reasoning_content", reasoning)
    return ChatMessage(
        role="tool" if role == "function" else role,
        content=content,
        trained=trained and role == "assistant" and weight == 1,
        name=name,
        tool_calls=tool_calls,
        tool_call_id=answered_call(at, role, message, calls),
        reasoning=reasoning,
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
