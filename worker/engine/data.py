"""From a checked file to the batches that a step trains on."""

import hashlib
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from tunery.data.read import read_rows
from tunery.data.rows import Fault
from tunery.data.template import ChatTokenizer, Example, TemplateError
from tunery.spec import DataFile, TrainingSpec
from worker.engine.attention import Documents
from worker.engine.errors import Untrainable
from worker.engine.seeds import seed_of

LINES_NAMED = 10

Kind = Literal["training", "validation"]


@dataclass(frozen=True)
class TokenRow:
    """One trainable row: `ids` (length,) int32 and `trained` (length,) bool."""

    line: int
    ids: Tensor
    trained: Tensor

    @property
    def trained_tokens(self) -> int:
        """Tokens in the loss: the first has no predecessor to predict it from."""
        return int(self.trained[1:].sum())


@dataclass
class TokenRows:
    """A data set's trainable rows in the file's order, and the lines of those that are not whole.

    `dropped` lines have no trained token within `max_length`; `refused` pairs a line with the
    template's reason.
    """

    kind: Kind
    max_length: int
    rows: list[TokenRow] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def add(self, example: Example) -> None:
        if example.trained_tokens == 0:
            self.dropped.append(example.line)
            return
        if example.cut:
            self.cut.append(example.line)
        ids = torch.tensor(example.ids, dtype=torch.int32)
        self.rows.append(TokenRow(example.line, ids, torch.tensor(example.mask, dtype=torch.bool)))

    @property
    def whole(self) -> bool:
        return not (self.cut or self.dropped or self.refused)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for row in self.rows)

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        return sum(row.trained_tokens for row in self.rows)

    def facts(self) -> dict[str, Any]:
        """For programs: counts of rows, and of tokens in one pass over them."""
        return {
            "file": self.kind,
            "rows": len(self.rows),
            "cut_rows": len(self.cut),
            "dropped_rows": len(self.dropped) + len(self.refused),
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
        }

    def summary(self) -> str:
        """For people: what is trained on, and what is not, with its lines."""
        all_rows = len(self.rows) + len(self.dropped) + len(self.refused)
        loss = f"{self.trained_tokens} of them in the loss"
        parts = [f"The {self.kind} file: {len(self.rows)} rows, {self.tokens} tokens, {loss}."]
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
            line, reason = self.refused[0]
            parts.append(
                f"Left out, refused by the chat template: {len(self.refused)} of {all_rows} rows "
                f"({named_lines([at for at, _ in self.refused])}); line {line}: {reason}."
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
    tokenizer: ChatTokenizer,
    max_length: int,
    stop_if_asked: Callable[[], None],
) -> TokenRows:
    """Reads and tokenizes a whole file.

    Raises:
        Untrainable: a line has a fault, or no row is left to train on.
        ValueError: the file's bytes are not those the spec names.

    """
    with path.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            raise ValueError(f"the {kind} file at hand is not the one the job names ({file.id})")
    data = TokenRows(kind, max_length)
    for row in read_rows(path):
        stop_if_asked()
        if isinstance(row, Fault):
            raise Untrainable(f"invalid_{kind}_file", f"The {kind} file has a fault: {row}")
        try:
            data.add(tokenizer.encode(row, max_length))
        except TemplateError as error:
            data.refused.append((row.line, str(error)))
    if not data.rows:
        raise Untrainable("no_trainable_rows", no_rows(data))
    return data


def no_rows(data: TokenRows) -> str:
    if data.refused and not data.dropped:
        line, reason = data.refused[0]
        return (
            f"No row of the {data.kind} file fits the base model's chat template; line {line}: "
            f"{reason}. Change the rows, or choose a base model with another template."
        )
    return (
        f"No row of the {data.kind} file has anything to train within {data.max_length} tokens. "
        "Raise max_length, or shorten what comes before the answers."
    )


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """The row numbers 0 to rows - 1 in the order of one epoch."""
    return sorted(range(rows), key=lambda row: seed_of("order", seed, epoch, row))


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


def packed(rows: Sequence[TokenRow], tokens: int) -> list[list[TokenRow]]:
    """The rows in as few pieces of at most `tokens` tokens as best-fit decreasing finds (Johnson
    1973); a longer row is a piece of its own. A whole data set takes n log n.
    """
    pieces: list[list[TokenRow]] = []
    rooms: list[tuple[int, int]] = []  # what each piece has left, and its number; sorted
    for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
        size = len(row.ids)
        narrowest = bisect_left(rooms, (size, 0))
        if narrowest == len(rooms):
            left, index = tokens, len(pieces)
            pieces.append([])
        else:
            left, index = rooms.pop(narrowest)
        pieces[index].append(row)
        insort(rooms, (left - size, index))
    return pieces


@dataclass(frozen=True)
class Batch:
    """Rows packed into one sequence of N tokens, each a document that sees only itself.

    `ids` and `positions` (1, N), the positions from 0 in each row. `before` (P,) are the places
    that a trained token follows in the same row, `labels` (P,) those tokens. All int64.
    """

    ids: Tensor
    positions: Tensor
    before: Tensor
    labels: Tensor
    documents: Documents

    @classmethod
    def of(cls, rows: Sequence[TokenRow], device: torch.device) -> Self:
        lengths = tuple(len(row.ids) for row in rows)
        ids = torch.cat([row.ids for row in rows]).long()
        # A row's first token is no label: what stands before it is another row's.
        labelled = [row.trained.index_fill(0, torch.tensor(0), False) for row in rows]
        after = torch.cat(labelled).nonzero()[:, 0]
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(
            ids=sent(ids[None], device),
            positions=sent(torch.cat([torch.arange(size) for size in lengths])[None], device),
            before=sent(after - 1, device),
            labels=sent(ids[after], device),
            documents=Documents(lengths, sent(bounds, device)),
        )


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for what it is still at."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
