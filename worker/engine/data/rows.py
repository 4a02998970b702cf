"""A data set's rows in tokens, held in a few flat buffers: an object a row would cost a hundred
times a short row's tokens.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self, overload

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenRow:
    """One trainable row: `ids` (length,) int32 and `trained` (length,) bool, false where nothing
    stands before in the same document. Of a row of the file that was split it is the `piece`th,
    counted from 0.

    A preference is one row of two documents: `second` is where the second one begins. `reference`
    (2,) fp32 are the log-probabilities of both answers before the training. Where tokens are
    masked, `wanted` (length,) int32 are those that stood there.
    """

    line: int
    ids: Tensor
    trained: Tensor
    piece: int = 0
    second: int | None = None
    reference: Tensor | None = None
    wanted: Tensor | None = None

    @property
    def trained_tokens(self) -> int:
        return int(self.trained.sum())

    @property
    def documents(self) -> tuple[int, ...]:
        """Their lengths."""
        length = len(self.ids)
        return (length,) if self.second is None else (self.second, length - self.second)


class Store:
    """The buffers. `ends` is where each row ends in `ids` and `trained`; `seconds` has 0 for a row
    of one document.
    """

    def __init__(self) -> None:
        self.ids = array("i")
        self.trained = bytearray()
        self.ends = array("q")
        self.lines = array("q")
        self.pieces = array("i")
        self.seconds = array("i")

    @property
    def bytes(self) -> int:
        each = (self.ids, self.ends, self.lines, self.pieces, self.seconds)
        return len(self.trained) + sum(len(buffer) * buffer.itemsize for buffer in each)


class Rows(Sequence[TokenRow]):
    """Rows that are made when they are asked for, each in tensors of its own. `reference` (rows, 2)
    fp32 is theirs, as in `TokenRow`; `change` is what is done to each.
    """

    def __init__(self, rows: Iterable[TokenRow] = ()) -> None:
        self.store = Store()
        self.reference: Tensor | None = None
        self.change: Callable[[TokenRow], TokenRow] | None = None
        self += rows

    def __iadd__(self, rows: Iterable[TokenRow]) -> Self:
        """Only while nothing else has the buffers."""
        store = self.store
        for row in rows:
            store.ids.frombytes(row.ids.to(torch.int32).numpy().tobytes())
            store.trained += row.trained.numpy().tobytes()
            store.ends.append(len(store.ids))
            store.lines.append(row.line)
            store.pieces.append(row.piece)
            store.seconds.append(row.second or 0)
        return self

    def each(self, change: Callable[[TokenRow], TokenRow]) -> "Rows":
        """The same rows, each of them changed when it is asked for; never in its length."""
        return self.sharing(self.reference, change)

    def with_reference(self, reference: Tensor) -> "Rows":
        return self.sharing(reference, self.change)

    def sharing(
        self, reference: Tensor | None, change: Callable[[TokenRow], TokenRow] | None
    ) -> "Rows":
        """On the same buffers."""
        rows = Rows()
        rows.store, rows.reference, rows.change = self.store, reference, change
        return rows

    def __len__(self) -> int:
        return len(self.store.ends)

    @overload
    def __getitem__(self, at: int) -> TokenRow: ...
    @overload
    def __getitem__(self, at: slice) -> list[TokenRow]: ...
    def __getitem__(self, at: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(len(self)))]
        index = range(len(self))[at]
        store = self.store
        start, end = store.ends[index - 1] if index else 0, store.ends[index]
        row = TokenRow(
            store.lines[index],
            torch.frombuffer(store.ids[start:end], dtype=torch.int32),
            torch.frombuffer(store.trained[start:end], dtype=torch.bool),
            store.pieces[index],
            store.seconds[index] or None,
            None if self.reference is None else self.reference[index],
        )
        return self.change(row) if self.change else row

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, int64."""
        ends = torch.frombuffer(self.store.ends, dtype=torch.int64)
        return ends.diff(prepend=torch.zeros(1, dtype=torch.int64))

    @property
    def tokens(self) -> int:
        return len(self.store.ids)

    @property
    def trained_tokens(self) -> int:
        """Of the rows as they are stored."""
        return self.store.trained.count(1)

    @property
    def lines(self) -> int:
        """How many lines of the file they come from."""
        lines = torch.frombuffer(self.store.lines, dtype=torch.int64)
        return 1 + int((lines.diff() != 0).sum())

    @property
    def largest_token(self) -> int:
        return int(torch.frombuffer(self.store.ids, dtype=torch.int32).max())


def lengths_of(rows: Sequence[TokenRow]) -> Tensor:
    """Tokens of each row, int64."""
    if isinstance(rows, Rows):
        return rows.lengths
    return torch.tensor([len(row.ids) for row in rows], dtype=torch.int64)


def changed(rows: Sequence[TokenRow], change: Callable[[TokenRow], TokenRow]) -> Sequence[TokenRow]:
    """Each of them changed; of `Rows` when it is asked for."""
    return rows.each(change) if isinstance(rows, Rows) else [change(row) for row in rows]
