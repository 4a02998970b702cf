"""A conversation's turns as people write them, written anew as OpenAI's messages.

ShareGPT's `from` and `value`, Gemini's `parts`, Anthropic's and Bedrock's lists of content, plain
texts in turn, roles in any case and by any of their usual names; tool calls as Hugging Face has
them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from tunery.data.rows import BROKEN, Faulty, Format, Several, excerpt, kind, not_a_string

TURN_LISTS = (
    *(
        "messages",
        "conversations",
        "conversation",
        "dialogue",
        "dialog",
        "turns",
        "contents",
        "chat",
    ),
)
ROLES = {
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "llm"), "assistant"
    ),
    **dict.fromkeys(
        ("tool", "observation", "tool_response", "function_response", "ipython"), "tool"
    ),
    "function": "function",
    **dict.fromkeys(("function_call", "tool_call", "function-call"), "function_call"),
}
CALLS = "function_call"
# What a message of OpenAI's has; all else is left out.
KEPT = {
    *("role", "content", "name", "weight", "tool_calls", "function_call", "tool_call_id"),
    *("refusal", "reasoning_content", "audio"),
}
# Other names for the same.
REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
WEIGHTS = ("weight", "train", "training", "loss")


@dataclass
class Turns:
    format: Format
    messages: Any


def read_turns(at: str, given: object, left_out: list[str], several: Several) -> Turns:
    """OpenAI's messages; what is no list stays what it is, for its reader to refuse. `BROKEN` for a
    turn whose fault is noted.
    """
    if isinstance(given, str):
        given = parsed(at, given)
    if not isinstance(given, list) or not given:
        return Turns("chat", given)
    if at != "messages" and all(isinstance(turn, str) for turn in given):
        roles = ("user", "assistant")
        return Turns(
            "strings",
            [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(given)],
        )
    first = given[0]
    sharegpt = isinstance(first, dict) and "from" in first and "role" not in first
    writer = Writer(left_out, free=sharegpt)
    messages: list[Any] = []
    for index, turn in enumerate(given):
        if isinstance(turn, dict) and ("parts" in turn or "from" in turn or not plain(turn)):
            written: list[Any] = [BROKEN]
            with several:
                written = list(writer.write(f"{at}[{index}]", turn))
            messages += written
        else:
            messages.append(turn)
    format_: Format = "sharegpt" if sharegpt else "chat"
    if isinstance(first, dict) and "parts" in first:
        format_ = "gemini"
    return Turns(format_, messages)


def plain(turn: dict[str, Any]) -> bool:
    """Whether it is a message of OpenAI's as it stands."""
    role = turn.get("role")
    if not turn.keys() <= KEPT or not isinstance(role, str):
        return False
    if ROLES.get(role) != role or role in {CALLS, "tool"}:
        return False
    if "tool_calls" in turn or "function_call" in turn:
        return False
    content = turn.get("content")
    return not isinstance(content, list) or all(
        isinstance(part, dict) and part.get("type") == "text" and len(part) == 2 for part in content
    )


