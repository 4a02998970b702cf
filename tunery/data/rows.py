"""What a data set consists of: rows, or the fault that keeps a line from being one.

A row's `line` counts from 1: the physical line where it begins, or the row's number in a Parquet
file.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import orjson

# How a row is spelled. Chats are rendered by a chat template, whatever their spelling.
ChatFormat = Literal["chat", "sharegpt", "gemini", "strings", "alpaca", "question"]
Format = Literal[ChatFormat, "completion", "text", "preference"]
MOST_FAULTS_OF_A_ROW = 20
CHATS: frozenset[str] = frozenset(get_args(ChatFormat))


# What a model thinks before it answers, where that is written in the answer itself.
THOUGHT = re.compile(r"\A\s*<think>(.*?)</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: str  # a JSON object, as text


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """`role` is system, developer, user, assistant or tool. `content` is empty where only tools are
    called. `trained` marks an assistant message whose weight is not 0. `reasoning` is what an
    assistant thought before it answered, where the row has that apart from the content.
    """

    role: str
    content: str
    trained: bool
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""

    def texts(self) -> Iterator[str]:
        yield self.reasoning
        yield self.content
        for call in self.tool_calls:
            yield call.name
            yield call.arguments


@dataclass(frozen=True, slots=True)
class Chat:
    """`tools` as OpenAI has them: {"type": "function", "function": {"name": ...}}. `left_out` names
    what the row has and no training reads.
    """

    line: int
    messages: tuple[ChatMessage, ...]
    tools: tuple[dict[str, Any], ...] = ()
    parallel_tool_calls: bool | None = None
    format: Format = "chat"
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def text(self) -> str:
        return joined(self.messages, self.tools)


@dataclass(frozen=True, slots=True)
class Completion:
    line: int
    prompt: str
    completion: str
    format: Literal["completion"] = "completion"
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def text(self) -> str:
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Text:
    """All of it is trained on."""

    line: int
    text: str
    format: Literal["text"] = "text"
    left_out: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Preference:
    """Two ways to go on from `input`. Its own messages are never trained on."""

    line: int
    input: tuple[ChatMessage, ...]
    tools: tuple[dict[str, Any], ...]
    preferred: tuple[ChatMessage, ...]
    non_preferred: tuple[ChatMessage, ...]
    parallel_tool_calls: bool | None = None
    format: Literal["preference"] = "preference"
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def text(self) -> str:
        """As it is trained on: what comes before an answer is read before each of the two."""
        answers = (self.preferred, self.non_preferred)
        return "".join(joined((*self.input, *answer), self.tools) for answer in answers)


Row = Chat | Completion | Text | Preference


def holds_reasoning(row: Row) -> bool:
    """Whether an answer of the row has a thought before it."""
    match row:
        case Chat():
            messages = row.messages
        case Preference():
            messages = (*row.preferred, *row.non_preferred)
        case Completion():
            return THOUGHT.match(row.completion) is not None
        case _:
            return False
    return any(
        message.reasoning or THOUGHT.match(message.content)
        for message in messages
        if message.role == "assistant"
    )


def joined(messages: tuple[ChatMessage, ...], tools: tuple[dict[str, Any], ...]) -> str:
    texts = [text for message in messages for text in message.texts()]
    if tools:
        texts.append(orjson.dumps(tools).decode())
    return "".join(texts)


@dataclass(frozen=True)
class Fault:
    """Why a line is not a row; `others` are further reasons. `field` is a path such as
    `messages[2].content`, `excerpt` at most 80 characters of what stands there. No part grows with
    the data, and all of it can be printed.
    """

    line: int
    field: str
    rule: str
    reason: str
    mend: str
    excerpt: str = ""
    others: tuple["Fault", ...] = ()

    def __str__(self) -> str:
        where = f"line {self.line}: {self.field}" if self.field else f"line {self.line}"
        return f"{where}: {self.reason}. {self.mend}."

    def as_dict(self) -> dict[str, Any]:
        """Without the others."""
        return {name: value for name, value in asdict(self).items() if name != "others"}


class Faulty(Exception):
    """A fault whose line the reader of the line adds. `found` is what stands at `field`."""

    def __init__(self, field: str, rule: str, reason: str, mend: str, found: object = "") -> None:
        super().__init__(reason)
        self.field = field
        self.rule = rule
        self.reason = reason
        self.mend = mend
        self.found = found
        self.others: list[Faulty] = []

    def at(self, line: int) -> Fault:
        others = tuple(other.at(line) for other in self.others)
        found = excerpt(self.found)
        return Fault(line, self.field, self.rule, self.reason, self.mend, found, others)


# In the place of a turn whose fault is noted.
BROKEN = object()


class Several:
    """The faults of a row's parts, each read within `with`: all are looked at, up to 20 faults.
    `end` raises them as one, if there are any.
    """

    def __init__(self) -> None:
        self.faults: list[Faulty] = []

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, fault: BaseException | None, trace: object) -> bool:
        if not isinstance(fault, Faulty):
            return False
        self.faults += [fault, *fault.others]
        fault.others = []
        if len(self.faults) >= MOST_FAULTS_OF_A_ROW:
            self.end()
        return True

    def end(self) -> None:
        if self.faults:
            first, *first.others = self.faults[:MOST_FAULTS_OF_A_ROW]
            raise first


def unknown_field(field: str, known: str) -> Faulty:
    return Faulty(
        field,
        "unknown_field",
        f"only {known} are known here",
        "Remove the field, or correct its name",
    )


def not_a_string(field: str, value: object) -> Faulty:
    return Faulty(
        field, "not_a_string", f"expected text, found {kind(value)}", "Write it as a string", value
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
    return names.get(type(value)) or f"a {type(value).__name__}"


def excerpt(value: object) -> str:
    try:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return "…"  # nested deeper than orjson writes, or a Parquet column's own type
    short = text if len(text) <= 80 else text[:79] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in short)


def quoted(names: tuple[str, ...]) -> str:
    """`a`, `b` and `c`."""
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}" if most else last
