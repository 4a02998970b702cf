"""Data sets that have been read before, so that the next job on one starts at once."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from safetensors.torch import load, save

from tunery.spec import Overflow
from worker.engine.data import Kind, TokenRow, TokenRows

LIMIT_BYTES = 256 << 20
TOKEN_BYTES = 5  # its id, and whether it is trained


class Name(NamedTuple):
    """Which rows they are. The project is part of it: whether a file has been here before is no
    other project's business, and its start would tell.
    """

    project_id: str
    file_sha256: str
    tokenizer_sha256: str
    max_length: int
    objective: str
    train_on_inputs: bool
    overflow: Overflow


@dataclass(frozen=True)
class Packed:
    """A data set in bytes, which nobody can change. `refused` as in `TokenRows`."""

    tensors: bytes
    refused: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, data: TokenRows) -> Self:
        tensors = {
            "ids": torch.cat([row.ids for row in data.rows]),
            "trained": torch.cat([row.trained for row in data.rows]),
            "lengths": torch.tensor([len(row.ids) for row in data.rows]),
            "lines": torch.tensor([row.line for row in data.rows]),
            "pieces": torch.tensor([row.piece for row in data.rows]),
            "seconds": torch.tensor([row.second or 0 for row in data.rows]),
            "split": torch.tensor(data.split, dtype=torch.int64),
            "cut": torch.tensor(data.cut, dtype=torch.int64),
            "dropped": torch.tensor(data.dropped, dtype=torch.int64),
        }
        return cls(save(tensors), tuple(data.refused))

    def unpacked(self, kind: Kind, max_length: int) -> TokenRows:
        """In tensors of its own."""
        tensors = load(self.tensors)
        lengths = tensors["lengths"].tolist()
        rows = zip(
            tensors["lines"].tolist(),
            torch.split(tensors["ids"], lengths),
            torch.split(tensors["trained"], lengths),
            tensors["pieces"].tolist(),
            [second or None for second in tensors["seconds"].tolist()],
            strict=True,
        )
        return TokenRows(
            kind,
            max_length,
            rows=[TokenRow(*row) for row in rows],
            split=tensors["split"].tolist(),
            cut=tensors["cut"].tolist(),
            dropped=tensors["dropped"].tolist(),
            refused=list(self.refused),
        )

    @property
    def size(self) -> int:
        return len(self.tensors) + sum(len(reason) for _, reason in self.refused)


class KnownData:
    """At most `limit` bytes in memory; what was used longest ago goes first."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.limit = limit
        self.sets: OrderedDict[Name, Packed] = OrderedDict()

    def rows(self, name: Name, kind: Kind, read: Callable[[], TokenRows]) -> TokenRows:
        """The rows of that name, for the caller to keep. `read` is called if they are not known,
        and what it raises is raised.
        """
        if name in self.sets:
            self.sets.move_to_end(name)
            return self.sets[name].unpacked(kind, name.max_length)
        data = read()
        if TOKEN_BYTES * data.tokens > self.limit:
            return data
        self.sets[name] = Packed.of(data)
        while sum(packed.size for packed in self.sets.values()) > self.limit:
            self.sets.popitem(last=False)
        return data
