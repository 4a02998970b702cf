"""The kernels of `rms_norm.py`, in Triton."""

import triton
import triton.language as tl
from torch import Tensor

# Values for each thread of a program, which has a row of them.
EACH, LEAST_WARPS, MOST_WARPS = 8, 1, 16


@triton.jit  # type: ignore[untyped-decorator]
def forward_of_row(  # type: ignore[no-untyped-def]
    x, weight, out, width, epsilon: tl.constexpr, block: tl.constexpr
):
    """A program for each row of (rows, width)."""
    row, places = tl.program_id(0).to(tl.int64), tl.arange(0, block)
    there = places < width
    given = tl.load(x + row * width + places, mask=there, other=0)
    values = given.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / width + epsilon)
    # Rounded before it is weighed, as transformers does.
    normed = (values * scale).to(given.dtype).to(tl.float32)
    weighed = normed * tl.load(weight + places, mask=there, other=0).to(tl.float32)
    tl.store(out + row * width + places, weighed.to(given.dtype), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def backward_of_row(  # type: ignore[no-untyped-def]
    of_out, x, weight, of_x, width, epsilon: tl.constexpr, block: tl.constexpr
):
    row, places = tl.program_id(0).to(tl.int64), tl.arange(0, block)
    there = places < width
    given = tl.load(x + row * width + places, mask=there, other=0)
    values = given.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / width + epsilon)
    normed = values * scale
    of_normed = tl.load(of_out + row * width + places, mask=there, other=0).to(tl.float32)
    of_normed *= tl.load(weight + places, mask=there, other=0).to(tl.float32)
    along = tl.sum(of_normed * normed, axis=0) / width
    found = scale * (of_normed - normed * along)
    tl.store(of_x + row * width + places, found.to(given.dtype), mask=there)


def forward(x: Tensor, weight: Tensor, out: Tensor, epsilon: float) -> None:
    """Of rows (rows, width), into `out`."""
    block, warps = sizes(x)
    forward_of_row[(len(x),)](x, weight, out, x.shape[1], epsilon, block, num_warps=warps)


def backward(of_out: Tensor, x: Tensor, weight: Tensor, of_x: Tensor, epsilon: float) -> None:
    block, warps = sizes(x)
    backward_of_row[(len(x),)](of_out, x, weight, of_x, x.shape[1], epsilon, block, num_warps=warps)


def sizes(x: Tensor) -> tuple[int, int]:
    """(values, warps) of a program."""
    block: int = triton.next_power_of_2(x.shape[1])
    return block, min(MOST_WARPS, max(LEAST_WARPS, block // (32 * EACH)))
