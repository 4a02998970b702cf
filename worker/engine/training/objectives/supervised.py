"""The next token of answers, completions and texts.

The loss is the mean NLL of a step's trained tokens, whatever their rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunery.data.rows import Row, Text
from tunery.data.template import ChatTokenizer
from tunery.spec import TrainingSpec
from worker.engine.data.batches import Batch
from worker.engine.data.reading import Encoded, next_tokens
from worker.engine.data.rows import TokenRow
from worker.engine.training.forward import score
from worker.engine.training.slot import Slot


@dataclass(frozen=True)
class NextToken:
    """Of a text that is split each part begins with the last token of the one before, so that all
    of its other tokens have their predecessor.
    """

    spec: TrainingSpec

    figures = ("mean_token_accuracy",)
    loss_at_start = None

    def encode(self, row: Row, tokenizer: ChatTokenizer) -> Encoded:
        longest = self.spec.max_length
        if isinstance(row, Text) and self.spec.overflow == "split":
            examples = tokenizer.encode_parts(row, longest)
        elif self.spec.train_on_inputs:
            examples = [tokenizer.encode_throughout(row, longest)]
        else:
            examples = tokenizer.encode(row, longest)
        rows = [next_tokens(example, piece) for piece, example in enumerate(examples)]
        return Encoded.of(examples, rows)

    def counted(self, tokens: int) -> str:
        return f"{tokens} of them in the loss"

    def drawn(self, rows: Sequence[TokenRow], epoch: int | None) -> Sequence[TokenRow]:  # noqa: ARG002 (the same in each)
        return rows

    def terms(self, rows: Sequence[TokenRow]) -> int:
        return sum(row.trained_tokens for row in rows)

    def score(self, slot: Slot, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        losses, right = score(slot, Batch.of(rows, slot.model.device))
        return losses, right.sum(dtype=torch.float32)[None]
