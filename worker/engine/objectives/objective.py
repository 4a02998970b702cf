"""What the loop asks of an objective; each of them is a module beside this one."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from tunery.data.rows import Row
from tunery.data.template import ChatTokenizer
from worker.engine.data import Encoded
from worker.engine.rows import TokenRow
from worker.engine.slot import Slot


class Objective(Protocol):
    """What a training learns from a row, and what it makes small."""

    @property
    def figures(self) -> tuple[str, ...]:
        """What is measured beside the loss, by `Metrics`' names without `train_` and `valid_`."""

    @property
    def loss_at_start(self) -> float | None:
        """If it is the same on any data."""

    def encode(self, row: Row, tokenizer: ChatTokenizer) -> Encoded:
        """A row of the file in tokens.

        Raises:
            TemplateError: the tokenizer or the chat template cannot take it.

        """

    def counted(self, tokens: int) -> str:
        """What comes of a data set's trained tokens, in words."""

    def drawn(self, rows: Sequence[TokenRow], epoch: int | None) -> Sequence[TokenRow]:
        """As they are trained on in that epoch, counted from 0; None: as they are evaluated. Of
        `Rows` each is drawn when it is asked for.
        """

    def terms(self, rows: Sequence[TokenRow]) -> int:
        """How many the loss is a sum of; it is their mean that is made small. Of drawn rows."""

    def score(self, slot: Slot, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        """(the sum of the loss's terms, 0-d fp32; those of the figures, (figures,) fp32 without
        gradient) of drawn rows, packed into one forward.
        """