class Writer:
    """Remembers the calls that wait for their results; `free`, where a row has results alone."""

    def __init__(self, left_out: list[str], *, free: bool) -> None:
        self.left_out = left_out
        self.free = free
        self.calls = 0
        self.open: list[tuple[str, str]] = []  # (id, name)

    def write(self, at: str, turn: dict[str, Any]) -> Iterator[dict[str, Any]]:
        role = self.role(at, turn)
        message: dict[str, Any] = {"role": "assistant" if role == CALLS else role}
        said = next((name for name in ("content", "value", "text", "parts") if name in turn), None)
        content = turn.get(said) if said else None
        used = {"role", "from", said}
        for name in REASONING:
            if isinstance(turn.get(name), str):
                message["reasoning_content"] = turn[name]
                used.add(name)
                break
        for name in WEIGHTS:
            if turn.get(name) is not None:
                weight = turn[name]
                message["weight"] = int(weight) if isinstance(weight, bool) else weight
                used.add(name)
                break
        if message["role"] != "assistant":
            message.pop("weight", None)
        for name in ("name", "refusal", "tool_call_id", "function_call"):
            if turn.get(name) is not None:
                message[name] = turn[name]
                used.add(name)
        if role == CALLS:
            message["tool_calls"] = self.new_calls(f"{at}.{said}", content)
            message["content"] = ""
        else:
            if turn.get("tool_calls"):
                calls = turn["tool_calls"]
                if isinstance(calls, str):
                    calls = parsed(f"{at}.tool_calls", calls)
                message["tool_calls"] = self.calls_of(calls)
            used.add("tool_calls")
            if isinstance(content, list):
                yield from self.parts(f"{at}.{said}", message, content)
                self.leave_out(turn, used)
                return
            if said and said != "content" and not isinstance(content, str):
                raise Faulty(
                    f"{at}.{said}",
                    "missing_content",
                    f"expected text, found {kind(content)}",
                    "Write the turn's text as a string",
                    content,
                )
            if said:
                message["content"] = content
            elif not message.get("tool_calls") and not message.get("function_call"):
                name = "value" if "from" in turn else "content"
                raise Faulty(
                    f"{at}.{name}", "missing_content", "it is missing", f'Write "{name}": "..."'
                )
        if message["role"] == "tool":
            self.answer(at, message)
        self.leave_out(turn, used)
        yield message

    def leave_out(self, turn: dict[str, Any], used: set[str | None]) -> None:
        self.left_out += [
            f"{excerpt(name)} of a message"
            for name, value in turn.items()
            if name not in used and value not in (None, "", [], {})
        ]

    def role(self, at: str, turn: dict[str, Any]) -> str:
        name = "from" if "from" in turn and "role" not in turn else "role"
        given = turn.get(name)
        role = ROLES.get(given.strip().lower()) if isinstance(given, str) else None
        if role is None:
            found = "it is missing" if given is None else f"{excerpt(given)!r} is not a role"
            known = "system, user, assistant, tool"
            raise Faulty(f"{at}.{name}", "unrecognized_role", found, f"Use one of {known}", given)
        return role

    def new_calls(self, at: str, given: object) -> Any:  # noqa: ANN401
        """Of a turn that is a call: {"name", "arguments"} as JSON, or a list of such."""
        value = parsed(at, given) if isinstance(given, str) else given
        return self.calls_of(value if isinstance(value, list) else [value])

    def calls_of(self, given: object) -> Any:  # noqa: ANN401 - what is no list is refused later
        if not isinstance(given, list):
            return given
        return [self.call(call) for call in given]

    def call(self, given: object) -> Any:  # noqa: ANN401
        """As OpenAI's, its arguments as text, with an id if it has none."""
        if not isinstance(given, dict):
            return given
        function = given.get("function", given)
        if isinstance(function, str):
            function = {"name": function, "arguments": given.get("arguments", {})}
        if not isinstance(function, dict):
            return given
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, dict):
            arguments = orjson.dumps(without_nulls(arguments)).decode()
        known: dict[str, Any] = {"name": function.get("name")}
        if arguments is not None:
            known["arguments"] = arguments
        id_ = given.get("id")
        if id_ is None:
            id_ = f"call_{self.calls}"
        self.calls += 1
        self.open.append((str(id_), str(function.get("name"))))
        found = {"id": id_, "type": given.get("type", "function"), "function": known}
        self.left_out += [
            f"{excerpt(name)} of a tool call"
            for name, value in given.items()
            if name not in {"id", "type", "function", "name", "arguments", "parameters"}
            and value is not None
        ]
        return found

    def answer(self, at: str, message: dict[str, Any]) -> None:
        """Says which call a tool's result is of: by its name, else the first that waits."""
        given = message.get("tool_call_id")
        if given is None:
            name = message.get("name")
            named = [call for call in self.open if call[1] == name] or self.open
            if not named and not self.calls and self.free:
                message["tool_call_id"] = ""  # of a tool that nobody is said to have called
                return
            if not named:
                raise Faulty(
                    f"{at}.tool_call_id",
                    "unanswered_call",
                    "it is missing, and no call waits for a result",
                    "Write the `id` of the call that this message answers",
                )
            given = named[0][0]
            message["tool_call_id"] = given
        self.open = [call for call in self.open if call[0] != given]

    def parts(self, at: str, message: dict[str, Any], given: list[Any]) -> Iterator[dict[str, Any]]:
        """Texts are joined; calls and results within the parts become OpenAI's."""
        texts: list[str] = []
        calls: list[Any] = []
        results: list[dict[str, Any]] = []
        for index, part in enumerate(given):
            here = f"{at}[{index}]"
            if isinstance(part, str):
                texts.append(part)
            elif not isinstance(part, dict):
                found = f"expected text, found {kind(part)}"
                raise Faulty(here, "invalid_part", found, "Write text")
            elif isinstance(part.get("text"), str) and part.get("type", "text") == "text":
                if part.get("thought") is True:
                    message["reasoning_content"] = part["text"]
                else:
                    texts.append(part["text"])
                self.left_out += [
                    f"{excerpt(name)} of a text"
                    for name in part
                    if name not in {"type", "text", "thought"}
                ]
            elif part.get("type") == "thinking":
                message["reasoning_content"] = part.get("thinking")
            elif call := part.get("functionCall") or part.get("toolUse"):
                call = an_object(here, call)
                arguments = call.get("args", call.get("input", {}))
                calls.append(
                    {"id": call.get("toolUseId"), "name": call.get("name"), "arguments": arguments}
                )
            elif part.get("type") == "tool_use":
                calls.append({**part, "type": "function", "arguments": part.get("input", {})})
            elif result := part.get("functionResponse") or part.get("toolResult"):
                results.append(self.result(an_object(here, result)))
            elif part.get("type") == "tool_result":
                results.append(self.result(part))
            else:
                raise not_text(here, part)
        if calls:
            known = ("id", "type", "name", "arguments")
            message["tool_calls"] = self.calls_of(
                [{name: call[name] for name in known if call.get(name)} for call in calls]
            )
        for result in results:
            self.answer(at, result)
            yield result
        if texts or calls or not results:
            yield {**message, "content": "".join(texts)}

    def result(self, given: dict[str, Any]) -> dict[str, Any]:
        content = given.get("content", given.get("response"))
        if isinstance(content, list):
            texts = [part.get("text") if isinstance(part, dict) else part for part in content]
            if all(isinstance(text, str) for text in texts):
                content = "".join(map(str, texts))
        if not isinstance(content, str):
            content = orjson.dumps(content).decode()  # all of it, whatever it is
        message: dict[str, Any] = {"role": "tool", "content": content}
        if id_ := given.get("tool_use_id") or given.get("toolUseId"):
            message["tool_call_id"] = id_
        if name := given.get("name"):
            message["name"] = name
        return message


