"""The kernel of `nll.py`, in Triton, which comes with PyTorch's builds for CUDA."""

import triton
import triton.language as tl
from torch import Tensor

# Values of a row that one program has in its registers at a time, 32 for each of its threads: so
# many that a GPU's processor runs one program at a time. What they all read is then a few dozen MB,
# which is found in its L2 cache when it is read once more.
BLOCK, WARPS = 1 << 15, 32


@triton.jit  # type: ignore[untyped-decorator]
def of_row(  # type: ignore[no-untyped-def]
    logits, labels, losses, right, columns, with_gradient: tl.constexpr, block: tl.constexpr
):
    """A program for each row of (rows, columns)."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * columns
    label = tl.load(labels + row)
    best, total, guess = -float("inf"), 0.0, 0
    for start in range(0, columns, block):
        places = start + tl.arange(0, block)
        values = tl.load(logits + places, mask=places < columns, other=-float("inf"))
        values = values.to(tl.float32)
        most = tl.max(values, axis=0)
        guess = tl.where(most > best, start + tl.argmax(values, axis=0), guess)
        most = tl.maximum(most, best)
        total = total * tl.exp(best - most) + tl.sum(tl.exp(values - most), axis=0)
        best = most
    of_label = tl.load(logits + label).to(tl.float32)
    tl.store(losses + row, tl.log(total) + best - of_label)
    tl.store(right + row, guess == label)
    if with_gradient:
        for start in range(0, columns, block):
            places = start + tl.arange(0, block)
            values = tl.load(logits + places, mask=places < columns, other=0).to(tl.float32)
            chances = tl.exp(values - best) / total
            chances = tl.where(places == label, chances - 1, chances)
            tl.store(logits + places, chances.to(logits.dtype.element_ty), mask=places < columns)


def launch(
    logits: Tensor, labels: Tensor, losses: Tensor, right: Tensor, *, with_gradient: bool
) -> None:
    """As `nll.nll_in_place`, into tensors that are there."""
    rows, columns = logits.shape
    block = min(BLOCK, triton.next_power_of_2(columns))
    of_row[(rows,)](logits, labels, losses, right, columns, with_gradient, block, num_warps=WARPS)
