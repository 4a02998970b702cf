"""What the models before and after the training answer to held-out rows, for a grader. They are
asked as their users will ask them, and always say what is likeliest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
import torch
from torch import Tensor

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
from worker.engine.answers.rows import Rows, Voice
from worker.engine.data.reading import TokenRows
from worker.engine.device import device_memory, free_cached, is_out_of_memory
from worker.engine.model.base import Base, BaseFolder
from worker.engine.training.prepare import tokenizer_of
from worker.engine.training.slot import Answered, Slot
from worker.protocol import Train

MOST_AT_ONCE = 16
# Of the device's memory, what the tokens that are answered may take beside the training.
MEMORY_SHARE = 0.05


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

    @torch.no_grad()
    def ask(self, slot: Slot, base: Base, stop_if_asked: Callable[[], None]) -> list[Answered]:
        """What the model says now to each of them, fewer at once where memory is short."""
        slot.model.eval()
        voice, answers = Voice(base), list[Answered]()
        most = MOST_AT_ONCE if voice.batched else 1
        while rest := self.questions[len(answers) :]:
            batch = rest[: min(most, room_for(rest[:most], self.max_tokens, base))]
            try:
                said = go_on(voice, batch, self.max_tokens, base, stop_if_asked)
            except Exception as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                most = len(batch) // 2
            else:
                answers += map(self.read, batch, said)
                continue
            # Not in the handler, whose traceback holds on to the tensors.
            free_cached()
        return answers

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


def room_for(questions: Sequence[Question], max_tokens: int, base: Base) -> int:
    """How many of them may be answered at once; at least one."""
    shape = base.folder.shape
    token = 2 * shape.layers * shape.kv_heads * shape.head_dim * base.model.dtype.itemsize
    longest = max(len(question.prompt.ids) for question in questions) + max_tokens
    return max(1, int(MEMORY_SHARE * device_memory() // (longest * token)))


def go_on(
    voice: Voice,
    questions: Sequence[Question],
    max_tokens: int,
    base: Base,
    stop_if_asked: Callable[[], None],
) -> list[list[int]]:
    """The likeliest tokens after each prompt, until one that ends it comes, or `max_tokens` have,
    or the model has no more positions. Each prompt is read alone.
    """
    device, context = base.model.device, base.folder.context_length
    said: list[list[int]] = [[] for _ in questions]
    parts: list[Rows] = []
    going: list[int] = []

    def take(numbers: list[int], states: Tensor) -> list[int]:
        """The next tokens, from states (rows, width); the places of the rows that go on."""
        stop_if_asked()
        on = []
        tokens = voice.logits(states).argmax(dim=-1).tolist()
        for place, (number, token) in enumerate(zip(numbers, tokens, strict=True)):
            question = questions[number]
            if token in question.ends:
                continue
            said[number].append(token)
            used = len(question.prompt.ids) + len(said[number])
            if len(said[number]) < max_tokens and used < context:
                on.append(place)
        return on

    for number, question in enumerate(questions):
        rows = voice.empty()
        ids = torch.tensor([question.prompt.ids], device=device)
        if take([number], voice.states(rows, ids)[:, -1]):
            going.append(number)
            parts.append(rows)
    if not parts:
        return said
    rows = Rows.together(parts) if len(parts) > 1 else parts[0]
    while going:
        ids = torch.tensor([[said[number][-1]] for number in going], device=device)
        on = take(going, voice.states(rows, ids)[:, -1])
        if on and len(on) < len(going):
            rows = rows.kept(on)
        going = [going[place] for place in on]
    return said


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
