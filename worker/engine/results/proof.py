"""What is kept of a training so that a server can be asked whether it answers with its weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from tunery.data.jinja import TEMPLATE_DATE, TemplateError
from tunery.data.read import read_rows
from tunery.data.rows import Chat, Preference
from tunery.data.said import Said
from tunery.data.template import ChatTokenizer
from tunery.proof.kept import MOST_FORKS, MOST_ROWS, MOST_TOKENS, Fork, Proof, ProvedRow, Rendering
from tunery.spec import TrainingSpec
from worker.engine.data.batches import Batch, packed
from worker.engine.data.reading import TokenRows
from worker.engine.data.rows import TokenRow
from worker.engine.device import compute_dtype
from worker.engine.training.forward import hidden_states
from worker.engine.training.slot import Slot, trained_parameters
from worker.protocol import Train

# Places whose logits are in memory at once, in fp32.
CHUNK = 256
# Of a row that is cut, what stands before its first trained token.
GIVEN_TOKENS = 64
# Nats by which a server in another precision still chooses the same token.
CLEAR = 0.5
DIGITS = 4
# As templates write the day.
DATES = ("%d %b %Y", "%Y-%m-%d", "%d %B %Y", "%B %d, %Y")
LEAST = -100.0


@dataclass(frozen=True)
class Made:
    """Of a row of n tokens, what a model makes of each but the first given those before it: its
    log-probability, the likeliest token, and the nats by which that is before the second;
    (n - 1,) each, on the CPU.
    """

    logprobs: Tensor
    likeliest: Tensor
    margins: Tensor


@dataclass(frozen=True)
class Proving:
    """The rows, and what the base made of them if all its weights are trained. They are of `file`,
    whose columns are named so.
    """

    rows: list[TokenRow]
    base: dict[int, Made]
    file: Path
    columns: dict[str, str] | None
    held_out: bool

    @classmethod
    def begun(
        cls,
        slot: Slot,
        order: Train,
        data: TokenRows,
        valid: TokenRows | None,
        stop_if_asked: Callable[[], None],
    ) -> Self:
        """The model in the slot is still the base: nothing was loaded into it or trained."""
        file, facts = order.training_file, order.spec.training_file
        if order.validation_file and order.spec.validation_file:
            file, facts = order.validation_file, order.spec.validation_file
        rows = first_rows(valid or data)
        base = {} if order.spec.lora else made_of(slot, rows, order.spec, stop_if_asked)
        return cls(rows, base, file, facts.columns, held_out=valid is not None)

    def ended(
        self,
        slot: Slot,
        spec: TrainingSpec,
        tokenizer: ChatTokenizer,
        stop_if_asked: Callable[[], None],
    ) -> Proof:
        """The model in the slot is the result."""
        tuned, base = made_of(slot, self.rows, spec, stop_if_asked), self.base
        if spec.lora:
            with without_adapter(slot):
                base = made_of(slot, self.rows, spec, stop_if_asked)
        lines = {row.line for row in self.rows}
        written = dict(renderings(self.file, self.columns, lines, tokenizer))
        return Proof(
            base_model=spec.base_model,
            base_revision=spec.base_revision,
            quantization=slot.plan.quantization,
            computed_in=str(compute_dtype()).removeprefix("torch."),
            held_out=self.held_out,
            rows=[
                ProvedRow(
                    line=row.line,
                    ids=row.ids.tolist(),
                    trained=[place for place in row.trained.nonzero()[:, 0].tolist() if place],
                    base=rounded(base[row.line].logprobs),
                    tuned=rounded(tuned[row.line].logprobs),
                    forks=forks(row, base[row.line], tuned[row.line], tokenizer),
                    rendering=written.get(row.line),
                )
                for row in self.rows
            ],
        )


@contextmanager
def without_adapter(slot: Slot) -> Iterator[None]:
    """In it the model is the base, and then to the bit what it was."""
    adapters = {
        parameter: parameter.detach().clone()
        for name, parameter in trained_parameters(slot.model).items()
        if ".lora_B." in name
    }
    with torch.no_grad():
        for parameter in adapters:
            parameter.zero_()
        try:
            yield
        finally:
            for parameter, trained in adapters.items():
                parameter.copy_(trained)


def first_rows(data: TokenRows) -> list[TokenRow]:
    """Of a file: of a pair only the preferred answer, of a long row the part around its first
    trained token, of a line that became several rows the first.
    """
    found: list[TokenRow] = []
    for row in data.rows:
        if not found or row.line != found[-1].line:
            found.append(cut(row))
        if len(found) == MOST_ROWS:
            break
    return found


def cut(row: TokenRow) -> TokenRow:
    end = row.documents[0]
    first = int(row.trained[:end].nonzero()[0, 0])
    start = 0 if end <= MOST_TOKENS else max(0, first - GIVEN_TOKENS)
    part = slice(start, min(end, start + MOST_TOKENS))
    return TokenRow(row.line, row.ids[part], row.trained[part], row.piece)


@torch.no_grad()
def made_of(
    slot: Slot, rows: Sequence[TokenRow], spec: TrainingSpec, stop_if_asked: Callable[[], None]
) -> dict[int, Made]:
    """What the model as it is makes of them, by their lines. Without dropout."""
    slot.model.eval()
    found: dict[int, Made] = {}
    for piece in packed(rows, slot.plan.micro_tokens, spec.micro_batch_size):
        stop_if_asked()
        throughout = [replace(row, trained=torch.arange(len(row.ids)) > 0) for row in piece]
        batch = Batch.of(throughout, slot.model.device)
        hidden = hidden_states(slot, batch).index_select(0, batch.places)
        chunks = zip(torch.split(hidden, CHUNK), torch.split(batch.labels, CHUNK), strict=True)
        logprobs, best, margins = zip(
            *(few_of(slot.head.logits(part), labels) for part, labels in chunks), strict=True
        )
        counts = [len(row.ids) - 1 for row in piece]
        each = (torch.split(torch.cat(of_all), counts) for of_all in (logprobs, best, margins))
        for row, *made in zip(piece, *each, strict=True):
            found[row.line] = Made(*made)
    return found


def few_of(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`Made`'s of logits (P, vocabulary) and the tokens (P,) that stand there."""
    chances = logits.float().log_softmax(dim=1)
    two, which = chances.topk(2, dim=1)
    of_labels = chances.gather(1, labels[:, None])[:, 0]
    return of_labels.cpu(), which[:, 0].cpu(), (two[:, 0] - two[:, 1]).cpu()


