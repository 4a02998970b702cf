"""Masked language modelling of an encoder (Devlin et al. 2019, section 3.1).

Of each part of a text, within the tokenizer's own opening and closing tokens, every other token is
chosen with `mask_probability`, anew in each epoch: 80 % of those are masked, 10 % become any token,
10 % stay as they are. What stood there is guessed from both sides. The loss is the mean NLL of a
step's chosen tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from tunery.data.jinja import TemplateError
from tunery.data.rows import Row, Text
from tunery.data.template import ChatTokenizer
from tunery.spec import TrainingSpec
from worker.engine.data.batches import Batch
from worker.engine.data.reading import Encoded
from worker.engine.data.rows import TokenRow, changed
from worker.engine.seeds import seed_of
from worker.engine.training.forward import score
from worker.engine.training.slot import Slot

MASKED, ANOTHER = 0.8, 0.1


@dataclass(frozen=True)
class MaskedToken:
    """`mask_id` stands for a masked token; any token is one below `vocabulary`."""

    spec: TrainingSpec
    mask_probability: float
    mask_id: int
    vocabulary: int

    figures = ("mean_token_accuracy",)
    loss_at_start = None

    def encode(self, row: Row, tokenizer: ChatTokenizer) -> Encoded:
        """`trained` are the tokens that may be chosen."""
        if not isinstance(row, Text):
            raise TemplateError("it is no text")
        examples = tokenizer.encode_enclosed(row, self.spec.max_length)
        cut = self.spec.overflow == "cut" and len(examples) > 1
        if cut:
            del examples[1:]
        rows = [
            TokenRow(
                row.line,
                torch.tensor(example.ids, dtype=torch.int32),
                torch.tensor(example.mask, dtype=torch.bool),
                piece,
            )
            for piece, example in enumerate(examples)
        ]
        return Encoded([row for row in rows if row.trained_tokens], cut)

    def counted(self, tokens: int) -> str:
        return f"{self.mask_probability:.0%} of {tokens} of them masked at a time"

    def drawn(self, rows: Sequence[TokenRow], epoch: int | None) -> Sequence[TokenRow]:
        """`trained` are the chosen tokens."""
        return changed(rows, partial(self.masked, when="validation" if epoch is None else epoch))

    def masked(self, row: TokenRow, when: int | str) -> TokenRow:
        seed = seed_of("mask", self.spec.seed, when, row.line, row.piece)
        numbers = torch.Generator().manual_seed(seed)
        length = len(row.ids)
        chosen = row.trained & (torch.rand(length, generator=numbers) < self.mask_probability)
        fate = torch.rand(length, generator=numbers)
        any_ids = torch.randint(self.vocabulary, (length,), generator=numbers, dtype=torch.int32)
        ids = torch.where(chosen & (fate < MASKED), self.mask_id, row.ids)
        another = chosen & (fate >= MASKED) & (fate < MASKED + ANOTHER)
        return replace(row, ids=torch.where(another, any_ids, ids), trained=chosen, wanted=row.ids)

    def terms(self, rows: Sequence[TokenRow]) -> int:
        return sum(row.trained_tokens for row in rows)

    def score(self, slot: Slot, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        wanted = torch.cat([row.wanted for row in rows if row.wanted is not None]).long()
        places = torch.cat([row.trained for row in rows]).nonzero()[:, 0]
        batch = Batch.at(rows, places, wanted[places], slot.model.device)
        losses, right = score(slot, batch)
        return losses, right.sum(dtype=torch.float32)[None]
