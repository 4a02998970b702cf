"""From one JSON object to the row that it is, by the fields that it has."""

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
    Text,
    excerpt,
    kind,
    not_a_string,
    quoted,
    unknown_field,
)
from tunery.data.tools import Calls, read_tools
from tunery.data.turns import must_not_have_too_many_turns

Fields = dict[str, Any]

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}
NEWER_OUTPUTS = ("preferred_output", "non_preferred_output")
OLDER_OUTPUTS = ("preferred_completion", "non_preferred_completion")


def read_row(line: int, value: Fields) -> Row:
    """Raises Faulty."""
    for field, read in READERS.items():
        if field in value:
            row = read(line, value)
            must_not_have_too_many_turns(row)
            return row
    raise Faulty(
        "messages",
        "missing_messages",
        "neither `messages` nor `prompt` and `completion` is there, nor another format's fields",
        'Write {"messages": [...]} or {"prompt": "...", "completion": "..."}',
        value,
    )


def read_chat(line: int, value: Fields) -> Chat:
    must_know(value, ("messages", "tools", "parallel_tool_calls", "functions"))
    tools = read_tools(value)
    messages = read_messages("messages", value["messages"], calls_of(tools), trained=True)
    must_end_in_an_answer("messages", messages)
    return Chat(line, tuple(messages), tools, read_parallel("parallel_tool_calls", value))


def read_preference(line: int, value: Fields) -> Preference:
    outputs = OLDER_OUTPUTS if any(name in value for name in OLDER_OUTPUTS) else NEWER_OUTPUTS
    must_know(value, ("input", *outputs))
    given = value.get("input")
    if not isinstance(given, dict):
        raise Faulty(
            "input",
            "missing_field" if given is None else "invalid_input",
            "it is missing" if given is None else f"expected an object, found {kind(given)}",
            'Write "input": {"messages": [...]}',
            given,
        )
    must_know(given, ("messages", "tools", "parallel_tool_calls", "functions"), at="input.")
    tools = read_tools(given)
    calls = calls_of(tools)
    asked = read_messages("input.messages", given.get("messages"), calls, trained=False)
    if asked[-1].role == "assistant":
        raise Faulty(
            f"input.messages[{len(asked) - 1}].role",
            "input_ends_in_answer",
            "the input ends with an assistant message, so there is nothing to answer",
            "End it with the user's message, and move the answer to the outputs",
        )
    preferred, non_preferred = (read_output(value, name, calls) for name in outputs)
    if preferred == non_preferred:
        raise Faulty(
            outputs[1],
            "same_outputs",
            f"`{outputs[0]}` and `{outputs[1]}` are the same, so neither is preferred",
            "Write two that differ, or remove the row",
        )
    parallel = read_parallel("input.parallel_tool_calls", given)
    return Preference(line, tuple(asked), tools, preferred, non_preferred, parallel)


def read_output(value: Fields, at: str, calls: Calls) -> tuple[ChatMessage, ...]:
    if value.get(at) is None:
        raise missing(at, f'"{at}": [{{"role": "assistant", "content": "..."}}]')
    seen = Calls(calls.names, set(calls.ids), dict(calls.latest))
    messages = read_messages(at, value[at], seen, trained=True)
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


def read_completion(line: int, value: Fields) -> Completion:
    must_know(value, ("prompt", "completion"))
    prompt, completion = (read_text(value, name) for name in ("prompt", "completion"))
    must_have_words("completion", completion)
    return Completion(line, prompt, completion)


