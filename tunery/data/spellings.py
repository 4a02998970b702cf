"""The spellings in which people have their rows, written anew as the few that `tunery.data.formats`
reads: OpenAI's chats and preferences, a prompt with a completion, a text.

What no format needs is left out and named. What carries meaning and cannot be trained on is a
fault, never left out.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from tunery.data.rows import Faulty, Format, Several, excerpt, kind, quoted
from tunery.data.spelled_turns import TURN_LISTS, read_turns, system_text

Fields = dict[str, Any]

CHAT = {"messages", "tools", "parallel_tool_calls", "functions"}
NEWER_OUTPUTS = ("preferred_output", "non_preferred_output")
OLDER_OUTPUTS = ("preferred_completion", "non_preferred_completion")
CHOSEN = ("chosen", "chosen_response", "response_chosen", "preferred", "winner")
REJECTED = ("rejected", "rejected_response", "response_rejected", "dispreferred", "loser")
LABELS = ("label", "kto_tag")
JUDGEMENTS = (True, False, "true", "false", "True", "False")  # 1 and 0 are the same as the first
MEDIA = ("images", "image", "videos", "video", "audios", "audio")

QUESTIONS = ("instruction", "question", "prompt", "query", "input", "problem")
ANSWERS = ("output", "response", "answer", "completion", "solution")
SYSTEMS = ("system", "system_prompt")

Kind = Literal["chat", "preference", "completion", "text"]


@dataclass
class Spelled:
    """A row as a reader takes it. `at` is what the row calls its messages; `left_out` are the
    fields that no format needs, and other things that are not trained.
    """

    kind: Kind
    format: Format
    fields: Fields
    at: str = "messages"
    left_out: list[str] = field(default_factory=list)


def spell(value: Fields, several: Several) -> Spelled:
    """Notes the faults of turns. Raises Faulty for a row that is no format's, or that has what no
    format can train.
    """
    if "messages" in value and value.keys() <= CHAT:
        return turns(value, several)
    for name in MEDIA:
        if value.get(name):
            raise Faulty(
                name,
                "media_not_offered",
                "the row has images, audio or video, which training is not offered on",
                "Choose a data set of text, or rows without them",
                value[name],
            )
    refuse_labels(value)
    outputs = (*NEWER_OUTPUTS, *OLDER_OUTPUTS)
    if any(name in value for name in outputs) or isinstance(value.get("input"), dict):
        return openai_preference(value)
    if any(name in value for name in CHOSEN) and any(name in value for name in REJECTED):
        return preference(value, several)
    if any(name in value for name in TURN_LISTS):
        return turns(value, several)
    if {"prompt", "completion"} <= value.keys():
        return prompt_and_completion(value, several)
    if any(name in value for name in ANSWERS) and any(name in value for name in QUESTIONS):
        return question_and_answer(value, several)
    if "text" in value:
        return Spelled("text", "text", {"text": value["text"]}, left_out=rest(value, {"text"}))
    for reader in ("prompt", "completion"):
        if reader in value:
            return prompt_and_completion(value, several)
    if any(name in value for name in (*QUESTIONS, *ANSWERS)):
        return question_and_answer(value, several)
    names = tuple(excerpt(name)[:20] for name in value)[:8]
    raise Faulty(
        "messages",
        "missing_messages",
        f"it has {quoted(names)}, which is no format that is known" if names else "it is empty",
        'Write {"messages": [...]} or {"prompt": "...", "completion": "..."}',
        value,
    )


def is_known(names: Collection[str]) -> bool:
    """Whether a row with these fields is one of a format that is known."""
    there = set(names)
    return (
        bool(there & {*TURN_LISTS, *NEWER_OUTPUTS, *OLDER_OUTPUTS, "text"})
        or {"prompt", "completion"} <= there
        or bool(there & set(CHOSEN) and there & set(REJECTED))
        or bool(there & set(QUESTIONS) and there & set(ANSWERS))
    )


def rest(value: Fields, used: set[str]) -> list[str]:
    """The fields that are left out; those that are empty have nothing to say."""
    return [excerpt(name) for name in value if name not in used]


def refuse_labels(value: Fields) -> None:
    """A judgement on one answer, as KTO learns from: not trained as an answer to be learnt."""
    if not value.keys() & {*TURN_LISTS, *ANSWERS}:
        return  # a text's label is of some other use
    for name in LABELS:
        if value.get(name) in JUDGEMENTS:
            raise Faulty(
                name,
                "kto_not_offered",
                "the row says whether its answer is good, which the method KTO learns from and "
                "none that is offered here",
                "Give the good and the bad answer to a question in one row, as `chosen` and "
                "`rejected`, and train with the method dpo; or make a file of the good answers",
                value[name],
            )


def turns(value: Fields, several: Several) -> Spelled:
    """A list of turns, whatever it and they are called."""
    at = next(name for name in TURN_LISTS if name in value)
    used = {at, "tools", "functions", "parallel_tool_calls", *SYSTEMS, "systemInstruction"}
    left_out = rest(value, used)
    given = read_turns(at, value[at], left_out, several)
    messages = with_system(value, given.messages, left_out)
    fields: Fields = {"messages": messages}
    for name in ("tools", "functions", "parallel_tool_calls"):
        if value.get(name) is not None:
            fields[name] = value[name]
    if at != "messages":
        messages = fields["messages"] = until_last_answer(messages, left_out)
    return Spelled("chat", given.format, fields, at, left_out)


def with_system(value: Fields, messages: Any, left_out: list[str]) -> Any:  # noqa: ANN401
    """The messages behind the row's system prompt, if it has one beside them."""
    name = next((name for name in (*SYSTEMS, "systemInstruction") if value.get(name)), None)
    if name is None or not isinstance(messages, list) or not messages:
        return messages
    system = system_text(name, value[name])
    first = messages[0]
    if isinstance(first, dict) and first.get("role") in {"system", "developer"}:
        if first.get("content") == system:
            left_out.append(name)
            return messages
        raise Faulty(
            name,
            "two_systems",
            "the first turn is from 'system' too",
            "Keep one of the two",
            system,
        )
    return [{"role": "system", "content": system}, *messages] if system else messages


