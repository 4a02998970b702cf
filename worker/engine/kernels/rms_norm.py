"""RMSNorm of a frozen weight in one kernel each way, on a CPU in few of PyTorch's operations; it
keeps its input as it is. As transformers writes it, it is eight operations, most of them in fp32,
and keeps what it reads in fp32 too.
"""

import copy
from typing import Any

import torch
from torch import Tensor

# Wider rows do not fit a program's registers.
WIDEST = 16_384


def rms_norm_plain(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The twin: of the last dimension, in fp32, rounded before it is weighed; in the dtype of x."""
    values = x.float()
    scale = torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * (values * scale).to(x.dtype)


@torch.library.custom_op("tunery::rms_norm", mutates_args=(), device_types="cuda")
def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Of rows (rows, width)."""
    from worker.engine.kernels.rms_norm_triton import forward  # noqa: PLC0415

    forward(x, weight, out := torch.empty_like(x), epsilon)
    return out


@torch.library.custom_op("tunery::rms_norm_backward", mutates_args=(), device_types="cuda")
def rms_norm_backward(of_out: Tensor, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The gradient of x."""
    from worker.engine.kernels.rms_norm_triton import backward  # noqa: PLC0415

    backward(of_out, x, weight, of_x := torch.empty_like(x), epsilon)
    return of_x


def normed(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Of rows (rows, width)."""
    if x.is_cuda:
        out: Tensor = rms_norm(x, weight, epsilon)
        return out
    return (x * scale_of(x, epsilon)).mul_(weight)


def of_normed(of_out: Tensor, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The gradient of x."""
    if x.is_cuda:
        of_x: Tensor = rms_norm_backward(of_out, x, weight, epsilon)
        return of_x
    scale, of_x = scale_of(x, epsilon), of_out * weight
    along = torch.linalg.vecdot(of_x, x)[:, None] * scale**3 / -x.shape[1]
    return of_x.mul_(scale).addcmul_(x, along)


def scale_of(x: Tensor, epsilon: float) -> Tensor:
    """(rows, 1)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return (length.square_() / x.shape[1]).add_(epsilon).rsqrt_()


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


@rms_norm_backward.register_fake
def _(of_out: Tensor, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


class FusedNorm(torch.autograd.Function):
    """For a weight that is not trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:  # noqa: ANN401
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        ctx.save_for_backward(rows, weight)
        ctx.epsilon = epsilon
        return normed(rows, weight, epsilon).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        rows, weight = ctx.saved_tensors
        of_rows = of_outputs[0].reshape(rows.shape).contiguous()
        of_x = of_normed(of_rows, rows, weight, ctx.epsilon)
        return of_x.view_as(of_outputs[0]), None, None


def computed(norm: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    out: Tensor = FusedNorm.apply(x, norm.weight, epsilon_of(norm))  # type: ignore[no-untyped-call]
    return out


def epsilon_of(norm: Any) -> float | None:  # noqa: ANN401
    """By the names that families have for it."""
    found: float | None = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return found


@torch.no_grad()
def is_as_twin(norm: Any) -> bool:  # noqa: ANN401
    """To the bit, of a copy of it on the CPU with a random weight: some families add 1 to theirs,
    or round later.
    """
    epsilon, weight = epsilon_of(norm), getattr(norm, "weight", None)
    if epsilon is None or weight is None or weight.ndim != 1 or len(weight) > WIDEST:
        return False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        x, random = (torch.randn(*size, len(weight)).to(weight.dtype) for size in ((1, 3), ()))
    twin = copy.deepcopy(norm).to("cpu")
    twin.weight.copy_(random)
    try:
        return torch.equal(twin(x), rms_norm_plain(x, random, epsilon))
    except TypeError:  # it takes more than its input
        return False
