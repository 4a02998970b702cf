"""The parts of a model that are computed by this folder."""

import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

from torch import nn

from worker.engine.kernels import rms_norm, rotary, swiglu


@contextmanager
def fused_parts(model: nn.Module, kernels: Collection[ModuleType]) -> Iterator[None]:
    """In it norms, gated MLPs and rotary positions that compute as the plain twins of these modules
    do are computed by them. The norms' weights are not trained.
    """
    known: dict[object, bool] = {}
    taken: list[nn.Module] = []
    with fused_rotations(model) if rotary in kernels else nullcontext():
        for module in model.modules():
            kernel: Any = rms_norm if "RMSNorm" in type(module).__name__ else swiglu
            if kernel not in kernels:
                continue
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


@contextmanager
def fused_rotations(model: nn.Module) -> Iterator[None]:
    """Attention looks its function up in the module of Python that it is written in."""
    with ExitStack() as stack:
        for written_in in {type(module).__module__ for module in model.modules()}:
            plain = getattr(sys.modules[written_in], rotary.NAME, None)
            if plain is not None and rotary.is_as_twin(plain):
                fused = partial(rotary.computed, plain)
                stack.enter_context(patch.object(sys.modules[written_in], rotary.NAME, fused))
        yield
