"""From a checked file to the batches that a step trains on."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from tunery.data.rows import Fault, read_rows
from tunery.data.template import ChatTokenizer, Example, TemplateError
from tunery.spec import DataFile, TrainingSpec
from worker.engine.errors import Untrainable
from worker.engine.seeds import seed_of

# Padded tokens of one forward pass: its activations and logits bound the memory of a step.
MICRO_TOKENS = 4096
NOT_TRAINED = -100  # torch.nn.functional.cross_entropy's ignore_index
LINES_NAMED = 10


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

    kind: Literal["training", "validation"]
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
    kind: Literal["training", "validation"],
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


def micro_batches(rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
    """The rows, shortest first so that little is padded, in pieces of at most `MICRO_TOKENS` padded
    tokens; a longer row is a piece of its own.
    """
    piece: list[TokenRow] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if piece and (len(piece) + 1) * len(row.ids) > MICRO_TOKENS:
            yield piece
            piece = []
        piece.append(row)
    yield piece


@dataclass(frozen=True)
class Batch:
    """Rows padded on their right to the longest; all tensors (rows, length) int64.

    `labels` has a token's own id where it is trained, else -100; `attention` is 1 on tokens.
    """

    ids: Tensor
    attention: Tensor
    positions: Tensor
    labels: Tensor

    @classmethod
    def of(cls, rows: Sequence[TokenRow], device: torch.device) -> Self:
        length = max(len(row.ids) for row in rows)
        shape = (len(rows), length)
        # Padding is told by the mask, so any id will do; 0 is in every vocabulary.
        ids = torch.zeros(shape, dtype=torch.int64)
        attention = torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, NOT_TRAINED, dtype=torch.int64)
        for index, row in enumerate(rows):
            size = len(row.ids)
            ids[index, :size] = row.ids
            attention[index, :size] = 1
            labels[index, :size] = row.ids.long().masked_fill(~row.trained, NOT_TRAINED)
        positions = torch.arange(length).expand(shape)
        return cls(*(tensor.to(device) for tensor in (ids, attention, positions, labels)))
