"""A frozen base whose layers are divided among the processes of one training. Of each layer's
matrices a process keeps a part; before a layer is computed with, it is gathered from all.

There is room for two layers: the one that is computed, and the next, which is gathered meanwhile.
A layer's weights are views of one of the two rooms, of the same one each time. So whatever holds on
to a weight reads the right values whenever its layer is there: a quantized layer, an adapter
computed in one with it, and what autograd saved for the backward pass.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worker.engine.device import device
from worker.engine.errors import RankLost
from worker.engine.ranks import together

# Where a weight begins in its layer, and each part of a layer: what kernels may count on.
ALIGNED = 256
ROOMS = 2

T = TypeVar("T")
# A layer's number, and whether it is passed in the backward pass.
Pass = tuple[int, bool]


class Shards:
    """The layers of one base. A round is one forward pass through all of them, and a backward pass
    if gradients are taken. All processes go through as many rounds, at the same places: each layer
    waits until all of them have given their parts of it.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """Takes the matrices out of `layers`, which lie on the host, part by part. This process's
        parts and the rooms lie on its device.
        """
        self.layers = list(layers)
        contents = [list(matrices_of(layer)) for layer in self.layers]
        sizes = [part_size(content) for content in contents]
        self.parts = [torch.zeros(size, dtype=torch.uint8, device=device()) for size in sizes]
        largest = together.count() * max(sizes)
        self.rooms = [
            torch.zeros(largest, dtype=torch.uint8, device=device()) for _ in range(ROOMS)
        ]
        for number, content in enumerate(contents):
            take(content, self.parts[number], self.rooms[number % ROOMS])
        self.there: list[int | None] = [None] * ROOMS
        self.coming: dict[int, Any] = {}
        self.left: deque[Pass] = deque()
        self.returning = False
        self.leads = False
        for number, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(partial(self.before_forward, number))
            layer.register_forward_hook(partial(self.after_forward, number))

    def each(
        self, pieces: Iterable[T], size: Callable[[T], int], work: Callable[[int, T], None]
    ) -> None:
        """Does `work`, which is one round, on each piece that is this process's, given its number
        among all. Who has fewer pieces than others, or has failed, still goes through their rounds.
        """
        listed = list(pieces)
        hands = together.dealt([size(piece) for piece in listed], together.count())
        own = hands[together.rank()]
        error: Exception | None = None
        try:
            for turn in range(max(map(len, hands))):
                if error is not None or turn >= len(own):
                    self.stand_by()
                    continue
                try:
                    self.carry(partial(work, own[turn], listed[own[turn]]))
                except RankLost:
                    raise
                except Exception as raised:  # noqa: BLE001 (it is raised when the others are done)
                    error = raised
            if error is not None:
                raise error
        finally:
            # Its traceback holds on to the tensors of the work, and this frame is in it.
            del error

    def carry(self, work: Callable[[], T]) -> T:
        """Does `work`, which is one round. If it fails here, on whatever, the others get all the
        same what they still need of this process, and meet it where they agree on how it went.
        """
        self.begin()
        try:
            made = work()
        except RankLost:
            raise
        except Exception:
            self.give_rest()
            raise
        if self.left:
            left_out = list(self.left)
            self.give_rest()
            raise RuntimeError(f"The work has left out layers: {left_out}.")
        return made

    def led(self, work: Callable[[], T]) -> T | None:
        """The first process does `work` without gradients, in as many rounds as it takes. It tells
        the others of each, and when it is done or has failed; they stand by.
        """
        if not together.is_first():
            with torch.no_grad():
                while together.gathered(0)[0][0]:
                    self.stand_by()
            return None
        self.leads = True
        try:
            with torch.no_grad():
                made = work()
        except RankLost:
            raise
        except BaseException:
            self.end_lead()
            raise
        self.end_lead()
        return made

    def end_lead(self) -> None:
        self.leads = False
        self.give_rest()
        together.gathered(0)

    def stand_by(self) -> None:
        """While others do a round, and this process has nothing to compute."""
        self.begin()
        self.give_rest()

    def begin(self) -> None:
        self.left, self.returning = deque(self.way()), False

    def way(self) -> Iterator[Pass]:
        """Of one round."""
        count = len(self.layers)
        yield from ((number, False) for number in range(count))
        if torch.is_grad_enabled():
            yield from ((number, True) for number in reversed(range(self.lowest, count)))

    @cached_property
    def lowest(self) -> int:
        """The first layer that gradients pass: those before it have no adapter."""
        trained = (
            number
            for number, layer in enumerate(self.layers)
            if any(parameter.requires_grad for parameter in layer.parameters())
        )
        return next(trained, len(self.layers))

    def give_rest(self) -> None:
        while self.left:
            self.enter(*self.left[0])

    def before_forward(self, number: int, *_: object) -> None:
        if self.leads and number == 0:
            self.give_rest()  # of a round that has failed
            together.gathered(1)
            self.begin()
        if not self.returning:
            self.enter(number, back=False)
        elif self.there[number % ROOMS] != number:
            raise RuntimeError(f"Layer {number} is computed again where it is not there.")

    def after_forward(self, number: int, _module: object, _given: object, out: object) -> None:
        if self.returning or not torch.is_grad_enabled():
            return
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(  # type: ignore[no-untyped-call]
                    partial(self.before_backward, number)
                )

    def before_backward(self, number: int, _: Tensor) -> None:
        if self.left and self.left[0] == (number, True):  # else another of its outputs was first
            self.enter(number, back=True)

    def enter(self, number: int, back: bool) -> None:
        """Has the layer there, and the next one on its way."""
        if not self.left or self.left[0] != (number, back):
            raise RuntimeError(
                f"Layer {number} is computed out of its turn: a divided base is computed by all "
                "processes together."
            )
        self.left.popleft()
        self.returning = back
        self.gather(number)
        if (coming := self.coming.pop(number, None)) is not None:
            with together.needing_all():
                coming.wait()
        if self.left:
            self.gather(self.left[0][0])

    def gather(self, number: int) -> None:
        """Begins to, if it is not there."""
        room = number % ROOMS
        if self.there[room] == number:
            return
        part = self.parts[number]
        whole = self.rooms[room][: len(part) * together.count()]
        self.there[room] = number
        with together.needing_all():
            self.coming[number] = dist.all_gather_single(whole, part, async_op=True)


