"""Direct preference optimization (Rafailov et al. 2023, equation 7).

A row is a pair of answers to the same input, which a step computes together. With the
log-probabilities of a whole answer under the model, p, and under the model that the training starts
from, r, its reward is beta * (p - r), and the loss of a pair -log sigmoid(the preferred one's
reward - the other's). The loss of a step is the mean over its pairs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tunery.data.jinja import TemplateError
from tunery.data.rows import Preference, Row
from tunery.data.template import ChatTokenizer
from tunery.spec import TrainingSpec
from worker.engine.data.batches import Batch, packing
from worker.engine.data.reading import Encoded, next_tokens
from worker.engine.data.rows import TokenRow, lengths_of
from worker.engine.device import sent
from worker.engine.ranks import together
from worker.engine.training.forward import score
from worker.engine.training.slot import Slot


@dataclass(frozen=True)
class PreferredAnswer:
    beta: float
    max_length: int

    figures = ("reward_accuracy", "reward_margin")
    loss_at_start = math.log(2)  # no answer has a reward yet

    def encode(self, row: Row, tokenizer: ChatTokenizer) -> Encoded:
        if not isinstance(row, Preference):
            raise TemplateError("it is no pair of a preferred and a rejected answer")
        examples = tokenizer.encode_pair(row, self.max_length)
        first, second = (next_tokens(example) for example in examples)
        pair = TokenRow(
            row.line,
            torch.cat([first.ids, second.ids]),
            torch.cat([first.trained, second.trained]),
            second=len(first.ids),
        )
        whole = first.trained_tokens > 0 and second.trained_tokens > 0
        return Encoded.of(examples, [pair] if whole else [])

    def counted(self, tokens: int) -> str:
        return f"{tokens} of them in the answers that are compared"

    def drawn(self, rows: Sequence[TokenRow], epoch: int | None) -> Sequence[TokenRow]:  # noqa: ARG002 (the same in each)
        return rows

    def terms(self, rows: Sequence[TokenRow]) -> int:
        return len(rows)

    def score(self, slot: Slot, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        references = [row.reference for row in rows if row.reference is not None]
        before = sent(torch.stack(references), slot.model.device)
        rewards = self.beta * (log_probabilities(slot, rows) - before)
        margins = rewards[:, 0] - rewards[:, 1]
        figures = torch.stack([(margins > 0).float(), margins.detach()])
        return -logsigmoid(margins), figures.sum(dim=1)


def log_probabilities(slot: Slot, rows: Sequence[TokenRow]) -> Tensor:
    """(rows, 2) fp32, of the preferred and the other answer, summed over their tokens."""
    losses, _ = score(slot, Batch.of(rows, slot.model.device))
    counts = [
        int(trained.sum())
        for row in rows
        for trained in torch.split(row.trained, list(row.documents))
    ]
    return -torch.stack([answer.sum() for answer in torch.split(losses, counts)]).view(-1, 2)


@torch.no_grad()
def reference_of(
    slot: Slot, rows: Sequence[TokenRow], spec: TrainingSpec, stop_if_asked: Callable[[], None]
) -> Tensor:
    """(rows, 2) fp32 on the CPU: `log_probabilities` under the model as it is, dropout off."""
    slot.model.eval()
    lengths, found = lengths_of(rows), torch.zeros(len(rows), 2)

    def compute(_: int, piece: Tensor) -> None:
        stop_if_asked()
        pairs = [rows[number] for number in piece.tolist()]
        found[piece] = log_probabilities(slot, pairs).cpu()

    pieces = packing(lengths, slot.plan.micro_tokens, spec.micro_batch_size)
    together.agreed(
        partial(slot.each, pieces, lambda piece: int(lengths[piece].sum()), compute), slot.step
    )
    together.add_up([found])
    return found
