"""Which tokens of its document a token sees. Transformers says it for each layer, as a predicate
over two indices; it is asked here in the place of building a mask from it.
"""

from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any, Literal, Self

import torch
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

from worker.engine.device import sent
from worker.engine.errors import Unsupported

# (batch, head, query, key) indices, broadcast together, to bool.
Predicate = Callable[[Any, Any, Any, Any], Any]
# Tokens before and after its own that a token sees, -1 for all; None: it is no such window.
Window = tuple[int, int] | None

# A grid (queries, keys) of bool, where it is neither all tokens nor those up to the query's own.
Seen = Tensor | Literal["all", "causal"]

ROWS_AT_ONCE = 512

_known: dict[Hashable, Window] = {}


class Visible:
    """What `predicate` allows among the tokens of one document, whose indices begin at 0."""

    def __init__(self, predicate: Predicate) -> None:
        self.predicate = predicate
        self.identity = identity_of(predicate)
        self.windows: dict[Hashable, Window] = {}
        self.grids: dict[int, Tensor] = {}

    @classmethod
    def causal(cls) -> Self:
        return cls(causal_mask_function)

    @classmethod
    def all(cls) -> Self:
        return cls(bidirectional_mask_function)

    def __getitem__(self, index: Any) -> Self:  # noqa: ANN401 (a tensor's)
        """Some layers cut a mask to its own size."""
        parts = index if isinstance(index, tuple) else (index,)
        if all(part in (slice(None), slice(0, None), Ellipsis) for part in parts):
            return self
        raise Unsupported(f"it cuts its mask to {index}")

    def window(self, length: int) -> Window:
        """Of documents of at most `length` tokens. What they see is the corner of what longer ones
        do, so it is found out for a power of two, and once.
        """
        longest = 1 << (length - 1).bit_length()
        known = self.windows if self.identity is None else _known
        key = (self.identity, longest)
        if key not in known:
            known[key] = self.found(longest)
        return known[key]

    def found(self, length: int) -> Window:
        everything = torch.arange(length)
        first, last = (self.allows(row, everything)[0] for row in (everything[:1], everything[-1:]))
        seen = int(last.sum()) - 1, int(first.sum()) - 1
        before, after = (-1 if count == length - 1 else count for count in seen)
        for rows in torch.split(asked_of(length), ROWS_AT_ONCE):
            wanted = within((before, after), rows, everything)
            if not torch.equal(self.allows(rows, everything), wanted):
                return None
        return before, after

    def within(self, length: int, device: torch.device) -> Seen:
        """In a document of so many tokens."""
        window = self.window(length)
        if window is not None:
            before, after = (count == -1 or count >= length - 1 for count in window)
            if before and after:
                return "all"
            if before and window[1] == 0:
                return "causal"
        if length not in self.grids:
            indices = torch.arange(length)
            self.grids[length] = sent(self.allows(indices, indices), device)
        return self.grids[length]

    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(queries, keys) bool, on the CPU."""
        none = torch.zeros((), dtype=torch.long)
        try:
            allowed = self.predicate(none, none, queries[:, None], keys[None, :])
        except RuntimeError as error:
            raise Unsupported(f"its mask cannot be asked by index: {error}") from error
        return torch.as_tensor(allowed).expand(len(queries), len(keys))


def asked_of(length: int) -> Tensor:
    """The queries that are asked about; of many some at the ends and some in between."""
    if length <= 4 * ROWS_AT_ONCE:
        return torch.arange(length)
    ends = torch.arange(ROWS_AT_ONCE)
    between = torch.linspace(ROWS_AT_ONCE, length - ROWS_AT_ONCE, ROWS_AT_ONCE).long()
    return torch.cat([ends, between, length - 1 - ends])


def within(window: tuple[int, int], queries: Tensor, keys: Tensor) -> Tensor:
    """(queries, keys) bool."""
    before, after = window
    distance = queries[:, None] - keys[None, :]
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if before >= 0:
        allowed &= distance <= before
    if after >= 0:
        allowed &= -distance <= after
    return allowed


def identity_of(value: object) -> Hashable | None:
    """Equal for predicates that allow the same; None if one depends on more than numbers.

    Raises:
        Unsupported: it depends on the tokens of the sequence, and not on where they stand alone.

    """
    if isinstance(value, Tensor):
        if value.numel() > 1:
            raise Unsupported("its mask depends on the tokens")
        return None
    if isinstance(value, tuple):
        parts = [identity_of(part) for part in value]
        return None if None in parts else tuple(parts)
    if isinstance(value, FunctionType):
        cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
        inside = identity_of(cells)
        return None if inside is None else (value.__code__, inside)
    return value if isinstance(value, int) else None
