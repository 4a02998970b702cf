"""What the models before and after the training answer to held-out rows, for a grader. They are
asked as their users will ask them, and always say what is likeliest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson

from tunery.completions import ChatPrompt
from tunery.data.bounds import renderings_bounded
from tunery.data.lines import row_of
from tunery.data.prompts import Prompt, Unanswerable, chat_prompt, text_prompt
from tunery.data.read import read_records
from tunery.data.rows import Fault, Row
from tunery.data.spoken import Spoken
from tunery.data.template import ChatTokenizer
from tunery.data.tokens import MEMORY_LIMIT_BYTES
from tunery.grading.rows import asked_of, function_of, prompt_of
from worker.engine.answers.asking import ends_of
from worker.engine.answers.completion import TOKENS_BEFORE
from worker.engine.answers.likeliest import Opening, likeliest
from worker.engine.data.reading import TokenRows
from worker.engine.model.base import Base, BaseFolder
from worker.engine.training.prepare import tokenizer_of
from worker.engine.training.slot import Answered, Slot
from worker.protocol import Train


@dataclass(frozen=True)
class Question:
    """A held-out row as it is asked. `item` is what a grader knows of the row: its own fields, and
    `messages` or `prompt` before the answer with the answer as `reference`. One of the tokens
    `ends` ends an answer.
    """

    line: int
    said: str
    item: dict[str, Any]
    prompt: Prompt
    ends: frozenset[int]


@dataclass
class Interview:
    """What both models are asked, if the job is to compare them: nothing else. `left_out` are rows
    that cannot be asked, by the reason.
    """

    tokenizer: ChatTokenizer
    max_tokens: int = 0
    questions: list[Question] = field(default_factory=list)
    left_out: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, order: Train, valid: TokenRows | None, folder: BaseFolder) -> Self:
        wanted = order.spec.evaluation
        if wanted is None or valid is None:
            return cls(folder.tokenizer)
        made = cls(tokenizer_of(order.spec, folder), wanted.max_tokens)
        lines = list(dict.fromkeys(valid.rows.store.lines))[: wanted.rows]
        with renderings_bounded(MEMORY_LIMIT_BYTES):
            for row, own in rows_at(order, set(lines)):
                made.add(row, own, folder)
        return made

    def add(self, row: Row, own: dict[str, Any], folder: BaseFolder) -> None:
        item, said = asked_of(row)
        try:
            prompt = encoded(row, self.tokenizer)
        except Unanswerable as error:
            self.left_out.setdefault(str(error), []).append(row.line)
            return
        if len(prompt.ids) >= folder.context_length:
            why = "The prompt leaves no room for an answer in the model's context."
            self.left_out.setdefault(why, []).append(row.line)
            return
        ends = ends_of(folder, self.tokenizer, prompt)
        self.questions.append(Question(row.line, said, own | item, prompt, ends))

    def ask(self, slot: Slot, base: Base, stop_if_asked: Callable[[], None]) -> list[Answered]:
        """What the model says now to each of them."""
        slot.model.eval()
        prompts = [Opening(question.prompt.ids, question.ends) for question in self.questions]
        said = likeliest(base, prompts, self.max_tokens, stop_if_asked)
        return list(map(self.read, self.questions, said))

    def read(self, question: Question, ids: list[int]) -> Answered:
        """The text as a completion has it, and the calls in it."""
        spoken = Spoken(self.tokenizer, question.prompt.ids[-TOKENS_BEFORE:])
        for token in ids:
            spoken.say(token)
        spoken.finish()
        if (form := question.prompt.form) is None:
            return Answered(spoken.text, [])
        text, calls = form.calls_in(spoken.text, question.prompt.functions)
        return Answered(text, [function_of(call) for call in calls])

    def write(self, slot: Slot, base: Base, path: Path, stop_if_asked: Callable[[], None]) -> None:
        """What the model said at first and says now, a row a line, for `worker.evaluation`."""
        if not self.questions:
            return
        before, now = slot.base_answers, self.ask(slot, base, stop_if_asked)
        with path.open("wb") as file:
            for question, first, last in zip(self.questions, before, now, strict=True):
                row = {
                    "line": question.line,
                    "prompt": question.said,
                    "item": question.item,
                    "base": first.text,
                    "base_calls": first.calls,
                    "tuned": last.text,
                    "tuned_calls": last.calls,
                }
                file.write(orjson.dumps(row) + b"\n")


def rows_at(order: Train, waiting: set[int]) -> Iterator[tuple[Row, dict[str, Any]]]:
    """The rows at those lines of the file that is validated on, each with its own fields."""
    path, data = order.training_file, order.spec.training_file
    if order.validation_file and order.spec.validation_file:
        path, data = order.validation_file, order.spec.validation_file
    for line, record in read_records(path, columns=data.columns):
        if line not in waiting:
            continue
        row = row_of(line, record, data.columns)
        own = orjson.loads(record) if isinstance(record, bytes) else record
        if isinstance(row, Fault) or isinstance(own, Fault):
            raise TypeError(f"line {line} was read before, and has a fault now")
        yield row, own
        waiting.remove(line)
        if not waiting:
            return


def encoded(row: Row, tokenizer: ChatTokenizer) -> Prompt:
    """Raises `Unanswerable`."""
    asked = prompt_of(row)
    if isinstance(asked, ChatPrompt):
        return chat_prompt(tokenizer, asked)
    return text_prompt(tokenizer, asked)
