"""OpenAI's messages: from decoded JSON to the messages of a row.

An optional field that is null counts as absent: Parquet writes all fields of all messages.
"""

from typing import Any

from tunery.data.rows import (
    BROKEN,
    ChatMessage,
    Faulty,
    Several,
    ToolCall,
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


def read_messages(
    at: str, given: object, calls: Calls, several: Several, *, trained: bool
) -> list[ChatMessage]:
    """The messages at the path `at`, at least one. `trained` says whether they may be at all. In
    the place of a faulty one stands an empty one.
    """
    if not isinstance(given, list) or not given:
        found = "an empty list" if given == [] else kind(given)
        raise Faulty(
            at,
            "missing_messages",
            f"expected a list of messages, found {found}",
            "Add at least one user and one assistant message",
            given,
        )
    messages = []
    for index, message in enumerate(given):
        read = None
        if message is not BROKEN:
            with several:
                read = read_message(f"{at}[{index}]", message, calls, trained=trained)
        messages.append(read or stand_in(message, calls, trained=trained))
    return messages


def stand_in(given: object, calls: Calls, *, trained: bool) -> ChatMessage:
    """For a faulty message, so that the others are not taken for wrong on its account."""
    message = given if isinstance(given, dict) else {}
    role = message.get("role")
    listed = message.get("tool_calls")
    for call in listed if isinstance(listed, list) else ():
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            calls.ids.add(call["id"])
    calls.any = calls.any or given is BROKEN or "function_call" in message
    likely = "assistant" if trained else "user"
    known = role if isinstance(role, str) and role in FIELDS else likely
    return ChatMessage(known, "", trained=known == "assistant")


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
    several = Several()
    must_fit_role(at, role, message, several)
    tool_calls: tuple[ToolCall, ...] | None = None
    with several:
        tool_calls = read_calls(at, message, calls)
    with several:
        content = read_content(f"{at}.content", given, needed=tool_calls == ())
    name, weight = message.get("name"), message.get("weight", 1)
    reasoning = message.get("reasoning_content") or ""
    with several:
        must_be_plain(at, name, weight, reasoning)
    with several:
        answered = answered_call(at, role, message, calls)
    several.end()
    return ChatMessage(
        role="tool" if role == "function" else role,
        content=content,
        trained=trained and role == "assistant" and weight == 1,
        name=name,
        tool_calls=tool_calls or (),
        tool_call_id=answered,
        reasoning=reasoning,
    )


def must_be_plain(at: str, name: object, weight: object, reasoning: object) -> None:
    if name is not None and not isinstance(name, str):
        raise not_a_string(f"{at}.name", name)
    if weight not in (0, 1) or isinstance(weight, bool):
        raise Faulty(
            f"{at}.weight",
            "invalid_weight",
            f"{excerpt(weight)!r} is not 0 or 1",
            "Use 1 to train on the message, 0 to leave it out",
        )
    if not isinstance(reasoning, str):
        raise not_a_string(f"{at}.reasoning_content", reasoning)


def must_fit_role(at: str, role: str, message: dict[str, Any], several: Several) -> None:
    for name, value in message.items():
        if name not in FIELDS[role] and not (name in EMPTY and not value):
            with several:
                raise unfit(f"{at}.{excerpt(name)}", name, role)
    if "refusal" in message and role == "assistant":
        with several:
            raise Faulty(
                f"{at}.refusal",
                "refusal_not_offered",
                "training on a refusal apart from the content is not offered",
                "Write the words of the refusal into `content`",
                message["refusal"],
            )


def unfit(at: str, name: str, role: str) -> Faulty:
    """A field that a message of that role does not have."""
    if name not in KNOWN:
        return unknown_field(at, quoted(FIELDS[role]))
    if name == "weight":
        return Faulty(
            at,
            "weight_not_allowed",
            f"only an assistant message has a weight, this one is from {role!r}",
            "Remove it",
        )
    return Faulty(
        at,
        "field_not_allowed",
        f"a message from {role!r} has only {quoted(FIELDS[role])}",
        "Remove the field, or correct the role",
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
