"""Completions for the engine, answered in this process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tunery.base_model import files_of
from tunery.completions import ChatPrompt, CompletionPart, Refusal, Sampling, TextPrompt, TokenSaid
from worker.engine.answers.answering import Answers
from worker.engine.model.base import WarmBase
from worker.protocol import Complete, Report, Said

NUMBERS = count()


def complete(folder: Path, prompt: ChatPrompt | TextPrompt | str, **asked: Any) -> Complete:
    """On the base model in the folder; what `Complete` does not have is its sampling's."""
    text = TextPrompt(text=prompt) if isinstance(prompt, str) else prompt
    sampling = {name: value for name, value in asked.items() if name in Sampling.model_fields}
    others = {name: value for name, value in asked.items() if name not in sampling}
    return Complete(
        **{
            "completion_id": f"cmpl-{next(NUMBERS)}",
            "token": 1,
            "base_model": "tunery/tiny",
            "base_revision": "r1",
            "base_folder": folder,
            "base_files": files_of(folder),
            "cache": folder,
            "quantization": None,
            "double_quant": True,
            "adapter": None,
            "chat_template": None,
            "prompt": text,
            "sampling": Sampling(**{"temperature": 0, "max_tokens": 8} | sampling),
        }
        | others
    )


@dataclass
class Heard:
    """What was told of one completion, put together."""

    parts: list[CompletionPart] = field(default_factory=list)

    @property
    def over(self) -> bool:
        last = self.parts[-1] if self.parts else None
        return last is not None and bool(last.usage or last.refusal or last.released)

    @property
    def refusal(self) -> Refusal:
        assert self.parts[-1].refusal
        return self.parts[-1].refusal

    def text(self, choice: int = 0) -> str:
        pieces = [piece for part in self.parts for piece in part.pieces]
        return "".join(piece.text for piece in pieces if piece.choice == choice)

    def tokens(self, choice: int = 0) -> list[TokenSaid]:
        pieces = [piece for part in self.parts for piece in part.pieces if piece.choice == choice]
        return [token for piece in pieces for token in piece.tokens]

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens()]

    @property
    def reasons(self) -> list[str]:
        ends = [end for part in self.parts for end in part.ends]
        return [end.reason for end in sorted(ends, key=lambda end: end.choice)]


class Asking:
    """The answers of an engine on this warm base."""

    def __init__(self, warm: WarmBase, share: float = 0.05) -> None:
        self.told: dict[str, Heard] = {}
        self.answers = Answers(warm, self.hear, lambda: None, share)

    def hear(self, report: Report) -> None:
        assert isinstance(report, Said)
        heard = self.told.setdefault(report.completion_id, Heard())
        assert report.part.number == len(heard.parts)
        assert not heard.over
        heard.parts.append(report.part)

    def take(self, command: Complete) -> Heard:
        self.answers.take(command)
        return self.told.setdefault(command.completion_id, Heard())

    def all(self, *commands: Complete, between: Callable[[], None] = lambda: None) -> list[Heard]:
        """The answers to all of them, at once."""
        heard = [self.take(command) for command in commands]
        while self.answers.busy:
            self.answers.work()
            between()
        assert all(each.over for each in heard)
        return heard
