"""The kernel of `rotary.py`, in Triton."""

import triton
import triton.language as tl
from torch import Tensor

# Pairs of values that one program turns.
MOST_PAIRS, WARPS = 1024, 4


@triton.jit  # type: ignore[untyped-decorator]
def of_token(  # type: ignore[no-untyped-def]
    x,
    cos,
    sin,
    out,
    tokens,
    heads,
    x_row,
    x_head,
    x_token,
    out_row,
    out_head,
    out_token,
    cos_row,
    cos_token,
    back: tl.constexpr,
    half: tl.constexpr,
    head_block: tl.constexpr,
    block: tl.constexpr,
):
    """A program for each token of (rows, heads, tokens, 2 half) and some of its heads. Their places
    in memory are steps of `_row`, `_head` and `_token`.
    """
    row = tl.program_id(0).to(tl.int64) // tokens
    token = tl.program_id(0).to(tl.int64) % tokens
    head = tl.program_id(1).to(tl.int64) * head_block + tl.arange(0, head_block)[:, None]
    pair = tl.arange(0, block)[None, :]
    there = (head < heads) & (pair < half)
    of_pair = row * cos_row + token * cos_token + pair
    cos_one = tl.load(cos + of_pair, mask=pair < half, other=0).to(tl.float32)
    cos_two = tl.load(cos + of_pair + half, mask=pair < half, other=0).to(tl.float32)
    sin_one = tl.load(sin + of_pair, mask=pair < half, other=0).to(tl.float32)
    sin_two = tl.load(sin + of_pair + half, mask=pair < half, other=0).to(tl.float32)
    if back:  # the transposed rotation
        sin_one, sin_two = -sin_two, -sin_one
    places = row * x_row + head * x_head + token * x_token + pair
    given = tl.load(x + places, mask=there, other=0)
    dtype = given.dtype
    one = given.to(tl.float32)
    two = tl.load(x + places + half, mask=there, other=0).to(tl.float32)
    # Each product is rounded before they are added up, as PyTorch does.
    turned = (one * cos_one).to(dtype).to(tl.float32) - (two * sin_one).to(dtype).to(tl.float32)
    other = (two * cos_two).to(dtype).to(tl.float32) + (one * sin_two).to(dtype).to(tl.float32)
    places = row * out_row + head * out_head + token * out_token + pair
    tl.store(out + places, turned.to(dtype), mask=there)
    tl.store(out + places + half, other.to(dtype), mask=there)


def launch(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, *, back: bool) -> None:
    """As `rotary.rotated`, into `out`. Only the last dimension has to lie in one piece."""
    rows, heads, tokens, width = x.shape
    block = triton.next_power_of_2(width // 2)
    head_block = min(triton.next_power_of_2(heads), max(1, MOST_PAIRS // block))
    of_token[(rows * tokens, -(-heads // head_block))](
        x,
        cos,
        sin,
        out,
        tokens,
        heads,
        *x.stride()[:3],
        *out.stride()[:3],
        *cos.stride()[:2],
        back,
        width // 2,
        head_block,
        block,
        num_warps=WARPS,
    )