def rounded(logprobs: Tensor) -> list[float | None]:
    least = logprobs.clamp(min=LEAST)  # a token that a head rules out has none that JSON knows
    return [None, *(round(value, DIGITS) for value in least.tolist())]


def forks(row: TokenRow, base: Made, tuned: Made, tokenizer: ChatTokenizer) -> list[Fork]:
    """The clearest of the answer, where neither model ends it."""
    ends = tokenizer.control_tokens.ids
    margins = torch.minimum(base.margins, tuned.margins)
    apart = (base.likeliest != tuned.likeliest) & row.trained[1:] & (margins >= CLEAR)
    places = sorted(apart.nonzero()[:, 0].tolist(), key=lambda place: -margins[place])
    found = []
    for place in places:
        ids = int(base.likeliest[place]), int(tuned.likeliest[place])
        if not ends.intersection(ids):
            found.append(
                Fork(
                    place=place + 1,
                    base=ids[0],
                    tuned=ids[1],
                    base_text=tokenizer.text_of([ids[0]]),
                    tuned_text=tokenizer.text_of([ids[1]]),
                    margin=round(margins[place].item(), DIGITS),
                )
            )
    return found[:MOST_FORKS]


def renderings(
    file: Path, columns: dict[str, str] | None, lines: set[int], tokenizer: ChatTokenizer
) -> Iterator[tuple[int, Rendering]]:
    """By their lines, of the rows that are chats which call no tools before their last answer, and
    that are rendered the same on any day. The file is read until the last of them.
    """
    last = max(lines, default=0)
    for row in read_rows(file, columns=columns):
        if row.line in lines and isinstance(row, Chat | Preference):
            made = rendering(row, tokenizer)
            if made:
                yield row.line, made
        if row.line >= last:
            return


def rendering(row: Chat | Preference, tokenizer: ChatTokenizer) -> Rendering | None:
    if isinstance(row, Preference):
        row = Chat(row.line, row.input, row.tools)
    else:
        answers = [at for at, message in enumerate(row.messages) if message.role == "assistant"]
        row = Chat(row.line, row.messages[: answers[-1]], row.tools)
    said = Said.of(row)
    if any("tool_calls" in message or "tool_call_id" in message for message in said.messages):
        return None
    if tokenizer.control_tokens.are_in([said.messages, said.tools]):
        return None
    try:
        text = tokenizer.write(said, add_generation_prompt=True).text
        ids, _ = tokenizer.tokens_of(text, typed=False)
    except TemplateError:
        return None
    dated = any(TEMPLATE_DATE.strftime(form) in text for form in DATES)
    if dated or len(ids) > MOST_TOKENS:
        return None
    return Rendering(messages=said.messages, tools=said.tools, ids=ids, text=text)