def matrices_of(layer: nn.Module) -> Iterator[tuple[Any, str]]:
    """What is divided of a layer: each as an object and the attribute that it holds a tensor by.
    They are its matrices, quantized or not, and the scales of 4 bits. The rest is small.
    """
    for parameter in layer.parameters():
        if parameter.dim() < 2:
            continue
        yield parameter, "data"
        if (state := getattr(parameter, "quant_state", None)) is not None:
            yield state, "absmax"


def part_size(content: Sequence[tuple[Any, str]]) -> int:
    """In bytes."""
    size = sum(aligned(getattr(owner, name).nbytes) for owner, name in content)
    return aligned(-(-size // together.count()))


def aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


@torch.no_grad()
def take(content: Sequence[tuple[Any, str]], part: Tensor, room: Tensor) -> None:
    """Copies what is this process's part of a layer, and puts views of a room in its place."""
    first = together.rank() * len(part)
    start = 0
    for owner, name in content:
        tensor = getattr(owner, name).as_subclass(Tensor).contiguous()
        values = tensor.view(-1).view(torch.uint8)
        end = start + len(values)
        low, high = max(start, first), min(end, first + len(part))
        if low < high:
            part[low - first : high - first].copy_(values[low - start : high - start])
        setattr(owner, name, room[start:end].view(tensor.dtype).view(tensor.shape))
        start += aligned(len(values))


@torch.no_grad()
def send_rest(model: nn.Module) -> None:
    """What is not divided, to this process's device."""
    here = device()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(here)
        if (state := getattr(parameter, "quant_state", None)) is not None:
            state.to(here)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(here))
