"""From a checked file to the batches that a step trains on."""

import hashlib
import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from tunery.data.read import read_rows
from tunery.data.rows import Fault
from tunery.data.template import ChatTokenizer, Example, TemplateError
from tunery.errors import DoesNotFit
from tunery.plan.memory import gib
from tunery.spec import DataFile, TrainingSpec
from worker.engine.attention import Documents
from worker.engine.errors import Untrainable
from worker.engine.host import available_memory
from worker.engine.rows import Rows, TokenRow, lengths_of
from worker.engine.seeds import seeds_in

if TYPE_CHECKING:
    from worker.engine.objectives.objective import Objective

LINES_NAMED = 10
LISTED_BYTES = 40  # a line's number in a list
# Of the memory that is free, what one file's rows may take: a second file, the base and the
# training need some too.
ROOM = 0.5
SORTED_AT_ONCE = 1 << 16

Kind = Literal["training", "validation"]


def next_tokens(example: Example, piece: int = 0) -> TokenRow:
    """For training on the next token, so not on the first, which has no predecessor."""
    trained = torch.tensor(example.mask, dtype=torch.bool)
    trained[:1] = False
    return TokenRow(example.line, torch.tensor(example.ids, dtype=torch.int32), trained, piece)


@dataclass(frozen=True)
class Encoded:
    """A row of the file in tokens: none, if nothing of it can be trained; several, if it was split.
    `cut`: it did not fit, and something is missing.
    """

    rows: list[TokenRow]
    cut: bool


@dataclass
class TokenRows:
    """A data set's trainable rows in the file's order, and the lines of those that are not whole.

    `dropped` lines have no trained token within `max_length`; the template refused the `refused`
    ones, the first of them for the reason `why`.
    """

    kind: Kind
    max_length: int
    rows: Rows = field(default_factory=Rows)
    split: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    why: str = ""

    def add(self, line: int, encoded: Encoded) -> None:
        if not encoded.rows:
            self.dropped.append(line)
            return
        if len(encoded.rows) > 1:
            self.split.append(line)
        if encoded.cut:
            self.cut.append(line)
        self.rows += encoded.rows

    def refuse(self, line: int, why: str) -> None:
        self.refused.append(line)
        self.why = self.why or why

    @property
    def bytes(self) -> int:
        """What it holds of the memory, about."""
        lines = (self.split, self.cut, self.dropped, self.refused)
        return self.rows.store.bytes + LISTED_BYTES * sum(map(len, lines))

    @property
    def whole(self) -> bool:
        return not (self.cut or self.dropped or self.refused)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.rows.lengths.max())

    def facts(self) -> dict[str, Any]:
        """For programs: counts of rows, and of tokens in one pass over them."""
        return {
            "file": self.kind,
            "rows": len(self.rows),
            "split_rows": len(self.split),
            "cut_rows": len(self.cut),
            "dropped_rows": len(self.dropped) + len(self.refused),
            "tokens": self.rows.tokens,
            "trained_tokens": self.rows.trained_tokens,
        }

    def summary(self, objective: "Objective") -> str:
        """For people: what is trained on, and what is not, with its lines."""
        left_out = len(self.dropped) + len(self.refused)
        all_rows = self.rows.lines + left_out
        loss = objective.counted(self.rows.trained_tokens)
        tokens = self.rows.tokens
        parts = [f"The {self.kind} file: {len(self.rows)} rows, {tokens} tokens, {loss}."]
        if self.split:
            parts.append(
                f"Longer than {self.max_length} tokens and split into rows of at most that: "
                f"{len(self.split)} of {all_rows} ({named_lines(self.split)})."
            )
        if self.cut:
            parts.append(
                f"Longer than {self.max_length} tokens and cut at their end: {len(self.cut)} of "
                f"{all_rows} rows ({named_lines(self.cut)})."
            )
        if self.dropped:
            parts.append(
                f"Left out, with nothing to train within {self.max_length} tokens: "
                f"{len(self.dropped)} of {all_rows} rows ({named_lines(self.dropped)})."
            )
        if self.refused:
            parts.append(
                f"Left out, refused by the chat template: {len(self.refused)} of {all_rows} rows "
                f"({named_lines(self.refused)}); line {self.refused[0]}: {self.why}."
            )
        return " ".join(parts)


