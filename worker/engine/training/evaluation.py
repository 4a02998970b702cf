"""What the models before and after the training answer to held-out rows, for a grader."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson
import torch
from torch import Tensor

from tunery.data.bounds import renderings_bounded
from tunery.data.jinja import TemplateError
from tunery.data.lines import row_of
from tunery.data.read import read_records
from tunery.data.rows import Chat, ChatMessage, Completion, Fault, Preference, Row
from tunery.data.said import Said
from tunery.data.template import ChatTokenizer
from tunery.data.tokens import MEMORY_LIMIT_BYTES
from worker.engine.data.reading import TokenRows
from worker.engine.model.base import BaseFolder
from worker.engine.training.prepare import tokenizer_of
from worker.engine.training.samples import go_on
from worker.engine.training.slot import Answered, Slot
from worker.protocol import Train


@dataclass(frozen=True)
class Question:
    """A held-out row as it is asked: `ids` (tokens,) int64 end where an answer begins. `item` is
    what a grader knows of the row: its own fields, and `messages` or `prompt` before the answer
    with the answer as `reference`.
    """

    line: int
    prompt: str
    item: dict[str, Any]
    ids: Tensor


@dataclass(frozen=True)
class Interview:
    """What both models are asked, if the job is to compare them: nothing else."""

    questions: Sequence[Question]
    tokenizer: ChatTokenizer
    max_tokens: int = 0

    @classmethod
    def of(cls, order: Train, valid: TokenRows | None, folder: BaseFolder) -> Self:
        """A row whose prompt leaves no room for an answer in the model's context is not asked."""
        wanted = order.spec.evaluation
        if wanted is None or valid is None:
            return cls((), folder.tokenizer)
        tokenizer, lines = tokenizer_of(order.spec, folder), valid.rows.store.lines
        chosen = list(dict.fromkeys(lines))[: wanted.rows]
        questions = questions_of(order, set(chosen), tokenizer)
        context = folder.context_length
        asked = [one for one in questions if len(one.ids) < context]
        return cls(asked, tokenizer, wanted.max_tokens)

    @torch.no_grad()
    def ask(self, slot: Slot, stop_if_asked: Callable[[], None]) -> list[Answered]:
        """What the model says now to each of them: the likeliest token, again and again."""
        slot.model.eval()
        ends, most = self.tokenizer.control_tokens.ids, self.max_tokens
        said = [go_on(slot, one.ids, ends, stop_if_asked, most) for one in self.questions]
        return [Answered(self.tokenizer.text_of(ids), []) for ids in said]

    def write(self, slot: Slot, path: Path, stop_if_asked: Callable[[], None]) -> None:
        """What the model said at first and says now, a row a line, for `worker.evaluation`."""
        if not self.questions:
            return
        before, now = slot.base_answers, self.ask(slot, stop_if_asked)
        with path.open("wb") as file:
            for question, base, tuned in zip(self.questions, before, now, strict=True):
                row = {
                    "line": question.line,
                    "prompt": question.prompt,
                    "item": question.item,
                    "base": base.text,
                    "base_calls": base.calls,
                    "tuned": tuned.text,
                    "tuned_calls": tuned.calls,
                }
                file.write(orjson.dumps(row) + b"\n")


def questions_of(order: Train, waiting: set[int], tokenizer: ChatTokenizer) -> Iterator[Question]:
    """The rows at those lines of the file that is validated on."""
    path, data = order.training_file, order.spec.training_file
    if order.validation_file and order.spec.validation_file:
        path, data = order.validation_file, order.spec.validation_file
    with renderings_bounded(MEMORY_LIMIT_BYTES):
        for line, record in read_records(path, columns=data.columns):
            if line not in waiting:
                continue
            row = row_of(line, record, data.columns)
            own = orjson.loads(record) if isinstance(record, bytes) else record
            if isinstance(row, Fault) or isinstance(own, Fault):
                raise TypeError(f"line {line} was read before, and has a fault now")
            item, prompt = asked_of(row)
            yield Question(line, prompt, own | item, torch.tensor(prompt_ids(row, tokenizer)))
            waiting.remove(line)
            if not waiting:
                return


def asked_of(row: Row) -> tuple[dict[str, Any], str]:
    """(what a grader knows of the row besides its own fields, the end of what is asked)."""
    match row:
        case Chat(messages=(*before, answer)):
            return of_chat(before, answer) | {"tools": list(row.tools)}, before[-1].content
        case Preference(input=before, preferred=preferred, non_preferred=other):
            item = of_chat([*before, *preferred[:-1]], preferred[-1])
            return item | {"rejected": other[-1].content}, before[-1].content
        case Completion():
            item = {"prompt": row.prompt, "completion": row.completion}
            return item | {"reference": row.completion}, row.prompt
    raise TypeError(f"a {row.format} has no answer")  # refused when the job was created


def of_chat(before: Sequence[ChatMessage], answer: ChatMessage) -> dict[str, Any]:
    calls = [{"type": "function", "function": function_of(call)} for call in answer.tool_calls]
    return {
        "messages": [{"role": said.role, "content": said.content} for said in before],
        "reference": answer.content,
        "reference_tool_calls": calls,
    }


def function_of(call: Any) -> dict[str, str]:  # noqa: ANN401
    return {"name": call.name, "arguments": call.arguments}


def prompt_ids(row: Row, tokenizer: ChatTokenizer) -> list[int]:
    """Up to where the answer begins, with what the template writes before one."""
    if isinstance(row, Completion):
        return list(tokenizer.tokenizer.encode(row.prompt).ids)
    assert isinstance(row, Chat | Preference)  # noqa: S101
    before = row.messages[:-1] if isinstance(row, Chat) else (*row.input, *row.preferred[:-1])
    said = Said.of(Chat(row.line, before, row.tools))
    typed = tokenizer.control_tokens.are_in([said.messages, said.tools])
    if typed:
        said = tokenizer.hidden(said)
    try:
        text = tokenizer.write(said, add_generation_prompt=True).text
    except TemplateError as error:
        error.add_note(f"at line {row.line}")
        raise
    return list(tokenizer.tokens_of(text, typed=typed)[0])
