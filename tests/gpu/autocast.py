"""Autocast of CUDA, for tensors that only look as if they were there.

PyTorch casts by dispatch key, and a meta tensor has none for CUDA. So what a simulated GPU is asked
for is cast here, where Python asks for it. The lists are those of
https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior, as far as models that are
trained here use them. `require_known` raises where they do not suffice.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LOWER = {
    *(
        "__matmul__",
        "__rmatmul__",
        "addbmm",
        "addmm",
        "addmv",
        "baddbmm",
        "bmm",
        "conv1d",
        "conv2d",
    ),
    *("conv3d", "einsum", "linear", "matmul", "mm", "mv", "scaled_dot_product_attention"),
}
FULL = {
    *("__pow__", "__rpow__", "cosine_similarity", "cross_entropy", "cumprod", "cumsum", "exp"),
    *("expm1", "group_norm", "layer_norm", "log", "log10", "log1p", "log2", "log_softmax"),
    *("logsumexp", "nll_loss", "norm", "pow", "prod", "reciprocal", "rms_norm", "rsqrt", "softmax"),
    *("softplus", "sum"),
}
# What is to be seen below autocast of what it casts.
LOWER_KERNELS = {"mm", "bmm", "addmm", "baddbmm", "convolution"}


def is_on() -> bool:
    return torch.is_autocast_enabled("cuda")


def cast(func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """What `func` is computed on."""
    name = getattr(func, "__name__", "")
    if name in LOWER:
        return to(torch.get_autocast_dtype("cuda"), args, kwargs)
    if name in FULL and kwargs.get("dtype") is None:
        return to(torch.float32, args, kwargs)
    return args, kwargs


def to(dtype: torch.dtype, args: Any, kwargs: Any) -> tuple[Any, Any]:
    def one(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(one, value))
        floats = isinstance(value, Tensor) and value.is_meta and value.is_floating_point()
        return value.to(dtype) if floats and value.dtype is not torch.float64 else value

    return tuple(map(one, args)), {name: one(value) for name, value in kwargs.items()}


def require_known(name: str, read: list[Tensor]) -> None:
    """Raises if autocast of CUDA would have had a product's operands in 16 bits, and they are not:
    a function is missing above.
    """
    kinds = {each.dtype for each in read if each.is_floating_point()}
    if is_on() and name in LOWER_KERNELS and kinds == {torch.float32}:
        raise NotImplementedError(f"autocast is not simulated for what computes {name} here")
