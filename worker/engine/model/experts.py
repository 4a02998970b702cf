"""How experts are computed. A layer's experts are one parameter (experts, ., .) in transformers,
which bitsandbytes leaves as it is; here a `Stack` stands in its place where it is quantized.

Nothing dequantized is kept: a forward dequantizes what one product needs, and its backward does so
again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BitsAndBytesConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.integrations.moe import _grouped_mm as grouped_mm

from worker.engine.model.stack import BLOCK, Stack

EXPERTS = "quantized"
PREFIX, ORDER = "quantized_", "order_of_experts"
EVEN_RANK = 8


def experts(
    module: Any,  # noqa: ANN401
    hidden: Tensor,
    chosen: Tensor,
    weights: Tensor,
) -> Tensor:
    """In the shape of transformers' `ExpertsInterface`: `hidden` (N, width), of each token the
    experts `chosen` (N, k) with their `weights`, to (N, width).

    It is what transformers' `grouped_mm` computes on the dequantized experts, bit by bit.
    """
    which, order = chosen.reshape(-1).sort()
    every = torch.arange(module.num_experts, device=which.device)
    ends = torch.searchsorted(which, every, right=True, out_int32=True)
    states = hidden[order // chosen.shape[1]]
    for name in ("gate_up_proj" if module.has_gate else "up_proj", "down_proj"):
        states = product(module, name, states, ends)
        if module.has_bias:
            states = states + getattr(module, f"{name}_bias")[which]
        if name != "down_proj":
            states = module._apply_gate(states) if module.has_gate else module.act_fn(states)  # noqa: SLF001
    if module.has_post_expert_norm:
        states = module.post_expert_norm(states)
    weighted = (states * weights.reshape(-1)[order, None])[order.argsort()]
    return weighted.view(*chosen.shape, -1).sum(dim=1).to(hidden.dtype)


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, experts)


def product(
    module: Any,  # noqa: ANN401
    name: str,
    states: Tensor,
    ends: Tensor,
) -> Tensor:
    """(S, .) of states that are sorted by expert, those of each up to its `ends` (experts,)."""
    stack, adapter = getattr(module, PREFIX + name, None), adapters_in(module).get(name)
    out: Tensor
    if stack is not None:
        out = FrozenProducts.apply(stack, module.is_transposed, states, ends)  # type: ignore[no-untyped-call]
    else:
        states, dense = as_autocast(states, getattr(module, name))
        out = grouped_mm(states, dense if module.is_transposed else dense.mT, ends)
    return out if adapter is None else out + adapter.product(states, ends)


def as_autocast(*operands: Tensor) -> Iterator[Tensor]:
    """As autocast has a product's operands, if it is on: it knows nothing of experts, whose weights
    in fp32 would be multiplied in that.
    """
    kind = operands[0].device.type
    on = torch.is_autocast_enabled(kind)
    return (each.to(torch.get_autocast_dtype(kind)) if on else each for each in operands)


class FrozenProducts(torch.autograd.Function):
    """Each expert's x W^T, or x W if they are `transposed` in the model."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        stack: Stack,
        transposed: bool,
        states: Tensor,
        ends: Tensor,
    ) -> Tensor:
        ctx.stack, ctx.transposed, ctx.ends = stack, transposed, ends
        dense = stack.dense()
        return grouped_mm(states, dense if transposed else dense.mT, ends)

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[None, None, Tensor, None]:  # noqa: ANN401
        dense = ctx.stack.dense()
        weights = dense.mT if ctx.transposed else dense
        return None, None, grouped_mm(of_outputs[0].contiguous(), weights, ctx.ends), None


@dataclass(frozen=True)
class LowRank:
    """An adapter of all experts' matrices for one product, as PEFT's `ParamWrapper` has it: A
    (experts * r, in) and B (out, r * experts).
    """

    wrapper: Any

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (experts, r, in) and B (experts, r, out), with the scale in it."""
        count = self.wrapper.num_experts
        a, b = (getattr(self.wrapper, f"lora_{which}")["default"].weight for which in "AB")
        b = b.view(len(b), -1, count).permute(2, 1, 0) * self.wrapper.scaling["default"]
        return a.view(count, -1, a.shape[-1]), b

    def product(self, states: Tensor, ends: Tensor) -> Tensor:
        a, b = self.factors()
        # A GPU's kernel takes rows of whole multiples of 16 bytes.
        more = -a.shape[1] % EVEN_RANK
        a, b = (nn.functional.pad(each, (0, 0, 0, more)).to(states.dtype) for each in (a, b))
        return grouped_mm(grouped_mm(states, a.mT, ends), b.contiguous(), ends)

    def delta(self) -> Tensor:
        """What it adds to the parameter, in its layout; fp32."""
        a, b = self.factors()
        # PEFT takes a parameter for (experts, out, in), unless its module says that it is not.
        transposed = getattr(self.wrapper.get_base_layer(), "is_transposed", False)
        return a.mT @ b if transposed else b.mT @ a


def adapters_in(module: nn.Module) -> dict[str, LowRank]:
    """Those that it is computed with just now, by the names of the parameters."""
    found: dict[str, LowRank] = vars(module).setdefault("adapters", {})
    return found


def applies_adapters(module: nn.Module) -> bool:
    return hasattr(module, "is_transposed") or bool(stacks_in(module))


def with_adapter_of(wrapper: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    """In the place of PEFT's forward around experts, which may be around another of its kind."""
    adapters = adapters_in(wrapper.get_base_layer())
    adapters[wrapper.parameter_name] = LowRank(wrapper)
    try:
        out: Tensor = wrapper.base_layer(*args, **kwargs)
    finally:
        del adapters[wrapper.parameter_name]
    return out


