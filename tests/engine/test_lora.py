"""A fused LoRA layer against PEFT's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tests.engine.conftest import PLAN, MakeOrder
from worker.engine.device import device
from worker.engine.model.base import Base, WarmBase
from worker.engine.model.lora import forward
from worker.engine.training.slot import adapted

BASES: dict[str, Callable[[], torch.nn.Module]] = {
    "linear": lambda: torch.nn.Linear(6, 10, bias=False),
    "with a bias": lambda: torch.nn.Linear(6, 10),
    "GPT-2's, (in, out)": lambda: Conv1D(10, 6),
}


def layer(kind: str, dropout: float) -> Any:
    numbers = torch.Generator().manual_seed(4)
    base = BASES[kind]().requires_grad_(requires_grad=False)
    transposed = isinstance(base, Conv1D)
    config = LoraConfig(r=3, lora_alpha=12, lora_dropout=dropout, fan_in_fan_out=transposed)
    peft = Linear(base, "default", config=config, r=3, lora_alpha=12)
    with torch.no_grad():
        for parameter in peft.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=numbers))
    return peft.to(device())


def result(peft: Any, computed: Any, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of input, A and B."""
    torch.manual_seed(0)
    out = computed(x)
    weights = torch.linspace(-1, 1, out.numel(), device=device()).view_as(out)
    inputs = (x, peft.lora_A["default"].weight, peft.lora_B["default"].weight)
    return [out, *torch.autograd.grad((out * weights).sum(), inputs)]


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("dropout", [0, 0.5])
def test_output_and_gradients_equal_pefts_own(kind: str, dropout: float) -> None:
    peft = layer(kind, dropout)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(5))
    x = x.to(device()).requires_grad_()
    own = result(peft, peft, x)
    fused = result(peft, lambda x: forward(peft, x), x)
    for one, other in zip(fused, own, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_job_leaves_the_bases_own_layers_as_they_were_loaded(
    bases: WarmBase, base: Base, make_order: MakeOrder, rows: list[dict[str, Any]]
) -> None:
    """Also those that compute otherwise than their classes do."""
    quantized = PLAN.model_copy(update={"dequantized": False})
    model = bases.load(base.folder, quantized).model

    def forwards() -> dict[str, Any]:
        found = {name: vars(module).get("forward") for name, module in model.named_modules()}
        return {name: forward for name, forward in found.items() if forward}

    before = forwards()
    with adapted(model, make_order(rows).spec):
        pass
    assert before
    assert forwards() == before
