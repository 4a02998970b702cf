"""What the processes of one training do together. `torch.distributed` is the whole process's, and
so are these functions: in a process that trains alone they wait for nobody and change nothing.

The processes take the same way through a training. The first one reads commands, reports, and
writes; the others know nothing of that. They meet where `agreed` is called, and go on together or
not at all.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from worker.engine.device import device, device_memory, is_out_of_memory
from worker.engine.errors import RankLost, StopAsked

# What one process waits for another that says nothing. The first may be at questions to the model
# for a long time, of which it tells its agent; an agent ends an engine that is silent much sooner.
PATIENCE = timedelta(hours=2)
# Of tensors that are added up, so many bytes at once: sending takes a copy.
BUCKET_BYTES = 64 << 20

T = TypeVar("T")


class Fate(IntEnum):
    """What became of a process's work. Of several fates the highest is that of all."""

    DONE = 0
    OUT_OF_MEMORY = 1
    STOPPED_TO_GO_ON = 2
    STOPPED = 3
    BROKE = 4


def join() -> None:
    """Meets the other processes that torchrun has started."""
    backend = "cpu:gloo,cuda:nccl" if device().type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)


def left_as_first() -> bool:
    """From here on this process is alone. Whether it is the one that goes on."""
    first = is_first()
    if dist.is_initialized():
        dist.destroy_process_group()
    return first


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def rank() -> int:
    """The place of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def memory() -> int:
    """Bytes that the training in each process may be planned with."""
    if count() == 1:
        return device_memory()
    own = device_memory() if device().type == "cuda" else device_memory() // count()
    least = torch.tensor(own)
    with needing_all():
        dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def agreed(work: Callable[[], T], at: int = 0) -> T:
    """Does this process's own work, and returns what it makes when all have done theirs. `at` is
    the step, which must be the same for all.

    Raises:
        StopAsked: one of them was asked to stop.
        torch.OutOfMemoryError: one of them ran out of memory.
        RankLost: one of them broke in another way, or is gone.

    """
    if count() == 1:
        return work()
    made: T | None = None
    error: Exception | None = None
    try:
        made = work()
    except Exception as raised:  # noqa: BLE001 (it is raised when the others know)
        error = raised
    own = fate_of(error)
    fates = gathered(own, at)
    worst = max(Fate(fate) for fate, _ in fates)
    try:
        if error is not None and own is worst:
            raise error
        if any(step != at for _, step in fates):
            raise RankLost("The processes of this training are not at the same step.")
        require_done(worst)
        return made  # type: ignore[return-value]
    finally:
        # Its traceback holds on to the tensors of the work, and this frame is in it.
        del error


def fate_of(error: Exception | None) -> Fate:
    if error is None:
        return Fate.DONE
    if isinstance(error, StopAsked):
        return Fate.STOPPED_TO_GO_ON if error.checkpoint else Fate.STOPPED
    return Fate.OUT_OF_MEMORY if is_out_of_memory(error) else Fate.BROKE


def require_done(worst: Fate) -> None:
    match worst:
        case Fate.OUT_OF_MEMORY:
            raise torch.OutOfMemoryError("Another process of this training ran out of memory.")
        case Fate.STOPPED_TO_GO_ON | Fate.STOPPED:
            raise StopAsked(checkpoint=worst is Fate.STOPPED_TO_GO_ON)
        case Fate.BROKE:
            raise RankLost("Another process of this training failed; the log says how.")


def in_turn(make: Callable[[], T], meanwhile: Callable[[], None] | None = None) -> T:
    """As `agreed`, the first process before the others: they find what it lays down on the disk. If
    there is something to do `meanwhile`, one by one: whose turn it is not does that.
    """
    if count() == 1:
        return make()
    turns, own = (2, int(not is_first())) if meanwhile is None else (count(), rank())
    made = [agreed(make if now == own else meanwhile or nothing) for now in range(turns)]
    return made[own]  # type: ignore[return-value]


def nothing() -> None:
    """What a process does while others work."""


def mine(pieces: Iterable[T], size: Callable[[T], int]) -> Iterator[tuple[int, T]]:
    """Those that this process computes, each with its number among all."""
    if count() == 1:
        yield from enumerate(pieces)
        return
    listed = list(pieces)
    for number in dealt([size(piece) for piece in listed], count())[rank()]:
        yield number, listed[number]


def dealt(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """The numbers of what has these sizes, in so many parts of nearly the same size, each part in
    order: the largest first, each to whoever has least (Graham 1969).
    """
    parts: list[list[int]] = [[] for _ in range(hands)]
    heap = [(0, hand) for hand in range(hands)]
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        held, hand = heapq.heappop(heap)
        parts[hand].append(number)
        heapq.heappush(heap, (held + sizes[number], hand))
    return [sorted(part) for part in parts]


def add_up(tensors: Iterable[Tensor]) -> None:
    """Makes of each tensor, in place, the sum over all processes. They have one dtype."""
    if count() == 1:
        return
    for bucket in buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        with needing_all():
            dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.nbytes > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def total(number: int) -> int:
    """The sum over all processes."""
    if count() == 1:
        return number
    summed = torch.tensor(number)
    add_up([summed])
    return int(summed)


def gathered(*numbers: int) -> list[list[int]]:
    """Each process's, in their order."""
    own = torch.tensor(numbers, dtype=torch.int64)
    all_of_them = [torch.empty_like(own) for _ in range(count())]
    with needing_all():
        dist.all_gather(all_of_them, own)
    return [each.tolist() for each in all_of_them]


def told(text: str) -> str:
    """The first process's text; what the others give is not read."""
    return text if count() == 1 else said_by(0, text)


def any_of(text: str | None) -> str | None:
    """What one of them says, if any does."""
    if count() == 1:
        return text
    speakers = [each for each, (says,) in enumerate(gathered(text is not None)) if says]
    return said_by(speakers[0], text or "") if speakers else None


def said_by(speaker: int, text: str) -> str:
    own = text.encode()
    length = gathered(len(own))[speaker][0]
    said = torch.empty(length, dtype=torch.uint8)
    if rank() == speaker:
        said = torch.frombuffer(bytearray(own), dtype=torch.uint8)
    with needing_all():
        dist.broadcast(said, src=speaker)
    return said.numpy().tobytes().decode()


@contextmanager
def needing_all() -> Iterator[None]:
    """Raises `RankLost` if another process is gone, or has not come in time."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        first, *_ = str(error).splitlines() or [""]
        raise RankLost(
            f"Another of the {count()} processes of this training is gone; the log says how. "
            f"({first})"
        ) from error
