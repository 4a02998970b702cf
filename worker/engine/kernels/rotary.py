"""Rotary positions of queries and keys in one kernel each way, on a CPU in three of PyTorch's
operations. As transformers writes them, they are six operations forward and eight back for each of
the two, and copies of halves among them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# What modules of transformers call it, whose layers look it up there.
NAME = "apply_rotary_pos_emb"


def rotated_plain(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The twin, of x (rows, heads, tokens, width) with cos and sin (rows or 1, tokens, width): the
    value at i and that half a width later are turned by their angles; each product is rounded to
    the dtype of x.
    """
    one, two = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-two, one), dim=-1) * sin[:, None]


@torch.library.custom_op("tunery::rotated", mutates_args=(), device_types="cuda")
def rotated(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """All of one dtype, and the last dimension of each in one piece; cos and sin lie alike. `back`:
    the gradient of what was rotated, of that of the result.
    """
    from worker.engine.kernels.rotary_triton import launch  # noqa: PLC0415

    launch(x, cos, sin, out := torch.empty_like(x), back=back)
    return out


def turned(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    """As `rotated`."""
    if x.is_cuda:
        out: Tensor = rotated(x, cos, sin, back=back)
        return out
    out = x * cos[:, None]
    (one, two), (of_one, of_two) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    first, second = sin[:, None].chunk(2, dim=-1)
    if back:
        first, second = -second, -first
    of_one.addcmul_(two, first, value=-1)
    of_two.addcmul_(one, second)
    return out


@rotated.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


class FusedRotation(torch.autograd.Function):
    """Of angles that are not trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: ANN401
        cos, sin = (each.contiguous().expand(len(x), -1, -1) for each in (cos, sin))
        ctx.save_for_backward(cos, sin)
        return turned(in_pieces(x), cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return turned(in_pieces(of_outputs[0]), *ctx.saved_tensors, back=True), None, None


def in_pieces(x: Tensor) -> Tensor:
    """With its last dimension in one piece."""
    return x if x.stride(-1) == 1 else x.contiguous()


def computed(
    plain: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[Tensor, Tensor]:
    """In the place of `plain`, which is called for what the kernel does not do: a part of a head's
    width, several dtypes, heads in another dimension.
    """
    dtypes = {each.dtype for each in (q, k, cos, sin)}
    widths = {each.shape[-1] for each in (q, k, cos, sin)}
    if len(dtypes) > 1 or len(widths) > 1 or unsqueeze_dim != 1 or cos.ndim != 3:
        made: tuple[Tensor, Tensor] = plain(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        return made
    one, other = (FusedRotation.apply(each, cos, sin) for each in (q, k))  # type: ignore[no-untyped-call]
    return one, other


@torch.no_grad()
def is_as_twin(plain: Callable[..., Any]) -> bool:
    """To the bit, by what it makes on the CPU of random values in bf16: some families turn other
    pairs, or compute in fp32.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sizes = (2, 3, 5, 8), (2, 1, 5, 8), (2, 5, 8), (2, 5, 8)
        q, k, cos, sin = (torch.randn(size).bfloat16() for size in sizes)
    wanted = [rotated_plain(each, cos, sin) for each in (q, k)]
    try:
        found = plain(q, k, cos, sin, unsqueeze_dim=1)
        return len(found) == len(wanted) and all(map(torch.equal, found, wanted))
    except Exception:  # it wants something else  # noqa: BLE001
        return False
