"""What a simulated GPU writes down: kernels, the bytes that they move, waits, copies, memory."""

import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

ROOT = str(Path(__file__).parents[2])
HERE = str(Path(__file__).parent)
# CUDA's caching allocator gives memory in pieces of this.
PIECE = 512
# They make room and write nothing.
ROOM = ("empty", "new_empty")
# They read of their first tensor only what they give, or write of it only what they are given.
SPARSE_READS = {"embedding", "gather", "index", "index_select", "take"}
SPARSE_WRITES = {"index_put", "index_put_", "scatter", "scatter_", "scatter_add", "scatter_add_"}
WRITES_ALONE = {"fill_", "zero_", "normal_", "uniform_", "full", "zeros", "ones", "arange"}
# Where tensor cores are.
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "attn", "attention", "_grouped_mm")


@dataclass
class Ledger:
    """What one simulated GPU did since `start`. `waits` and `pageable` copies are by what it was
    and the line of code that caused it; `products` are the dtypes that matrix products and
    attention were computed in. `now` and `peak` are bytes that are taken.
    """

    launches: int = 0
    bytes: int = 0
    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    pageable: Counter[str] = field(default_factory=Counter)
    products: set[str] = field(default_factory=set)
    now: int = 0
    peak: int = 0
    taken: dict[int, int] = field(default_factory=dict)

    def start(self) -> None:
        """From here on it is counted."""
        self.launches = self.bytes = 0
        for counter in (self.kernels, self.waits, self.pageable):
            counter.clear()
        self.products.clear()
        self.peak = self.now

    def holds(self, tensor: Tensor) -> bool:
        """Whether its memory is the GPU's. Other tensors on the meta device are only placeholders,
        which transformers makes while it loads a model.
        """
        return id_of(tensor) in self.taken

    def take(self, tensor: Tensor) -> None:
        which = id_of(tensor)
        if which in self.taken:
            return
        storage = tensor.untyped_storage()
        size = -(-storage.nbytes() // PIECE) * PIECE
        self.taken[which] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.give_back, which)

    def give_back(self, which: int) -> None:
        self.now -= self.taken.pop(which)

    def launched(self, name: str, read: list[Tensor], written: list[Tensor]) -> None:
        """A kernel that is not only a view."""
        if name.startswith(ROOM):
            return
        self.launches += 1
        self.kernels[name] += 1
        self.bytes += moved(name, read, written)
        if any(part in name for part in PRODUCTS):
            dtypes = {short(each) for each in read if each.is_floating_point()}
            self.products.add(f"{name}: {', '.join(sorted(dtypes))}")

    def waited(self, what: str) -> None:
        self.waits[f"{what} at {caused_by()}"] += 1

    def copied_pageable(self) -> None:
        self.pageable[f"a copy to the device at {caused_by()}"] += 1


def moved(name: str, read: list[Tensor], written: list[Tensor]) -> int:
    """Bytes, if each tensor is read or written once."""
    out = sum(map(size_of, written))
    if name in WRITES_ALONE:
        return out
    distinct = list({id(each): each for each in read}.values())
    if name in SPARSE_READS:
        return 2 * out + sum(map(size_of, distinct[1:]))
    if name in SPARSE_WRITES:
        return 2 * sum(map(size_of, distinct[1:]))
    return out + sum(map(size_of, distinct))


def size_of(tensor: Tensor) -> int:
    """Bytes; what is expanded lies in memory once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count


def id_of(tensor: Tensor) -> int:
    """The same for views of the same memory."""
    which: int = tensor.untyped_storage()._cdata
    return which


def short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def caused_by() -> str:
    """The innermost line of the engine, or else of a library."""
    frames = [
        frame
        for frame in reversed(traceback.extract_stack())
        if not frame.filename.startswith((HERE, "<")) and "/torch/" not in frame.filename
    ]
    ours = [frame for frame in frames if frame.filename.startswith(f"{ROOT}/worker/")]
    frame = (ours or frames)[0]
    name = frame.filename.removeprefix(f"{ROOT}/").partition("site-packages/")
    return f"{name[2] or name[0]}:{frame.lineno}"


def tensors_in(*values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(*value)
        elif isinstance(value, dict):
            yield from tensors_in(*value.values())
