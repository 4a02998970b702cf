"""Which rows a step trains on, and how they are packed into batches."""

import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Self

import torch
from torch import Tensor

from tunery.plan.memory import Plan
from tunery.spec import TrainingSpec
from worker.engine.data.reading import TokenRows
from worker.engine.data.rows import TokenRow, lengths_of
from worker.engine.device import sent
from worker.engine.model.documents import Documents
from worker.engine.ranks.together import dealt
from worker.engine.seeds import seeds_in

SORTED_AT_ONCE = 1 << 16


def epoch_order(rows: int, seed: int, epoch: int) -> Sequence[int]:
    """The row numbers 0 to rows - 1 in the order of one epoch: of their `seed_of` that place."""
    seeds = torch.frombuffer(array("q", seeds_in(("order", seed, epoch), rows)), dtype=torch.int64)
    return array("q", seeds.argsort(stable=True).numpy().tobytes())


def steps_per_epoch(data: TokenRows, spec: TrainingSpec) -> int:
    return math.ceil(len(data.rows) / spec.batch_size)


def steps_in_all(data: TokenRows, spec: TrainingSpec) -> int:
    epochs = spec.n_epochs * steps_per_epoch(data, spec)
    return epochs if spec.max_steps is None else min(spec.max_steps, epochs)


def rows_of_steps(data: TokenRows, spec: TrainingSpec, first: int) -> Iterator[list[TokenRow]]:
    """What each step trains on, from the one after `first` steps to the last."""
    rows = rows_of_epochs(data, spec, first)
    return islice(rows, max(0, steps_in_all(data, spec) - first))


def rows_of_epochs(data: TokenRows, spec: TrainingSpec, first: int) -> Iterator[list[TokenRow]]:
    steps = steps_per_epoch(data, spec)
    for epoch in range(first // steps, spec.n_epochs):
        in_order = epoch_order(len(data.rows), spec.seed, epoch)
        for index in range(max(0, first - epoch * steps), steps):
            chosen = in_order[index * spec.batch_size : (index + 1) * spec.batch_size]
            yield [data.rows[row] for row in chosen]


def cut(rows: Sequence[TokenRow], plan: Plan, most: int | None = None) -> Iterator[list[TokenRow]]:
    """A step's rows in pieces, of at most so many rows: dealt to the plan's GPUs and packed. It is
    the plan that counts, not the processes there are, so that another number of them takes the same
    step.
    """
    if plan.gpus == 1:
        yield from packed(rows, plan.micro_tokens, most)
        return
    for part in dealt(lengths_of(rows).tolist(), plan.gpus):
        yield from packed([rows[number] for number in part], plan.micro_tokens, most)


def packed(
    rows: Sequence[TokenRow], tokens: int, most: int | None = None
) -> Iterator[list[TokenRow]]:
    """The rows in pieces, see `packing`."""
    for piece in packing(lengths_of(rows), tokens, most):
        yield [rows[number] for number in piece.tolist()]


def packing(lengths: Tensor, tokens: int, most: int | None = None) -> Iterator[Tensor]:
    """The numbers of the rows of these lengths (rows,), in as few pieces of at most `tokens` tokens
    as best-fit decreasing finds (Johnson 1973), and at most so many rows; a longer row is a piece
    of its own. A whole data set takes n log n.
    """
    sizes, order = lengths.sort(descending=True, stable=True)
    piece_of = array("q")
    counts = array("q")
    rooms: list[tuple[int, int]] = []  # what each piece has left, and its number; sorted
    for some in torch.split(sizes, SORTED_AT_ONCE):
        for size in some.tolist():
            narrowest = bisect_left(rooms, (size, 0))
            if narrowest == len(rooms):
                left, index = tokens, len(counts)
                counts.append(0)
            else:
                left, index = rooms.pop(narrowest)
            piece_of.append(index)
            counts[index] += 1
            if counts[index] != most:
                insort(rooms, (left - size, index))
    if counts:
        by_piece = torch.frombuffer(piece_of, dtype=torch.int64).argsort(stable=True)
        yield from torch.split(order[by_piece], counts.tolist())


@dataclass(frozen=True)
class Batch:
    """Rows packed into one sequence of N tokens, whose documents see each only itself.

    `ids` and `positions` (1, N), the positions from 0 in each document. `places` (P,) are where a
    token is guessed from, `labels` (P,) which is right. All int64.
    """

    ids: Tensor
    positions: Tensor
    places: Tensor
    labels: Tensor
    documents: Documents

    @classmethod
    def of(cls, rows: Sequence[TokenRow], device: torch.device) -> Self:
        """Each trained token is guessed from the place before it."""
        trained = torch.cat([row.trained for row in rows]).nonzero()[:, 0]
        ids = torch.cat([row.ids for row in rows]).long()
        return cls.at(rows, trained - 1, ids[trained], device)

    @classmethod
    def at(
        cls, rows: Sequence[TokenRow], places: Tensor, labels: Tensor, device: torch.device
    ) -> Self:
        lengths = tuple(length for row in rows for length in row.documents)
        ids = torch.cat([row.ids for row in rows]).long()
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(
            ids=sent(ids[None], device),
            positions=sent(torch.cat([torch.arange(size) for size in lengths])[None], device),
            places=sent(places, device),
            labels=sent(labels, device),
            documents=Documents(lengths, sent(bounds, device)),
        )
