"""Where the documents of a packed sequence lie, told to the layers that have to know."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from worker.engine.device import sent


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

    @cached_property
    def apart(self) -> "Apart":
        """As rows of batches: documents of about one length together."""
        batches: list[list[int]] = []
        for document in sorted(range(len(self.lengths)), key=lambda number: -self.lengths[number]):
            longest = self.lengths[batches[-1][0]] if batches else 0
            if not batches or 2 * self.lengths[document] < longest:
                batches.append([])
            batches[-1].append(document)
        return self.as_rows(batches)

    @cached_property
    def alone(self) -> "Apart":
        """Each as a batch of its own."""
        return self.as_rows([[document] for document in range(len(self.lengths))])

    def as_rows(self, batches: list[list[int]]) -> "Apart":
        starts, device = [0, *accumulate(self.lengths)], self.bounds.device
        made, places_of_all = [], []
        for batch in batches:
            lengths = torch.tensor([self.lengths[document] for document in batch])
            places = torch.arange(int(lengths.max()))[None]
            there = places < lengths[:, None]
            index = torch.tensor([starts[document] for document in batch])[:, None] + places
            places_of_all.append(index[there])
            index = torch.where(there, index, self.tokens)
            flat = there.flatten().nonzero()[:, 0]
            made.append(Rows(*(sent(each, device) for each in (index, there, flat))))
        return Apart(made, sent(torch.cat(places_of_all).argsort(), device))


@dataclass(frozen=True)
class Rows:
    """Some documents of a pack as a batch, padded on the right: (rows, longest) each, `index` their
    tokens' places in the pack, past its end where `there` is False; `flat` (tokens,) are the places
    in the batch where it is True.
    """

    index: Tensor
    there: Tensor
    flat: Tensor

    def of(self, pack: Tensor) -> Tensor:
        """(rows, longest, ...) of (1, N, ...); zeros where nothing is."""
        return torch.cat([pack[0], pack.new_zeros(1, *pack.shape[2:])])[self.index]


@dataclass(frozen=True)
class Apart:
    """A pack's documents in batches; `order` (N,) are the pack's tokens among those of the batches,
    one after the other.
    """

    batches: list[Rows]
    order: Tensor

    def together(self, states: list[Tensor]) -> Tensor:
        """The pack (1, N, ...) of what there is in each batch (rows, longest, ...)."""
        pairs = zip(self.batches, states, strict=True)
        found = [each.flatten(0, 1).index_select(0, batch.flat) for batch, each in pairs]
        return torch.cat(found).index_select(0, self.order)[None]


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
