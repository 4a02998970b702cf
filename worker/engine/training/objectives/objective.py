"""What the loop asks of an objective; each of them is a module beside this one."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from worker.engine.data.reading import Encoder
from worker.engine.data.rows import TokenRow
from worker.engine.training.slot import Slot


class Objective(Encoder, Protocol):
    """What a training learns from a row, and what it makes small."""

    @property
    def figures(self) -> tuple[str, ...]:
        """What is measured beside the loss, by `Metrics`' names without `train_` and `valid_`."""

    @property
    def loss_at_start(self) -> float | None:
        """If it is the same on any data."""

    def drawn(self, rows: Sequence[TokenRow], epoch: int | None) -> Sequence[TokenRow]:
        """As they are trained on in that epoch, counted from 0; None: as they are evaluated. Of
        `Rows` each is drawn when it is asked for.
        """

    def terms(self, rows: Sequence[TokenRow]) -> int:
        """How many the loss is a sum of; it is their mean that is made small. Of drawn rows."""

    def score(self, slot: Slot, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        """(the loss's terms, (terms,) fp32, those of a row together and in the rows' order; the
        figures' sums, (figures,) fp32 without gradient) of drawn rows, packed into one forward.
        """
