"""A data set's lines as rows, or as the fault that keeps a line from being one.

Formats: OpenAI's chat lines `{"messages": [...]}` and `{"prompt": ..., "completion": ...}`, one
JSON object a line, UTF-8, with or without a byte-order mark. Rows and faults never meet silently:
a line yields exactly one of the two, a blank line neither.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

MAX_LINE_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class ChatMessage:
    role: str
    content: str
    trained: bool  # an assistant message whose weight is not 0


@dataclass(frozen=True)
class Chat:
    line: int
    messages: tuple[ChatMessage, ...]
    format: Literal["chat"] = "chat"

    @property
    def text(self) -> str:
        return "".join(message.content for message in self.messages)


@dataclass(frozen=True)
class Completion:
    line: int
    prompt: str
    completion: str
    format: Literal["completion"] = "completion"

    @property
    def text(self) -> str:
        return self.prompt + self.completion


Row = Chat | Completion


@dataclass(frozen=True)
class Fault:
    """Why a line is not a row. `line` counts from 1, `field` is a path such as
    `messages[2].content`, `excerpt` at most 80 characters of what stands there. No part grows with
    the data, and all of it can be printed.
    """

    line: int
    field: str
    rule: str
    reason: str
    mend: str
    excerpt: str = ""

    def __str__(self) -> str:
        where = f"line {self.line}: {self.field}" if self.field else f"line {self.line}"
        return f"{where}: {self.reason}. {self.mend}."

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_rows(path: Path) -> Iterator[Row | Fault]:
    """Rows and faults in the file's order. Memory is bounded by the longest allowed line."""
    for line, raw in read_lines(path):
        if isinstance(raw, Fault):
            yield raw
        elif raw.strip():
            yield parse_line(line, raw)


def read_lines(path: Path) -> Iterator[tuple[int, bytes | Fault]]:
    """(line number from 1, bytes without the line's end). A line over 1 MiB is a fault."""
    with path.open("rb") as file:
        start = file.read(len(BOM))
        if start != BOM:
            file.seek(0)
        line = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            line += 1
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                skip_to_line_end(file)
                yield (
                    line,
                    Fault(
                        line, "", "line_too_long", "the line is longer than 1 MiB", "Split the row"
                    ),
                )
            else:
                yield line, raw.rstrip(b"\r\n")


def skip_to_line_end(file: BinaryIO) -> None:
    while (raw := file.readline(MAX_LINE_BYTES)) and not raw.endswith(b"\n"):
        pass


