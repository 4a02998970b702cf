"""The parts of a model that fused kernels compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from worker.engine.kernels import rms_norm, swiglu


@contextmanager
def fused_parts(model: nn.Module) -> Iterator[None]:
    """In it norms and gated MLPs that compute as the kernels' plain twins do are computed by the
    kernels. The norms' weights are not trained.
    """
    known: dict[object, bool] = {}
    taken: list[nn.Module] = []
    for module in model.modules():
        kernel: Any = rms_norm if "RMSNorm" in type(module).__name__ else swiglu
        sizes = tuple(weight.shape for weight in module.parameters(recurse=False))
        which = (type(module), sizes, rms_norm.epsilon_of(module))
        if which not in known:
            known[which] = kernel.is_as_twin(module)
        if known[which]:
            module.forward = partial(kernel.computed, module)
            taken.append(module)
    try:
        yield
    finally:
        for module in taken:
            del module.forward
