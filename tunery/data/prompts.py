"""From what a model is asked to token ids: by the template that its rows were rendered with. So a
prompt is what training encodes before an answer.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tunery.completions import ChatPrompt, Refusal, TextPrompt
from tunery.data.bounds import TemplateTooCostly
from tunery.data.calls import CONTENT, CallForm, call_form
from tunery.data.chat import read_messages
from tunery.data.jinja import TemplateError
from tunery.data.panics import panics_as
from tunery.data.rows import Chat, ChatMessage, Faulty, Several
from tunery.data.said import Said, forms
from tunery.data.template import ChatTokenizer
from tunery.data.tools import Calls, read_tools

NO_TOOLS = "tools_not_supported"
LETTER = "a"


class Unanswerable(Exception):
    """What is asked can never be answered, by its own fault. The message says how to mend it."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.refusal = Refusal(code=code, message=message, param=param)


@dataclass(frozen=True)
class Prompt:
    """`ids` end with `begun`, which the answer begins with. Where `functions` may be called, a call
    looks like `form`; with `one_call` the answer is one call and nothing else.
    """

    ids: list[int]
    begun: str = ""
    form: CallForm | None = None
    functions: frozenset[str] = frozenset()
    one_call: bool = False


def text_prompt(tokenizer: ChatTokenizer, asked: TextPrompt) -> Prompt:
    """As a prompt of a row without messages: with the tokenizer's opening tokens. Raises
    `Unanswerable`.
    """
    if asked.ids is not None:
        ids = asked.ids
    else:
        try:
            with panics_as(TemplateError):
                encoding = tokenizer.tokenizer.encode(asked.text or "")
        except TemplateError as error:
            raise Unanswerable("invalid_prompt", f"`prompt`: {error}.", "prompt") from error
        ids = list(encoding.ids)
        # It closes what it takes for whole; this goes on.
        end = tokenizer.tokenizer.token_to_id(tokenizer.special.get("eos_token", ""))
        if len(ids) > 1 and ids[-1] == end and encoding.special_tokens_mask[-1]:
            ids.pop()
    if not ids:
        raise Unanswerable("invalid_prompt", "`prompt` has no tokens. Write something.", "prompt")
    return Prompt(ids)


def chat_prompt(tokenizer: ChatTokenizer, asked: ChatPrompt) -> Prompt:
    """In the form nearest to the conversation that the template takes, and with what it writes
    before an answer.

    Raises:
        Unanswerable: messages or tools are faulty, or the template does not take them.

    """
    chat = read_chat(asked)
    said = Said.of(chat)
    typed = tokenizer.control_tokens.are_in([said.messages, said.tools])
    form: CallForm | None = None
    begun = ""
    try:
        if typed:
            said = tokenizer.hidden(said)
        text, said = written(tokenizer, said)
        if said.tools:
            form, begun = form_of(tokenizer, asked, said, text)
        ids = ids_before_answer(tokenizer, text + begun, typed=typed)
    except (TemplateError, TemplateTooCostly) as error:
        words = f"The model's chat template does not take `messages`: {error}."
        raise Unanswerable("invalid_messages", words, "messages") from error
    if any(call not in text for index in range(len(said.messages)) for call in said.called(index)):
        raise Unanswerable(
            NO_TOOLS,
            "The model's chat template does not write the calls in `messages`. Remove them.",
            "messages",
        )
    functions = frozenset(tool["function"]["name"] for tool in chat.tools)
    one_call = begun != "" and asked.tool_choice not in {"required", "auto"}
    return Prompt(ids, begun, form, functions, one_call)


