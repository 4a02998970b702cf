"""`tunery chat`: a conversation with a model, or with two that are asked the same."""

import asyncio
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tunery.cli.access import Access, NoAccess, find
from tunery.cli.answers import Answer, Request, show
from tunery.cli.chat import ITS_BASE
from tunery.cli.profile import BrokenProfile
from tunery.cli.show import plain, print_json
from tunery.cli.verbs import verbs
from tunery.cli.watch import INTERRUPTED

COMMANDS = (
    "/reset begins anew, /system TEXT sets the system prompt, /quit ends. Ctrl-C ends an answer."
)
COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)


def run(
    model: str,
    question: str | None,
    *,
    vs: str | None,
    system: str | None,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    """Without a question it is read from a pipe, or asked for again and again in a terminal."""
    try:
        access = find()
    except (NoAccess, BrokenProfile) as error:
        sys.exit(f"tunery: {error}")
    talks = question is None and sys.stdin.isatty()
    if talks and as_json:
        sys.exit("tunery: --json answers one question: give it, or pipe it in.")
    if question is None and not talks:
        question = sys.stdin.read().strip()
    if not talks and not question:
        sys.exit("tunery: there is no question: give it behind the model's name, or pipe it in.")
    models = [model, base_of(model) if vs == ITS_BASE else vs] if vs else [model]
    chat = Chat(access, models, system, settings)
    if question is None:
        with verbs() as ask:
            for name in models:
                ask.get_model(name)  # which says so if there is none
        chat.talk()
    elif as_json:
        chat.print_answers(question)
    else:
        chat.answer_once(question)


def base_of(model: str) -> str:
    with verbs() as ask:
        base: str | None = ask.get_model(model).get("base_model")
    if base is None:
        sys.exit(f"tunery: {model} is a base model itself: name another to compare it with.")
    return base


class Chat:
    """A conversation with each of the models, which goes on from that model's own answers."""

    def __init__(
        self, access: Access, models: Sequence[str], system: str | None, settings: dict[str, Any]
    ) -> None:
        self.access = access
        self.models = models
        self.system = system
        self.settings = settings
        self.said: dict[str, list[dict[str, str]]] = {name: [] for name in models}

    def request(self, model: str, question: str) -> Request:
        first = [{"role": "system", "content": self.system}] if self.system else []
        asked = {"role": "user", "content": question}
        return {"messages": [*first, *self.said[model], asked], **self.settings}

    def print_answers(self, question: str) -> None:
        with verbs() as ask:
            ask.client.max_retries = 0
            found = [
                ask.post("/chat/completions", {"model": name, **self.request(name, question)})
                for name in self.models
            ]
        print_json(found[0] if len(found) == 1 else {"object": "list", "data": found})

    def answer_once(self, question: str) -> None:
        with asyncio.Runner() as runner, suppress(KeyboardInterrupt):
            answers = self.ask(runner, question)
            sys.exit(1 if any(answer.error for answer in answers) else 0)
        sys.exit(INTERRUPTED)

    def talk(self) -> None:
        with suppress(ImportError):
            import readline  # noqa: F401, PLC0415 - it gives `input` a history
        console = plain()
        console.print(COMMANDS, style="dim")
        with asyncio.Runner() as runner:
            while True:
                try:
                    line = input("> ").strip()
                except EOFError:
                    console.print()
                    return
                except KeyboardInterrupt:
                    console.print()
                    sys.exit(INTERRUPTED)
                if command := COMMAND.fullmatch(line):
                    match command.groups():
                        case ("quit", None):
                            return
                        case ("reset", None):
                            self.said = {name: [] for name in self.models}
                        case ("system", text):
                            self.system = text
                        case _:
                            console.print(COMMANDS, style="dim")
                elif line:
                    with suppress(KeyboardInterrupt):  # what was said stays
                        self.ask(runner, line)

    def ask(self, runner: asyncio.Runner, question: str) -> list[Answer]:
        """Shows the answers as they come. Raises `KeyboardInterrupt` when they are broken off."""
        answers = [Answer(name) for name in self.models]
        requests = [self.request(name, question) for name in self.models]
        try:
            runner.run(self.answered(answers, requests))
        finally:
            for answer in answers:
                if answer.text and not answer.error:
                    self.said[answer.model] += [
                        {"role": "user", "content": question},
                        {"role": "assistant", "content": answer.text},
                    ]
        return answers

    async def answered(self, answers: Sequence[Answer], requests: Sequence[Request]) -> None:
        async with self.access.asking_client() as client:
            await show(self.access, client, answers, requests)