@contextmanager
def shown(model: nn.Module) -> Iterator[None]:
    """In it PEFT sees a parameter where a stack is, of its shape and without values."""
    stacks = [
        (module, name, stack)
        for _, module in modules_with_experts(model)
        for name, stack in stacks_in(module).items()
    ]
    for module, name, stack in stacks:
        nothing = torch.empty(1, dtype=stack.dtype, device=stack.codes.device)
        setattr(module, name, nn.Parameter(nothing.expand(stack.shape), requires_grad=False))
    try:
        yield
    finally:
        for module, name, _ in stacks:
            delattr(module, name)


def modules_with_experts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Those that hold the matrices of all experts, by their names."""
    for name, module in model.named_modules():
        if "Experts" in type(module).__name__ and (dense_in(module) or stacks_in(module)):
            yield name, module


def dense_in(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of its experts that can be quantized, by their names in it."""
    return {
        name: weight
        for name, weight in module.named_parameters(recurse=False)
        if weight.dim() == 3 and weight[0].numel() % BLOCK == 0
    }


def stacks_in(module: nn.Module) -> dict[str, Stack]:
    """Those that are quantized, by the names of what they stand for, in the order of the module's
    parameters: PEFT's adapters lie around each other in that.
    """
    found = {
        name.removeprefix(PREFIX): stack
        for name, stack in module.named_children()
        if isinstance(stack, Stack)
    }
    return {name: found[name] for name in vars(module).get(ORDER, ()) if name in found}


def parameters_in(module: nn.Module) -> list[str]:
    """The names of all, quantized or not."""
    return [*dense_in(module), *stacks_in(module)]


def put(module: nn.Module, name: str, stack: Stack) -> None:
    """In the place of the parameter."""
    vars(module).setdefault(ORDER, list(dense_in(module)))
    delattr(module, name)
    module.add_module(PREFIX + name, stack)


def routers_of(model: nn.Module) -> set[str]:
    """The names of the linear layers that choose between experts, or weigh what they say: those in
    what stands beside the experts and gives one number for each of them, or a single one.
    """
    found: set[str] = set()
    for name, module in modules_with_experts(model):
        dense, stacks = dense_in(module).values(), stacks_in(module).values()
        counts = {1, *(each.shape[0] for each in dense), *(each.shape[0] for each in stacks)}
        around = name.rpartition(".")[0]
        for beside, other in model.get_submodule(around).named_children():
            linear = {
                f"{around}.{beside}.{inside}".rstrip("."): layer.out_features
                for inside, layer in other.named_modules()
                if isinstance(layer, nn.Linear)
            }
            if other is not module and counts.issuperset(linear.values()):
                found |= linear.keys()
    return found


def quantize_experts(model: nn.Module, config: BitsAndBytesConfig) -> None:
    """Of a model that is in memory already."""
    for _, module in modules_with_experts(model):
        for name, weight in dense_in(module).items():
            put(module, name, Stack.of(weight.detach(), config))
    compute_on_stacks(model)


def compute_on_stacks(model: nn.Module) -> None:
    """For the experts that do not ask transformers' interface how to compute."""
    for _, module in modules_with_experts(model):
        if stacks_in(module) and not hasattr(module, "is_transposed"):
            module.forward = partial(recomputed, module, module.forward)


def recomputed(
    module: nn.Module,
    forward: Callable[..., Tensor],
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Tensor:
    """By the module's own forward on its experts dequantized, and again for the backward."""
    adapters = dict(adapters_in(module))

    def on_dense(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        # An attribute of the instance is found before what nn.Module keeps.
        vars(module).update({name: stack.dense() for name, stack in stacks_in(module).items()})
        for name, adapter in adapters.items():
            vars(module)[name] = vars(module)[name] + adapter.delta().to(vars(module)[name].dtype)
        try:
            return forward(*args, **kwargs)
        finally:
            for name in stacks_in(module):
                del vars(module)[name]

    out: Tensor = checkpoint(on_dense, *args, use_reentrant=False, **kwargs)
    return out


def dequantize_experts(model: nn.Module) -> None:
    """Puts parameters of the same values in their place."""
    for _, module in list(modules_with_experts(model)):
        for name, stack in stacks_in(module).items():
            delattr(module, PREFIX + name)
            setattr(module, name, nn.Parameter(stack.dense(), requires_grad=False))
            vars(module).pop("forward", None)