def an_object(at: str, given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        found = f"expected a call or its result as an object, found {kind(given)}"
        raise Faulty(at, "invalid_part", found, 'Write {"name": "...", ...}', given)
    return given


def not_text(at: str, part: dict[str, Any]) -> Faulty:
    what = part.get("type") or next(iter(part), "nothing")
    return Faulty(
        f"{at}.type" if "type" in part else at,
        "part_not_offered",
        f"{excerpt(what)!r} is not text, and training on images, audio or files is not offered",
        "Choose a data set of text, or rows without them",
        part,
    )


def parsed(at: str, text: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Faulty(
            at,
            "invalid_json",
            f"the text is not valid JSON ({error.msg} at column {error.colno})",
            "Write it as a list, or as JSON",
            text,
        ) from None


def system_text(at: str, given: object) -> str:
    """A system prompt: text, or parts with text."""
    if isinstance(given, dict):
        given = given.get("parts", given.get("content", given.get("text")))
    if isinstance(given, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in given]
        given = "".join(map(str, texts)) if all(isinstance(each, str) for each in texts) else texts
    if not isinstance(given, str):
        raise not_a_string(at, given)
    return given


def without_nulls(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Without an object's fields that are null, at any depth: Parquet gives each call the arguments
    of all.
    """
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    return value