def until_last_answer(messages: Any, left_out: list[str]) -> Any:  # noqa: ANN401
    """Without the turns that nobody answers."""
    if not isinstance(messages, list):
        return messages
    length = len(messages)
    while length and not is_from_model(messages[length - 1]):
        length -= 1
    if not length or length == len(messages):
        return messages
    left_out.append("turns behind the last answer")
    return messages[:length]


def openai_preference(value: Fields) -> Spelled:
    outputs = OLDER_OUTPUTS if any(name in value for name in OLDER_OUTPUTS) else NEWER_OUTPUTS
    known = {"input", *outputs}
    fields = {name: each for name, each in value.items() if name in known}
    return Spelled("preference", "preference", fields, left_out=rest(value, known))


def preference(value: Fields, several: Several) -> Spelled:
    """TRL's five spellings, and those of UltraFeedback, LLaMA-Factory and hh-rlhf."""
    chosen_at = next(name for name in CHOSEN if name in value)
    rejected_at = next(name for name in REJECTED if name in value)
    used = {chosen_at, rejected_at, "tools", *SYSTEMS}
    left_out: list[str] = []
    answers = [answer(name, value[name], left_out, several) for name in (chosen_at, rejected_at)]
    asked_at = next((name for name in (*TURN_LISTS, *QUESTIONS) if value.get(name)), None)
    if asked_at in TURN_LISTS or (asked_at is not None and isinstance(value[asked_at], list)):
        asked = read_turns(asked_at, value[asked_at], left_out, several).messages
        used.add(asked_at)
    elif asked_at is not None:
        used |= {asked_at, *contexts_of(asked_at)}
        asked = [{"role": "user", "content": question(value, asked_at)}]
    else:
        asked = []
    if shared := common_beginning(*answers):
        asked = answers[0][:shared]
        answers = [each[shared:] for each in answers]
    if not isinstance(asked, list) or not asked or is_from_model(asked[-1]):
        raise Faulty(
            chosen_at,
            "missing_prompt",
            "the two answers have no question before them",
            'Add "prompt": "...", or begin both with the same messages',
            value[chosen_at],
        )
    for name, each in zip((chosen_at, rejected_at), answers, strict=True):
        if not each:
            raise Faulty(
                name, "nothing_to_train", "it has no answer", "Write the answer", value[name]
            )
    asked = with_system(value, asked, left_out)
    given: Fields = {"messages": asked}
    if value.get("tools"):
        given["tools"] = value["tools"]
    fields = dict(zip(NEWER_OUTPUTS, answers, strict=True)) | {"input": given}
    return Spelled("preference", "preference", fields, left_out=rest(value, used) + left_out)


def common_beginning(one: list[Any], other: list[Any]) -> int:
    """How many messages come before two whole conversations part; 0 of answers alone."""
    if not one or is_from_model(one[0]):
        return 0
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return min(same, len(one) - 1, len(other) - 1)


