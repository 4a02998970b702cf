"""Where the documents of a packed sequence lie, told to the layers that have to know."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Their lengths in the sequence's order, and on the device `bounds` (documents + 1,) int32,
    from 0 to the sequence's own length.
    """

    lengths: tuple[int, ...]
    bounds: Tensor

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def apart(self, *, alone: bool = False) -> list["Rows"]:
        """All documents as rows of batches: those of about one length together, or each `alone`."""
        starts = [0, *accumulate(self.lengths)]
        batches: list[list[int]] = []
        for document in sorted(range(len(self.lengths)), key=lambda number: -self.lengths[number]):
            longest = self.lengths[batches[-1][0]] if batches else 0
            if alone or 2 * self.lengths[document] < longest or not batches:
                batches.append([])
            batches[-1].append(document)
        device = self.bounds.device
        made = []
        for batch in batches:
            lengths = torch.tensor([self.lengths[document] for document in batch])
            places = torch.arange(int(lengths.max()))[None]
            there = places < lengths[:, None]
            index = torch.tensor([starts[document] for document in batch])[:, None] + places
            index = torch.where(there, index, self.tokens)
            made.append(Rows(index.to(device), there.to(device)))
        return made


@dataclass(frozen=True)
class Rows:
    """Some documents of a pack as a batch, padded on the right: (rows, longest) each, `index` their
    tokens' places in the pack, past its end where `there` is False.
    """

    index: Tensor
    there: Tensor

    def of(self, pack: Tensor) -> Tensor:
        """(rows, longest, ...) of (1, N, ...); zeros where nothing is."""
        return torch.cat([pack[0], pack.new_zeros(1, *pack.shape[2:])])[self.index]


def together(batches: list[Rows], states: list[Tensor]) -> Tensor:
    """The pack (1, N, ...) of what there is in each batch (rows, longest, ...)."""
    parts = zip(batches, states, strict=True)
    found = torch.cat([each[batch.there] for batch, each in parts])
    places = torch.cat([batch.index[batch.there] for batch in batches])
    return found[places.argsort()][None]


# Not a keyword of the forward pass: some families do not hand keywords down to their layers.
_documents: ContextVar[Documents | None] = ContextVar("documents", default=None)


@contextmanager
def packed_as(documents: Documents | None) -> Iterator[None]:
    """In it the model computes on one sequence of these documents."""
    token = _documents.set(documents)
    try:
        yield
    finally:
        _documents.reset(token)


def packed() -> Documents | None:
    """Those of the sequence that is computed on, if it is a pack."""
    return _documents.get()


def contexts_of_recomputation() -> tuple[
    AbstractContextManager[None], AbstractContextManager[None]
]:
    """`context_fn` of `torch.utils.checkpoint`. The backward pass, in which activations are
    computed again, comes after `packed_as` is left, and may run in a thread of its own.
    """
    return nullcontext(), packed_as(_documents.get())
