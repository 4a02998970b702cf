"""silu(gate) * up of a gated MLP in one kernel each way, which keeps the two and not what comes of
the gate.
"""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

PARTS = ("gate_proj", "up_proj", "down_proj")


def swiglu_plain(gate: Tensor, up: Tensor) -> Tensor:
    """The twin."""
    return silu(gate) * up


@torch.library.custom_op("tunery::swiglu", mutates_args=(), device_types="cuda")
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Of tensors of one shape, each in one piece of memory."""
    from worker.engine.kernels.swiglu_triton import forward  # noqa: PLC0415

    forward(gate, up, out := torch.empty_like(gate))
    return out


@torch.library.custom_op("tunery::swiglu_backward", mutates_args=(), device_types="cuda")
def swiglu_backward(of_out: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up."""
    from worker.engine.kernels.swiglu_triton import backward  # noqa: PLC0415

    of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
    backward(of_out, gate, up, of_gate, of_up)
    return of_gate, of_up


@swiglu.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(gate)


@swiglu_backward.register_fake
def _(of_out: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return torch.empty_like(gate), torch.empty_like(up)


class FusedSwiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # noqa: ANN401
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        out: Tensor = swiglu(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        gate, up = ctx.saved_tensors
        of_gate, of_up = swiglu_backward(of_outputs[0].contiguous(), gate, up)
        return of_gate, of_up


def computed(mlp: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    product = FusedSwiglu.apply(mlp.gate_proj(x), mlp.up_proj(x))  # type: ignore[no-untyped-call]
    out: Tensor = mlp.down_proj(product)
    return out


@torch.no_grad()
def is_as_twin(mlp: nn.Module) -> bool:
    """Whether it is a gated MLP with SiLU and nothing else, by what a copy of it with tiny layers
    computes on the CPU, to the bit.
    """
    if not all(hasattr(mlp, part) for part in PARTS):
        return False
    tiny: Any = copy.copy(mlp)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sizes = ((3, 5), (3, 5), (5, 3))
        layers = {
            part: nn.Linear(*size, device="cpu") for part, size in zip(PARTS, sizes, strict=True)
        }
        x = torch.randn(1, 4, 3)
    # Of modules of its own: the copy shares all else.
    tiny._modules = OrderedDict(vars(mlp)["_modules"]) | layers  # noqa: SLF001
    try:
        return torch.equal(type(mlp).forward(tiny, x), twin_of(tiny, x))
    except Exception:  # it wants more than its input, or has other layers  # noqa: BLE001
        return False


def twin_of(mlp: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    out: Tensor = mlp.down_proj(swiglu_plain(mlp.gate_proj(x), mlp.up_proj(x)))
    return out