def parse_line(line: int, raw: bytes) -> Row | Fault:
    """One line's row, or its first fault."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return not_utf8(line, f"byte {error.start + 1} is not UTF-8, as in UTF-16 or Latin-1")
    if "\0" in text:
        return not_utf8(line, "it has zero bytes, as in UTF-16 or a binary file")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return Fault(
            line,
            "",
            "invalid_json",
            f"not valid JSON ({error.msg} at column {error.colno})",
            "Write one complete JSON object on each line",
            excerpt(text),
        )
    if not isinstance(value, dict):
        return Fault(
            line,
            "",
            "not_an_object",
            f"expected a JSON object, found {kind(value)}",
            'Write {"messages": [...]} or {"prompt": "...", "completion": "..."}',
            excerpt(value),
        )
    if "messages" in value:
        return parse_chat(line, value)
    if "prompt" in value or "completion" in value:
        return parse_completion(line, value)
    return Fault(
        line,
        "messages",
        "missing_messages",
        "neither `messages` nor `prompt` and `completion` is there",
        'Write {"messages": [...]} or {"prompt": "...", "completion": "..."}',
        excerpt(value),
    )


def parse_completion(line: int, value: dict[str, Any]) -> Row | Fault:
    for field in value:
        if field not in {"prompt", "completion"}:
            return unknown_field(line, excerpt(field), "`prompt` and `completion`")
    for field in ("prompt", "completion"):
        if field not in value:
            return Fault(
                line, field, "missing_field", "it is missing", f'Add "{field}": "..." to the row'
            )
        if not isinstance(value[field], str):
            return not_a_string(line, field, value[field])
    if not value["completion"].strip():
        return Fault(
            line,
            "completion",
            "nothing_to_train",
            "the completion is empty",
            "Write the text the model should learn, or remove the row",
        )
    return Completion(line, value["prompt"], value["completion"])


def parse_chat(line: int, value: dict[str, Any]) -> Row | Fault:
    for field in value:
        if field in {"tools", "functions", "parallel_tool_calls"}:
            return tools_not_trained(line, field)
        if field != "messages":
            return unknown_field(line, excerpt(field), "`messages`")
    messages = value["messages"]
    if not isinstance(messages, list) or not messages:
        found = "an empty list" if messages == [] else kind(messages)
        return Fault(
            line,
            "messages",
            "missing_messages",
            f"expected a list of messages, found {found}",
            "Add at least one user and one assistant message",
        )
    parsed = []
    for index, message in enumerate(messages):
        result = parse_message(line, f"messages[{index}]", message)
        if isinstance(result, Fault):
            return result
        parsed.append(result)
    last = f"messages[{len(parsed) - 1}].role"
    if all(message.role != "assistant" for message in parsed):
        return Fault(
            line,
            "messages",
            "missing_assistant",
            "there is no assistant message, so nothing to train on",
            "Add the answer the model should learn",
        )
    if parsed[-1].role != "assistant":
        return Fault(
            line,
            last,
            "last_not_assistant",
            f"the last message is from {parsed[-1].role!r}",
            "End the row with the assistant's answer",
        )
    if not any(message.trained for message in parsed):
        return Fault(
            line,
            "messages",
            "nothing_to_train",
            "every assistant message has weight 0",
            "Give at least one of them weight 1, or remove the row",
        )
    return Chat(line, tuple(parsed))


def parse_message(line: int, at: str, message: object) -> ChatMessage | Fault:
    if not isinstance(message, dict):
        return Fault(
            line,
            at,
            "message_not_an_object",
            f"expected an object, found {kind(message)}",
            'Write {"role": "...", "content": "..."}',
            excerpt(message),
        )
    for field in message:
        if field in {"tool_calls", "function_call", "tool_call_id"}:
            return tools_not_trained(line, f"{at}.{field}")
        if field not in {"role", "content", "weight"}:
            return unknown_field(line, f"{at}.{excerpt(field)}", "`role`, `content` and `weight`")
    role = message.get("role")
    if role in ("tool", "function"):
        return tools_not_trained(line, f"{at}.role")
    if role not in ROLES:
        found = "it is missing" if role is None else f"{excerpt(role)!r} is not a role"
        return Fault(
            line, f"{at}.role", "unrecognized_role", found, f"Use one of {', '.join(ROLES)}"
        )
    content = text_of(message.get("content"))
    if content is None:
        given = message.get("content", "")
        return Fault(
            line,
            f"{at}.content",
            "missing_content",
            f"expected text, found {kind(given)}" if "content" in message else "it is missing",
            'Write "content": "..." as a string',
            excerpt(given),
        )
    weight = message.get("weight", 1)
    if "weight" in message and role != "assistant":
        return Fault(
            line,
            f"{at}.weight",
            "weight_not_allowed",
            f"only an assistant message has a weight, this one is from {role!r}",
            "Remove it",
        )
    if weight not in (0, 1) or isinstance(weight, bool):
        return Fault(
            line,
            f"{at}.weight",
            "invalid_weight",
            f"{excerpt(weight)!r} is not 0 or 1",
            "Use 1 to train on the message, 0 to leave it out",
        )
    return ChatMessage(role, content, trained=role == "assistant" and weight == 1)


def text_of(content: object) -> str | None:
    """A message's text: a string, or a list of OpenAI's text parts joined. Else None."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        parts = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text":
                return None
            if set(part) != {"type", "text"} or not isinstance(part["text"], str):
                return None
            parts.append(part["text"])
        return "".join(parts)
    return None


def not_utf8(line: int, reason: str) -> Fault:
    return Fault(line, "", "not_utf8", reason, "Save the file as UTF-8")


def unknown_field(line: int, field: str, known: str) -> Fault:
    return Fault(line, field, "unknown_field", f"only {known} are known here", "Remove the field")


def tools_not_trained(line: int, field: str) -> Fault:
    return Fault(
        line,
        field,
        "tools_not_offered",
        "training on tool calls is not offered yet",
        "Remove the row, or its tools and tool messages",
    )


def not_a_string(line: int, field: str, value: object) -> Fault:
    return Fault(
        line,
        field,
        "not_a_string",
        f"expected text, found {kind(value)}",
        "Write it as a string",
        excerpt(value),
    )


def kind(value: object) -> str:
    names: dict[type, str] = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names[type(value)]


def excerpt(value: object) -> str:
    try:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return "…"  # orjson reads values that are nested deeper than it writes
    short = text if len(text) <= 80 else text[:79] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in short)
