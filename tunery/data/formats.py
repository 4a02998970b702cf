"""From one JSON object to the row that it is."""

from collections.abc import Callable
from typing import Any

from tunery.data.chat import must_end_in_an_answer, read_messages
from tunery.data.rows import (
    Chat,
    ChatMessage,
    Completion,
    Faulty,
    Preference,
    Row,
    Several,
    Text,
    kind,
    not_a_string,
)
from tunery.data.spellings import NEWER_OUTPUTS, OLDER_OUTPUTS, Spelled, spell
from tunery.data.tools import Calls, read_tools
from tunery.data.turns import must_not_have_too_many_turns

Fields = dict[str, Any]


def read_row(line: int, value: Fields) -> Row:
    """Raises Faulty."""
    several = Several()
    spelled = spell(value, several)
    row = READERS[spelled.kind](line, spelled, several)
    several.end()
    must_not_have_too_many_turns(row)
    return row


def read_chat(line: int, spelled: Spelled, several: Several) -> Chat:
    value, at = spelled.fields, spelled.at
    tools: tuple[dict[str, Any], ...] = ()
    with several:
        tools = read_tools(value)
    with several:
        messages = read_messages(at, value["messages"], calls_of(tools), several, trained=True)
        must_end_in_an_answer(at, messages)
    with several:
        parallel = read_parallel("parallel_tool_calls", value)
    several.end()
    left_out = tuple(spelled.left_out)
    return Chat(line, tuple(messages), tools, parallel, spelled.format, left_out)


def read_preference(line: int, spelled: Spelled, several: Several) -> Preference:
    value = spelled.fields
    outputs = OLDER_OUTPUTS if any(name in value for name in OLDER_OUTPUTS) else NEWER_OUTPUTS
    given = value.get("input")
    if not isinstance(given, dict):
        raise Faulty(
            "input",
            "missing_field" if given is None else "invalid_input",
            "it is missing" if given is None else f"expected an object, found {kind(given)}",
            'Write "input": {"messages": [...]}',
            given,
        )
    tools: tuple[dict[str, Any], ...] = ()
    with several:
        tools = read_tools(given)
    calls = calls_of(tools)
    with several:
        asked = read_messages(
            "input.messages", given.get("messages"), calls, several, trained=False
        )
        if asked[-1].role == "assistant":
            raise Faulty(
                f"input.messages[{len(asked) - 1}].role",
                "input_ends_in_answer",
                "the input ends with an assistant message, so there is nothing to answer",
                "End it with the user's message, and move the answer to the outputs",
            )
    found: list[tuple[ChatMessage, ...]] = []
    for name in outputs:
        with several:
            found.append(read_output(value, name, calls, several))
    with several:
        parallel = read_parallel("input.parallel_tool_calls", given)
    several.end()
    preferred, non_preferred = found
    if preferred == non_preferred:
        raise Faulty(
            outputs[1],
            "same_outputs",
            f"`{outputs[0]}` and `{outputs[1]}` are the same, so neither is preferred",
            "Write two that differ, or remove the row",
        )
    return Preference(
        line,
        tuple(asked),
        tools,
        preferred,
        non_preferred,
        parallel,
        left_out=tuple(spelled.left_out),
    )


def read_output(value: Fields, at: str, calls: Calls, several: Several) -> tuple[ChatMessage, ...]:
    if value.get(at) is None:
        raise missing(at, f'"{at}": [{{"role": "assistant", "content": "..."}}]')
    seen = Calls(calls.names, set(calls.ids), dict(calls.latest))
    messages = read_messages(at, value[at], seen, several, trained=True)
    for index, message in enumerate(messages):
        if message.role not in {"assistant", "tool"}:
            raise Faulty(
                f"{at}[{index}].role",
                "output_from_user",
                f"an output has messages from assistant and tools, this one is from "
                f"{message.role!r}",
                "Move it to the end of `input.messages`",
            )
    must_end_in_an_answer(at, messages)
    return tuple(messages)


def read_completion(line: int, spelled: Spelled, several: Several) -> Completion:
    with several:
        prompt = read_text(spelled.fields, "prompt")
    with several:
        completion = read_text(spelled.fields, "completion")
        must_have_words("completion", completion)
    several.end()
    return Completion(line, prompt, completion, left_out=tuple(spelled.left_out))


def read_plain(line: int, spelled: Spelled, several: Several) -> Text:  # noqa: ARG001 (as others)
    text = read_text(spelled.fields, "text")
    must_have_words("text", text)
    return Text(line, text, left_out=tuple(spelled.left_out))


READERS: dict[str, Callable[[int, Spelled, Several], Row]] = {
    "chat": read_chat,
    "preference": read_preference,
    "completion": read_completion,
    "text": read_plain,
}


def calls_of(tools: tuple[dict[str, Any], ...]) -> Calls:
    return Calls(frozenset(tool["function"]["name"] for tool in tools) if tools else None)


def missing(field: str, example: str) -> Faulty:
    return Faulty(field, "missing_field", "it is missing", f"Add {example} to the row")


def read_text(value: Fields, name: str) -> str:
    if name not in value:
        raise missing(name, f'"{name}": "..."')
    text = value[name]
    if not isinstance(text, str):
        raise not_a_string(name, text)
    return text


def must_have_words(name: str, text: str) -> None:
    if not text.strip():
        raise Faulty(
            name,
            "nothing_to_train",
            f"the {name} is empty",
            "Write the text the model should learn, or remove the row",
        )


def read_parallel(at: str, value: Fields) -> bool | None:
    parallel = value.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise Faulty(
            at,
            "not_a_boolean",
            f"expected true or false, found {kind(parallel)}",
            "Write true or false, or remove the field",
            parallel,
        )
    return parallel