def is_from_model(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def answer(at: str, given: object, left_out: list[str], several: Several) -> list[Any]:
    """One answer as messages, with those before it if the row has them in it."""
    if isinstance(given, str):
        if (talk := anthropic_talk(given)) is not None:
            return talk
        return [{"role": "assistant", "content": given}]
    if isinstance(given, dict):
        given = [given]
    if not isinstance(given, list):
        raise Faulty(
            at,
            "not_a_string",
            f"expected text or messages, found {kind(given)}",
            "Write it as text",
        )
    messages: list[Any] = read_turns(at, given, left_out, several).messages
    return messages


def anthropic_talk(text: str) -> list[Any] | None:
    """The turns of hh-rlhf's texts, each behind an empty line and `Human:` or `Assistant:`."""
    if not text.startswith("\n\nHuman:"):
        return None
    messages: list[Any] = []
    for part in text.split("\n\nHuman:")[1:]:
        asked, *answers = part.split("\n\nAssistant:")
        messages.append({"role": "user", "content": asked.strip()})
        messages += [{"role": "assistant", "content": each.strip()} for each in answers]
    return messages


def prompt_and_completion(value: Fields, several: Several) -> Spelled:
    """Texts that are joined as they are; or TRL's, which are messages."""
    prompt, completion = value.get("prompt"), value.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        left_out = rest(value, {"prompt", "completion", "tools"})
        asked = read_turns("prompt", prompt, left_out, several).messages
        said = read_turns("completion", completion, left_out, several).messages
        asked = [{**each, "weight": 0} if is_from_model(each) else each for each in asked]
        fields: Fields = {"messages": [*asked, *said]}
        if value.get("tools"):
            fields["tools"] = value["tools"]
        return Spelled("chat", "chat", fields, "completion", left_out)
    known = {"prompt", "completion"}
    fields = {name: each for name, each in value.items() if name in known}
    return Spelled("completion", "completion", fields, left_out=rest(value, known))


def question_and_answer(value: Fields, several: Several) -> Spelled:
    """Alpaca's, Dolly's, OpenOrca's and the like: a question, with its context, and its answer."""
    asked_at = next((name for name in QUESTIONS if name in value), "instruction")
    said_at = next((name for name in ANSWERS if name in value), "output")
    used = {asked_at, said_at, "history", *contexts_of(asked_at), *SYSTEMS}
    for name in (asked_at, said_at):
        with several:
            if name not in value:
                found, mend = "it is missing", f'Add "{name}": "..." to the row'
                raise Faulty(name, "missing_field", found, mend)
            if not isinstance(value[name], str):
                raise Faulty(
                    name,
                    "not_a_string",
                    f"expected text, found {kind(value[name])}",
                    "Write it as a string",
                    value[name],
                )
    several.end()
    if not value[said_at].strip():
        raise Faulty(
            said_at,
            "nothing_to_train",
            f"the {said_at} is empty",
            "Write the text the model should learn, or remove the row",
        )
    messages = history(value.get("history"))
    messages.append({"role": "user", "content": question(value, asked_at)})
    messages.append({"role": "assistant", "content": value[said_at]})
    left_out = rest(value, used)
    messages = with_system(value, messages, left_out)
    format_: Format = "alpaca" if asked_at == "instruction" else "question"
    return Spelled("chat", format_, {"messages": messages}, said_at, left_out)


def contexts_of(asked_at: str) -> tuple[str, ...]:
    """What a question by that name may have beside it. Without an instruction, `input` is one."""
    return ("input", "context") if asked_at == "instruction" else ("context",)


def question(value: Fields, at: str) -> str:
    """With its context behind an empty line."""
    parts = [value[at]]
    for name in contexts_of(at):
        if (context := value.get(name)) is not None:
            if not isinstance(context, str):
                raise Faulty(
                    name,
                    "not_a_string",
                    f"expected text, found {kind(context)}",
                    "Write it as a string",
                    context,
                )
            parts.append(context or "")
    if not isinstance(parts[0], str):
        raise Faulty(
            at,
            "not_a_string",
            f"expected text, found {kind(parts[0])}",
            "Write it as a string",
            parts[0],
        )
    return "\n\n".join(part for part in parts if part) or ""


def history(given: object) -> list[Any]:
    """Alpaca's earlier turns: [question, answer] each."""
    messages: list[Any] = []
    if given is not None and not isinstance(given, list):
        found = f"expected a list of [question, answer], found {kind(given)}"
        raise Faulty("history", "invalid_history", found, 'Write [["question", "answer"]]', given)
    for index, pair in enumerate(given or []):
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        ):
            raise Faulty(
                f"history[{index}]",
                "invalid_history",
                "expected a question and its answer",
                'Write ["question", "answer"]',
                pair,
            )
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    return messages