def named_lines(lines: Sequence[int]) -> str:
    """`line 3`, or `lines 3, 9, 12`, the first ten."""
    rest = ", …" if len(lines) > LINES_NAMED else ""
    names = ", ".join(map(str, lines[:LINES_NAMED]))
    return f"line{'s' if len(lines) > 1 else ''} {names}{rest}"


def read_data(
    kind: Kind,
    path: Path,
    file: DataFile,
    *,
    objective: "Objective",
    tokenizer: ChatTokenizer,
    max_length: int,
    stop_if_asked: Callable[[], None],
) -> TokenRows:
    """Reads and tokenizes a whole file.

    Raises:
        Untrainable: a line has a fault, or no row is left to train on.
        DoesNotFit: its rows need more memory than this machine has for them.
        OSError: the file's bytes are not those the spec names.

    """
    with path.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            # It was the right one when it arrived.
            raise OSError(f"the {kind} file at hand is not the one the job names ({file.id})")
    data = TokenRows(kind, max_length)
    room = int(ROOM * available_memory())
    for row in read_rows(path):
        stop_if_asked()
        if data.bytes > room:
            raise too_large(data, row.line, room)
        if isinstance(row, Fault):
            raise Untrainable(f"invalid_{kind}_file", f"The {kind} file has a fault: {row}")
        try:
            data.add(row.line, objective.encode(row, tokenizer))
        except TemplateError as error:
            data.refuse(row.line, str(error))
        except BaseException as error:
            error.add_note(f"at line {row.line}")
            raise
    if not data.rows:
        raise Untrainable("no_trainable_rows", no_rows(data))
    return data


def too_large(data: TokenRows, line: int, room: int) -> DoesNotFit:
    return DoesNotFit(
        f"The {data.kind} file is too large for this worker: its rows before line {line} need "
        f"{gib(data.bytes)} of memory in tokens, and there are {gib(room)} for them "
        f"({ROOM:.0%} of what is free). Split the file, lower training.max_length, or train it on "
        "a worker with more memory."
    )


def no_rows(data: TokenRows) -> str:
    if data.refused and not data.dropped:
        return (
            f"No row of the {data.kind} file fits the base model's chat template; line "
            f"{data.refused[0]}: {data.why}. Change the rows, or choose a base model with another "
            "template."
        )
    return (
        f"No row of the {data.kind} file has anything to train within {data.max_length} tokens. "
        "Raise max_length, or shorten what comes before the answers."
    )


def epoch_order(rows: int, seed: int, epoch: int) -> Sequence[int]:
    """The row numbers 0 to rows - 1 in the order of one epoch: of their `seed_of` that place."""
    seeds = torch.frombuffer(array("q", seeds_in(("order", seed, epoch), rows)), dtype=torch.int64)
    return array("q", seeds.argsort(stable=True).numpy().tobytes())


def steps_per_epoch(data: TokenRows, spec: TrainingSpec) -> int:
    return math.ceil(len(data.rows) / spec.batch_size)


def rows_of_steps(data: TokenRows, spec: TrainingSpec, first: int) -> Iterator[list[TokenRow]]:
    """What each step trains on, from the one after `first` steps to the last."""
    steps = steps_per_epoch(data, spec)
    for epoch in range(first // steps, spec.n_epochs):
        in_order = epoch_order(len(data.rows), spec.seed, epoch)
        for index in range(max(0, first - epoch * steps), steps):
            chosen = in_order[index * spec.batch_size : (index + 1) * spec.batch_size]
            yield [data.rows[row] for row in chosen]


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


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for what it is still at."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
