"""A fused LoRA layer against PEFT's own."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor

from worker.engine.device import device
from worker.engine.lora import forward


def layer(*, bias: bool, dropout: float) -> Any:
    numbers = torch.Generator().manual_seed(4)
    base = torch.nn.Linear(6, 10, bias=bias).requires_grad_(requires_grad=False)
    config = LoraConfig(r=3, lora_alpha=12, lora_dropout=dropout)
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


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dropout", [0, 0.5])
def test_output_and_gradients_equal_pefts_own(*, bias: bool, dropout: float) -> None:
    peft = layer(bias=bias, dropout=dropout)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(5))
    x = x.to(device()).requires_grad_()
    own = result(peft, peft, x)
    fused = result(peft, lambda x: forward(peft, x), x)
    for one, other in zip(fused, own, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
