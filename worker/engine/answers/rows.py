"""What the model has computed of each answer's tokens, and the next token of all of them at once.

Where a family's rows are `packed` they lie in one batch, padded on the left; rows join and leave it
between two tokens. A prompt is computed alone, so that no padding is ever asked what it sees. The
rows of other families are computed one by one, with a cache as transformers has it for them.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from worker.engine.model.base import Base
from worker.engine.model.head import Head

# Logits of so many tokens at once: a vocabulary is large.
HEAD_TOKENS = 64
ROOM = 64


class Growing(DynamicLayer):
    """Keys and values (rows, heads, tokens, width), with room for more behind them. A layer with a
    window has all of them too: what it sees its mask says.
    """

    def __init__(self, **_: Any) -> None:  # noqa: ANN401 (as transformers makes them)
        super().__init__()  # type: ignore[no-untyped-call]
        self.rooms: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.hold(key_states[:, :, :0], value_states[:, :, :0])
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        if end > self.rooms[0].shape[2]:
            more = end - begin + ROOM + begin // 4
            self.rooms = [pad(room[:, :, :begin], (0, 0, 0, more)) for room in self.rooms]
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, begin:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self.rooms)
        return self.keys, self.values

    def hold(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.rooms = [keys, values]

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> Self:
        layer = cls()
        layer.lazy_initialization(keys, values)
        layer.hold(keys, values)
        return layer


@dataclass
class Rows:
    """`lengths` are the tokens of each row that are in the cache."""

    lengths: list[int]
    cache: Any

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def kept(self, rows: list[int]) -> "Rows":
        """Those of a batch, without padding that all of them have."""
        lengths = [self.lengths[row] for row in rows]
        start = self.longest - max(lengths)
        layers = [
            Growing.of(layer.keys[rows, :, start:], layer.values[rows, :, start:])
            for layer in self.cache.layers
        ]
        return Rows(lengths, Cache(layers=list(layers)))

    @staticmethod
    def together(parts: "list[Rows]") -> "Rows":
        """Those of several batches in one. A part may come more than once."""
        if len(parts) == 1:
            return parts[0]
        longest = max(part.longest for part in parts)

        def joined(states: list[Tensor]) -> Tensor:
            return torch.cat([pad(each, (0, 0, longest - each.shape[2], 0)) for each in states])

        layers = [
            Growing.of(joined([each.keys for each in same]), joined([each.values for each in same]))
            for same in zip(*(part.cache.layers for part in parts), strict=True)
        ]
        lengths = [length for part in parts for length in part.lengths]
        return Rows(lengths, Cache(layers=list(layers)))


class Voice:
    """A loaded base, as it is asked for the next token."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.head = Head(base.model)
        self.positions = base.verdict.way == "packed"
        kinds = {type(layer) for layer in DynamicCache(config=base.model.config).layers}
        plain = kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
        # Whether its rows may lie in one batch, and a prompt be computed in pieces.
        self.batched = self.positions and not base.verdict.mixers and plain

    def empty(self) -> Rows:
        cache = Cache(layer_class_to_replicate=Growing) if self.batched else None
        return Rows([0], cache)

    def states(self, rows: Rows, ids: Tensor) -> Tensor:
        """(rows, tokens, width) of the next tokens (rows, tokens), which the cache then has."""
        where: dict[str, Tensor] = {}
        device, count = ids.device, ids.shape[1]
        lengths = torch.tensor(rows.lengths, device=device)
        if self.positions:
            where["position_ids"] = lengths[:, None] + torch.arange(count, device=device)
        if len(set(rows.lengths)) > 1:
            places = torch.arange(rows.longest + count, device=device)
            where["attention_mask"] = (places >= (rows.longest - lengths)[:, None]).long()
        out = self.head.body(input_ids=ids, past_key_values=rows.cache, use_cache=True, **where)
        rows.cache = out.past_key_values
        rows.lengths = [length + count for length in rows.lengths]
        states: Tensor = out.last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """(tokens, vocabulary) fp32 of (tokens, width)."""
        if self.head.plain:
            return linear(states, self.head.weights.weight, self.head.weights.bias).float()
        return self.head.logits(states).float()
