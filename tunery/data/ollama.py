"""A chat template in Ollama's words: Go's text/template over `.Messages`.

Jinja says more than Go's templates do. What nearly all chat templates say is what stands before and
after a message of each role, and that is found by rendering marked messages and looking what lies
between the marks. It is believed only if the pieces, put together again, give what the template
itself does.

`python -m tunery.data.ollama FOLDER` prints why there are no words for a base model's template, if
so: in a process of its own, because a template is a program and need not end.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunery.data.jinja import TemplateError
from tunery.data.said import Said
from tunery.data.template import ChatTokenizer

SYSTEM, USER, ANSWER = "Sq7system", "Uq7user{}", "Aq7answer{}"

Messages = list[dict[str, str]]


SECONDS = 10


class NotInOllamasWords(ValueError):
    """The template does more than to enclose messages by their roles; the text says what."""


@dataclass(frozen=True)
class Pieces:
    """What comes before and after a message: `system`, which is the first or none, `user`, up to
    where the model takes over, and `answer`. `lead` opens a conversation without a system message.
    Without the opening token (BOS), which Ollama writes itself.
    """

    lead: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    answer: tuple[str, str]

    def say(self, messages: Sequence[dict[str, str]]) -> str:
        """A conversation that ends in a question, as Ollama renders it."""
        said = "" if messages[0]["role"] == "system" else self.lead
        for message in messages:
            match message["role"]:
                case "system":
                    before, after = self.system or ("", "")
                case "user":
                    before, after = self.user
                case _:
                    before, after = self.answer
            said += before + message["content"] + after
        return said

    def template(self) -> str:
        """Every text in it is a string of Go's: nothing depends on white space between them."""
        first = ""
        if self.lead:
            first = '{{ if and (eq $i 0) (ne .Role "system") }}' + literal(self.lead) + "{{ end }}"
        roles = [("user", *self.user), ("assistant", *self.answer)]
        if self.system:
            roles.insert(0, ("system", *self.system))
        cases = "{{ else ".join(
            f'if eq .Role "{role}" }}}}{literal(before)}{{{{ .Content }}}}{literal(after)}'
            for role, before, after in roles
        )
        return "{{ range $i, $_ := .Messages }}" + first + "{{ " + cases + "{{ end }}{{ end }}"


def literal(text: str) -> str:
    """JSON's strings are Go's, if all that can be written as itself is."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def pieces_of(tokenizer: ChatTokenizer) -> Pieces:
    """Raises `NotInOllamasWords`."""
    bos = tokenizer.special.get("bos_token", "")

    def between(messages: Messages, *, asks: bool = False) -> list[str]:
        text = rendered(tokenizer, messages, asks=asks)
        parts = []
        for message in messages:
            part, mark, text = text.partition(message["content"])
            if not mark:
                raise NotInOllamasWords(f"it does not write a {message['role']} message as it is")
            parts.append(part)
        return [parts[0].removeprefix(bos), *parts[1:], text]

    opening, to_answer, to_question, again, after = between(talk(2))
    asking = between(talk(1)[:1], asks=True)[1]
    if to_answer != again or not to_answer.startswith(asking):
        raise NotInOllamasWords("what stands before an answer depends on which answer it is")
    before_question = to_question.removeprefix(after)
    if not opening.endswith(before_question):
        raise NotInOllamasWords("the first question is written in another way than the next")
    pieces = Pieces(
        lead=opening.removesuffix(before_question),
        system=None,
        user=(before_question, asking),
        answer=(to_answer.removeprefix(asking), after),
    )
    try:
        before_system, from_system, *_ = between([said("system", SYSTEM), *talk(1)])
    except NotInOllamasWords:
        found = pieces  # a model that knows no system message is one without
    else:
        if not from_system.endswith(before_question):
            raise NotInOllamasWords("a system message changes how the question after it is written")
        around = (before_system, from_system.removesuffix(before_question))
        found = replace(pieces, system=around)
    for messages in conversations(found):
        if rendered(tokenizer, messages, asks=True).removeprefix(bos) != found.say(messages):
            raise NotInOllamasWords("it writes some conversations in another way than others")
    return found


def conversations(pieces: Pieces) -> list[Messages]:
    """Ending in a question; of several turns, with odd texts in them, with a system message."""
    odd = [
        said("user", 'Say "{{ .Content }}"\nand\t\\n, please: é 日本'),
        said("assistant", "<b>{% no %}</b> \\ 'x'"),
        said("user", "Again?"),
    ]
    plain = [talk(turns)[:-1] for turns in (1, 2, 3)] + [odd]
    with_system = [[said("system", "Be brief.\n\nBe kind."), *each] for each in plain]
    return plain + (with_system if pieces.system else [])


def stops_of(tokenizer: ChatTokenizer, pieces: Pieces | None) -> list[str]:
    """The texts of the tokens that end an answer: those that follow it, and EOS."""
    after = pieces.answer[1] if pieces else ""
    ending = [text for text in tokenizer.control_tokens.number if text in after]
    eos = tokenizer.special.get("eos_token")
    return list(dict.fromkeys([*ending, *([eos] if eos else [])]))


def not_for_ollama(folder: Path) -> str | None:
    """Why Ollama has no words for the chat template of the base model in the folder, if so."""
    ask = [sys.executable, "-m", "tunery.data.ollama", str(folder)]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return f"it takes longer than {SECONDS} seconds to render"
    return done.stdout.strip() or None


def rendered(tokenizer: ChatTokenizer, messages: Messages, *, asks: bool) -> str:
    try:
        said = Said(list(messages), None, (False,) * len(messages))
        return tokenizer.write(said, add_generation_prompt=asks).text
    except TemplateError as error:
        raise NotInOllamasWords(str(error)) from error


def talk(turns: int) -> Messages:
    return [
        message
        for turn in range(turns)
        for message in (said("user", USER.format(turn)), said("assistant", ANSWER.format(turn)))
    ]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


if __name__ == "__main__":
    chat_tokenizer = ChatTokenizer(Path(sys.argv[1]))
    if chat_tokenizer.template is not None:
        try:
            pieces_of(chat_tokenizer)
        except NotInOllamasWords as reason:
            sys.stdout.write(str(reason))
