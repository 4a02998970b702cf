"""A LoRA layer's forward and backward as one function each, in the place of PEFT's own, which
makes several more passes over its output and keeps more for the backward. On experts PEFT's makes a
whole matrix for each; here A and B are applied to what each expert reads.
"""

from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor

from worker.engine.model.experts import LowRank, applies_adapters, with_adapter_of
from worker.engine.model.quantized import dense_weight


def fuse(model: PeftModel) -> None:
    """Has every LoRA layer of the model computed here, but for experts in 16 bits whose module is
    their own way of computing. PEFT still owns the parameters and the file
    format; `unload` takes these layers away as any others.
    """
    apply_to_experts(model)
    for module in model.modules():
        if isinstance(module, LoraLayer) and not isinstance(module, ParamWrapper):
            module.forward = partial(forward, module)


def unfuse(model: PeftModel) -> None:
    """Takes off what `fuse` put on the layers: each holds its layer, and with it the adapter, in a
    circle that only a collection would end, long after the next job has begun. What the base's own
    layers have there was put on when it was loaded, and stays.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            vars(module).pop("forward", None)


def apply_to_experts(model: PeftModel) -> None:
    for module in model.modules():
        if isinstance(module, ParamWrapper) and applies_adapters(module.get_base_layer()):
            module.forward = partial(with_adapter_of, module)  # type: ignore[method-assign]


def adapters_of_experts(model: torch.nn.Module) -> dict[str, LowRank]:
    """By the names of the parameters that they are beside."""
    return {
        f"{name.replace('.base_layer', '')}.{module.parameter_name}": LowRank(module)
        for name, module in model.named_modules()
        if isinstance(module, ParamWrapper)
    }


def forward(layer: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    """The layer's x W^T + bias + (alpha / r) dropout(x) A^T B^T with its one plain adapter;
    (..., in) to (..., out), in the dtype of x.
    """
    flat = x.reshape(-1, x.shape[-1])
    # PEFT's dropout layer, or its identity: then it is the very same tensor.
    thinned = layer.lora_dropout["default"](flat)
    out: Tensor = BaseAndAdapter.apply(  # type: ignore[no-untyped-call]
        flat,
        thinned,
        layer.base_layer,
        layer.lora_A["default"].weight,
        layer.lora_B["default"].weight,
        layer.scaling["default"],
    )
    return out.view(*x.shape[:-1], out.shape[-1])


class BaseAndAdapter(torch.autograd.Function):
    """The frozen base layer's product and the adapter's added into it. For the backward it keeps
    the inputs and their projection to rank r; a quantized weight is dequantized again.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        thinned: Tensor,
        base: torch.nn.Linear,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        projected = (thinned @ a.T.to(x.dtype)).mul_(scaling)
        weight = dense_weight(base)
        out = x @ weight.T if base.bias is None else torch.addmm(base.bias, x, weight.T)
        out.addmm_(projected, b.T.to(x.dtype))
        ctx.save_for_backward(thinned, projected, a, b)
        ctx.base, ctx.scaling, ctx.thinned = base, scaling, thinned is not x
        return out

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *of_outputs: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, None, Tensor, Tensor, None]:
        (of_out,) = of_outputs
        thinned, projected, a, b = ctx.saved_tensors
        of_projected = (of_out @ b.to(of_out.dtype)).mul_(ctx.scaling)
        of_a, of_b = of_projected.T @ thinned, of_out.T @ projected
        of_x = of_thinned = None
        if ctx.needs_input_grad[0]:
            of_x = of_out @ dense_weight(ctx.base)
            if ctx.thinned:
                of_thinned = of_projected @ a.to(of_out.dtype)
            else:
                of_x.addmm_(of_projected, a.to(of_out.dtype))
        return of_x, of_thinned, None, of_a.to(a.dtype), of_b.to(b.dtype), None