def read_chat(asked: ChatPrompt) -> Chat:
    """By the rules for rows. Raises `Unanswerable`."""
    several = Several()
    messages: list[ChatMessage] = []
    try:
        given = [as_spelled(message) for message in asked.messages]
        with several:
            messages = read_messages("messages", given, Calls(), several, trained=False)
        several.end()
    except Faulty as fault:
        words = f"`{fault.field}`: {fault.reason}. {fault.mend}."
        raise Unanswerable("invalid_messages", words, "messages") from fault
    try:
        tools = read_tools({"tools": asked.tools}) if asked.tool_choice != "none" else ()
    except Faulty as fault:
        words = f"`{fault.field}`: {fault.reason}. {fault.mend}."
        raise Unanswerable("invalid_tools", words, "tools") from fault
    names = {tool["function"]["name"] for tool in tools}
    if asked.tool_choice not in {"auto", "none", "required", *names}:
        words = f"`tool_choice` names {asked.tool_choice!r}, which is none of the tools. Add it."
        raise Unanswerable("invalid_tool_choice", words, "tool_choice")
    if asked.tool_choice == "required" and not names:
        words = "`tool_choice` is required and there are no tools. Give some in `tools`."
        raise Unanswerable("invalid_tool_choice", words, "tool_choice")
    return Chat(0, tuple(messages), tools)


def as_spelled(message: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments as OpenAI spells them, where they are an object."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    spelled = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
            arguments = json.dumps(function["arguments"], ensure_ascii=False)
            call = {**call, "function": {**function, "arguments": arguments}}  # noqa: PLW2901
        spelled.append(call)
    return {**message, "tool_calls": spelled}


def written(tokenizer: ChatTokenizer, said: Said) -> tuple[str, Said]:
    """The prompt's text, and what of the conversation's forms the template takes. Raises what it
    says of the conversation as it is, if it takes none.
    """
    try:
        return begun_answer(tokenizer, said), said
    except TemplateError as error:
        for _, form in forms(said):
            with suppress(TemplateError):
                return begun_answer(tokenizer, form), form
        raise error from error.__cause__


def begun_answer(tokenizer: ChatTokenizer, said: Said) -> str:
    """With what the template writes before an answer: also where it is not made for a prompt, and
    where control tokens follow, which would end an answer (gpt-oss: the channel that it is in).
    """
    text = tokenizer.write(said, add_generation_prompt=True).text
    answer = {"role": "assistant", "content": CONTENT}
    answered = Said([*said.messages, answer], said.tools, (*said.trained, False))
    with suppress(TemplateError):
        before, found, _ = tokenizer.write(answered).text.rpartition(CONTENT)
        rest = before[len(text) :]
        if not found or not before.startswith(text):
            return text
        if tokenizer.control_tokens.pattern.search(rest):
            return before
        # Spaces are the answer's, whose first token may begin with them.
        if rest.strip() and text == tokenizer.write(said).text:
            return before
    return text


def ids_before_answer(tokenizer: ChatTokenizer, text: str, *, typed: bool) -> list[int]:
    """As they are before an answer that begins with a letter: some tokenizers cut the spaces at a
    text's end otherwise than those before a word.
    """
    ids, _ = tokenizer.tokens_of(text + LETTER, typed=typed)
    if tokenizer.tokenizer.id_to_token(ids[-1]) == LETTER:
        return ids[:-1]
    return tokenizer.tokens_of(text, typed=typed)[0]


def form_of(
    tokenizer: ChatTokenizer, asked: ChatPrompt, said: Said, text: str
) -> tuple[CallForm, str]:
    """How the answer calls a function, and what it begins with if it must."""
    if begun_answer(tokenizer, said._replace(tools=None)) == text:
        raise Unanswerable(
            NO_TOOLS,
            "The model's chat template does not show tools to the model. Leave `tools` out, or "
            "choose a model whose template knows them.",
            "tools",
        )
    form = call_form(tokenizer)
    if form is None:
        raise Unanswerable(
            NO_TOOLS,
            "The model's chat template writes calls in a form that is not read here: it is not "
            "a JSON object with a name and arguments. Leave `tools` out.",
            "tools",
        )
    if asked.tool_choice == "auto":
        return form, ""
    names = [tool["function"]["name"] for tool in said.tools or ()]
    only = names[0] if len(names) == 1 else None
    begun = form.begin(only if asked.tool_choice == "required" else asked.tool_choice)
    if begun is None:
        raise Unanswerable(
            "tool_choice_not_supported",
            "The model's chat template does not begin an answer with the name of a function, so "
            'that no call can be forced. Set `tool_choice` to "auto".',
            "tool_choice",
        )
    return form, begun
