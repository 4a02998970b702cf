"""The kernels of `swiglu.py`, in Triton."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 2048, 8


@triton.jit  # type: ignore[untyped-decorator]
def forward_of_block(gate, up, out, count, block: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    there = places < count
    given = tl.load(gate + places, mask=there, other=0)
    values = given.to(tl.float32)
    # Rounded before it is multiplied, as PyTorch does.
    made = (values * tl.sigmoid(values)).to(given.dtype).to(tl.float32)
    made *= tl.load(up + places, mask=there, other=0).to(tl.float32)
    tl.store(out + places, made.to(given.dtype), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def backward_of_block(  # type: ignore[no-untyped-def]
    of_out, gate, up, of_gate, of_up, count, block: tl.constexpr
):
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    there = places < count
    given = tl.load(gate + places, mask=there, other=0)
    values = given.to(tl.float32)
    of_made = tl.load(of_out + places, mask=there, other=0).to(tl.float32)
    times = tl.load(up + places, mask=there, other=0).to(tl.float32)
    chance = tl.sigmoid(values)
    slope = chance * (1 + values * (1 - chance))
    tl.store(of_gate + places, (of_made * times * slope).to(given.dtype), mask=there)
    tl.store(of_up + places, (of_made * values * chance).to(given.dtype), mask=there)


def forward(gate: Tensor, up: Tensor, out: Tensor) -> None:
    """All of one shape, and each in one piece of memory; into `out`."""
    forward_of_block[blocks(gate)](gate, up, out, gate.numel(), BLOCK, num_warps=WARPS)


def backward(of_out: Tensor, gate: Tensor, up: Tensor, of_gate: Tensor, of_up: Tensor) -> None:
    backward_of_block[blocks(gate)](
        of_out, gate, up, of_gate, of_up, gate.numel(), BLOCK, num_warps=WARPS
    )


def blocks(values: Tensor) -> tuple[int]:
    return (-(-values.numel() // BLOCK),)