def read_sharegpt(line: int, value: Fields) -> Chat:
    must_know(value, ("conversations", "system"))
    given = value["conversations"]
    if not isinstance(given, list) or not given:
        found = "an empty list" if given == [] else kind(given)
        raise Faulty(
            "conversations",
            "missing_messages",
            f"expected a list of turns, found {found}",
            'Write [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]',
            given,
        )
    turns = [read_turn(f"conversations[{index}]", turn) for index, turn in enumerate(given)]
    system = optional_text(value, "system")
    if system:
        if turns[0].role == "system":
            raise Faulty(
                "system",
                "two_systems",
                "the first turn is from 'system' too",
                "Keep one of the two",
                system,
            )
        turns.insert(0, ChatMessage("system", system, trained=False))
    must_end_in_an_answer("conversations", turns)
    return Chat(line, tuple(turns), format="sharegpt")


def read_turn(at: str, turn: object) -> ChatMessage:
    shape = 'Write {"from": "human", "value": "..."}'
    if not isinstance(turn, dict):
        raise Faulty(
            at, "message_not_an_object", f"expected an object, found {kind(turn)}", shape, turn
        )
    if "role" in turn and "from" not in turn:
        raise Faulty(
            f"{at}.role",
            "unknown_field",
            "`conversations` has turns with `from` and `value`",
            "Call the list `messages` if its items have `role` and `content`",
        )
    for name in turn:
        if name not in {"from", "value"}:
            raise unknown_field(f"{at}.{excerpt(name)}", "`from` and `value`")
    who = turn.get("from")
    if not isinstance(who, str) or who not in SHAREGPT_ROLES:
        found = "it is missing" if who is None else f"{excerpt(who)!r} is not a role"
        raise Faulty(
            f"{at}.from", "unrecognized_role", found, f"Use one of {', '.join(SHAREGPT_ROLES)}"
        )
    said = turn.get("value")
    if not isinstance(said, str):
        raise Faulty(
            f"{at}.value",
            "missing_content",
            f"expected text, found {kind(said)}" if "value" in turn else "it is missing",
            shape,
            said,
        )
    role = SHAREGPT_ROLES[who]
    return ChatMessage(role, said, trained=role == "assistant")


def read_alpaca(line: int, value: Fields) -> Chat:
    must_know(value, ("instruction", "input", "output", "system"))
    instruction, output = (read_text(value, name) for name in ("instruction", "output"))
    given, system = (optional_text(value, name) for name in ("input", "system"))
    must_have_words("output", output)
    messages = [
        ChatMessage("user", f"{instruction}\n\n{given}" if given else instruction, trained=False),
        ChatMessage("assistant", output, trained=True),
    ]
    if system:
        messages.insert(0, ChatMessage("system", system, trained=False))
    return Chat(line, tuple(messages), format="alpaca")


def read_plain(line: int, value: Fields) -> Text:
    must_know(value, ("text",))
    text = read_text(value, "text")
    must_have_words("text", text)
    return Text(line, text)


# The first of these that a row has decides. `input` is Alpaca's, too, beside its `instruction`.
READERS: dict[str, Callable[[int, Fields], Row]] = {
    "messages": read_chat,
    "conversations": read_sharegpt,
    **dict.fromkeys((*NEWER_OUTPUTS, *OLDER_OUTPUTS), read_preference),
    "prompt": read_completion,
    "completion": read_completion,
    "instruction": read_alpaca,
    "output": read_alpaca,
    "input": read_preference,
    "text": read_plain,
}


def calls_of(tools: tuple[dict[str, Any], ...]) -> Calls:
    return Calls(frozenset(tool["function"]["name"] for tool in tools) if tools else None)


def must_know(value: Fields, known: tuple[str, ...], at: str = "") -> None:
    for name in value:
        if name not in known:
            raise unknown_field(f"{at}{excerpt(name)}", quoted(known))


def missing(field: str, example: str) -> Faulty:
    return Faulty(field, "missing_field", "it is missing", f"Add {example} to the row")


def read_text(value: Fields, name: str) -> str:
    if name not in value:
        raise missing(name, f'"{name}": "..."')
    text = value[name]
    if not isinstance(text, str):
        raise not_a_string(name, text)
    return text


def optional_text(value: Fields, name: str) -> str:
    return "" if value.get(name) is None else read_text(value, name)


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
