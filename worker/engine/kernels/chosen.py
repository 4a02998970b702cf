"""Which kernels CUDA computes with: `plain` are PyTorch's own operations, `fused` those of this
folder where there are any. A CPU has no choice.
"""

import logging
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from worker.engine.kernels import rms_norm, rotary, swiglu
from worker.engine.kernels.nll import nll_in_place, nll_plain
from worker.engine.kernels.rms_norm import FusedNorm, rms_norm_plain
from worker.engine.kernels.rotary import FusedRotation, rotated_plain
from worker.engine.kernels.swiglu import FusedSwiglu, swiglu_plain

Kernels = Literal["plain", "fused"]

# Of bf16's last place, which the gradient is rounded to.
TOLERANCE = 2**-7
# More than a block of the kernel, and no multiple of anything.
POSITIONS, VOCABULARY, WIDTH = 5, 40_009, 1_001
HEADS, HEAD_WIDTH = 7, 22

log = logging.getLogger(__name__)
_wanted: Kernels = "plain"


def choose(kernels: Kernels) -> None:
    """For this process."""
    global _wanted  # noqa: PLW0603  (one device, one choice)
    _wanted = kernels


def fused(tensor: Tensor) -> bool:
    """Whether it is computed with by a fused kernel, if there is one."""
    return _wanted == "fused" and tensor.is_cuda and proven()


def parts_of(weights: Tensor) -> Sequence[ModuleType]:
    """The modules of this folder that compute parts of a model with these frozen weights. On a CPU
    they are those that make a step faster there (docs/benchmarks.md).
    """
    if weights.is_cuda:
        return (rms_norm, rotary, swiglu) if fused(weights) else ()
    return rms_norm, rotary


@cache
def proven() -> bool:
    """Whether the fused kernels give on this device what the plain ones do, which is tried when
    they are first asked for; else the log has why not.
    """
    try:
        off = apart()
    except Exception as error:  # Triton's own: it cannot compile here  # noqa: BLE001
        log.warning("fused kernels do not run here, plain ones are taken: %s", error)
        return False
    if off > TOLERANCE:
        log.warning("fused kernels are %g off here, plain ones are taken", off)
    return off <= TOLERANCE


def apart() -> float:
    """How far the fused kernels are from the plain ones on this device, at most."""
    numbers = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(POSITIONS, VOCABULARY, generator=numbers)).bfloat16().cuda()
    labels = torch.randint(0, VOCABULARY, (POSITIONS,), generator=numbers).cuda()
    losses, right, gradient = nll_plain(logits.float(), labels, with_gradient=True)
    found, guessed = nll_in_place(logits, labels, with_gradient=True)
    if not torch.equal(guessed, right):
        return float("inf")
    x = (3 * torch.randn(POSITIONS, WIDTH, generator=numbers)).bfloat16().cuda().requires_grad_()
    weight = torch.randn(WIDTH, generator=numbers).bfloat16().cuda()
    heads = x[:, : HEADS * HEAD_WIDTH].view(1, POSITIONS, HEADS, -1).transpose(1, 2)
    cos, sin = torch.randn(2, 1, POSITIONS, HEAD_WIDTH, generator=numbers).bfloat16().cuda()
    off = [found - losses, logits.float() - gradient]
    for plain, fused in (
        (rms_norm_plain(x, weight, 1e-6), FusedNorm.apply(x, weight, 1e-6)),  # type: ignore[no-untyped-call]
        (swiglu_plain(x, x * weight), FusedSwiglu.apply(x, x * weight)),  # type: ignore[no-untyped-call]
        (rotated_plain(heads, cos, sin), FusedRotation.apply(heads, cos, sin)),  # type: ignore[no-untyped-call]
    ):
        of_plain, of_fused = (
            (out, *torch.autograd.grad(out.float().sum(), x)) for out in (plain, fused)
        )
        pairs = zip(of_fused, of_plain, strict=True)
        off += [(one - other) / other.abs().max() for one, other in pairs]
    worst = torch.stack([each.detach().abs().max().float() for each in off]).max()
    return float(worst.nan_to_num(torch.inf))
