"""How a chat template writes a call of a function, found by having it write one; and the calls in
what a model says, read in that form.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tunery.completions import ToolCall
from tunery.data.bounds import TemplateTooCostly
from tunery.data.jinja import TemplateError
from tunery.data.said import Said
from tunery.data.template import ChatTokenizer

# What no template writes by itself.
NAME, KEY, VALUE, CONTENT = "nameofthis", "keyofthis", "valueofthis", "contentofthis"
ARGUMENTS = ("arguments", "parameters")
CALL_ID = "call12345"
CALL = {
    "id": CALL_ID,
    "type": "function",
    "function": {"name": NAME, "arguments": {KEY: VALUE}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "?",
        "parameters": {"type": "object", "properties": {KEY: {"type": "string"}}},
    },
}
DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class CallForm:
    """A call is a JSON object with its name and its arguments, between `opening` and `closing`.
    Before its name the template writes `before_name`, between name and arguments
    `before_arguments`; None: the arguments come first, or the answer begins with something else.
    """

    opening: str
    closing: str
    before_name: str | None
    before_arguments: str

    @property
    def marker(self) -> str:
        """A text at which a call may begin."""
        found = re.match(r"\s*(\W*\w+)", self.opening)
        return found[1] if found else "{"

    @cached_property
    def begins(self) -> re.Pattern[str]:
        """Spaces are the model's own."""
        return re.compile(spaced(self.opening) or r"\A\s*(?=\{)")

    @cached_property
    def between(self) -> re.Pattern[str]:
        around = [spaced(each) for each in (self.opening, self.closing) if each]
        return re.compile("|".join([r"[\s,;]+", *around]))

    def begin(self, name: str | None) -> str | None:
        """What an answer begins with that calls this function, or any. None: the form has no such
        beginning.
        """
        if self.before_name is None:
            return None
        begun = self.opening + self.before_name
        return begun if name is None else begun + name + self.before_arguments

    def calls_in(self, text: str, functions: frozenset[str]) -> tuple[str, list[ToolCall]]:
        """What is said beside the calls, and the calls of known functions. A text whose calls
        cannot be read is all said.
        """
        begin = self.begins.search(text)
        if begin is None:
            return text, []
        at, calls = begin.end(), list[ToolCall]()
        while True:
            while skipped := self.between.match(text, at):
                at = skipped.end()
            if not text.startswith("{", at):
                break
            try:
                value, at = DECODER.raw_decode(text, at)
            except (json.JSONDecodeError, RecursionError):
                return text, []
            call = call_of(value, functions)
            if call is None:
                return text, []
            calls.append(call)
        if not calls:
            return text, []
        rest = text[at:].strip()
        if self.closing.startswith(rest):  # cut off in it
            rest = ""
        return text[: begin.start()].rstrip() + rest, calls


def spaced(text: str) -> str:
    """A pattern of the text with any spaces between its words and signs."""
    return r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", text)))


def call_of(value: Any, functions: frozenset[str]) -> ToolCall | None:  # noqa: ANN401
    if not isinstance(value, dict) or value.get("name") not in functions:
        return None
    arguments: Any = next((value[name] for name in ARGUMENTS if name in value), {})
    if not isinstance(arguments, dict):
        return None
    return ToolCall(name=value["name"], arguments=json.dumps(arguments, ensure_ascii=False))


def call_form(tokenizer: ChatTokenizer) -> CallForm | None:
    """None: the template writes no calls, or not in JSON."""
    question = {"role": "user", "content": "?"}

    def written(answer: dict[str, Any]) -> str:
        said = Said([question, {"role": "assistant", **answer}], [TOOL], (False, False))
        return tokenizer.write(said).text

    with suppress(TemplateError, TemplateTooCostly):
        asked = Said([question], [TOOL], (False,))
        begun = tokenizer.write(asked, add_generation_prompt=True).text
        before, found, _ = written({"content": CONTENT}).partition(CONTENT)
        whole = written({"content": "", "tool_calls": [CALL]})
        if found and whole.startswith(before):
            return form_in(whole, len(before), tokenizer, forced=whole.startswith(begun))
    return None


def form_in(whole: str, start: int, tokenizer: ChatTokenizer, *, forced: bool) -> CallForm | None:
    """The form of the call in the answer that begins at `start`."""
    for brace in re.finditer(r"\{", whole[start:]):
        at = start + brace.start()
        try:
            value, end = DECODER.raw_decode(whole, at)
        except json.JSONDecodeError:
            continue
        if call_of(value, frozenset({NAME})) is None or {KEY: VALUE} not in value.values():
            return None
        written = whole[at:end]
        name, arguments = written.index(NAME), written.index("{", 1)
        tail = tokenizer.control_tokens.pattern.split(whole[end:], maxsplit=1)[0]
        ordered = forced and name < arguments
        return CallForm(
            opening=whole[start:at],
            closing=tail.replace(CALL_ID, "").strip(),
            before_name=written[:name] if ordered else None,
            # Its last space is the first of the arguments' tokens.
            before_arguments=written[name + len(NAME) : arguments].rstrip() if ordered else "",
        )
    return None
