"""The optimizers, by the names that transformers has for them."""

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from transformers.optimization import Adafactor

from tunery.spec import TrainingSpec
from worker.engine.device import device
from worker.engine.model.uncompiled import AdamW, AdEMAMix, Lion


class Unwaiting:
    """Of bitsandbytes' optimizers, which wait for the device after each parameter. It does all in
    turn anyway, but for what is moved between its pages, which is waited for once.
    """

    is_paged: bool

    def step(self, closure: None = None) -> None:
        with patch("bitsandbytes.optim.optimizer.sync_gpu"):
            super().step(closure)  # type: ignore[misc]
        if self.is_paged:
            torch.cuda.synchronize()


OF_BITSANDBYTES = {
    name: type(kind.__name__, (Unwaiting, kind), {})
    for name, kind in (("adamw", AdamW), ("lion", Lion), ("ademamix", AdEMAMix))
}


# Of a group of parameters: its rate is so many times the others'.
TIMES = "times"


def new_optimizer(trained: Mapping[str, Parameter], spec: TrainingSpec) -> Optimizer:
    """With its libraries' defaults for what the spec does not name. Its state is there from the
    start: it is part of the memory that is tried before the first step, and none is half made when
    a step is tried again.
    """
    parameters, name = groups_of(trained, spec), spec.optimizer
    how: dict[str, Any] = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay}
    how |= named_of_adam(spec)
    if name == "adamw_torch":
        # A CPU computes it in one pass. With both None a GPU takes all weights of an adapter at
        # once; of a whole model that would take 4 more bytes a weight.
        one_pass = True if device().type == "cpu" else None
        at_once = None if spec.lora and not one_pass else False
        return with_moments(torch.optim.AdamW(parameters, **how, fused=one_pass, foreach=at_once))
    if name == "sgd":
        return torch.optim.SGD(parameters, **how)
    if name == "adafactor":
        # Else it would choose the rate itself.
        fixed = {"scale_parameter": False, "relative_step": False}
        return with_factors(Adafactor(parameters, **how, **fixed))
    paged, kind = name.startswith("paged_"), name.removeprefix("paged_").split("_")[0]
    return with_states(
        OF_BITSANDBYTES[kind](
            parameters,
            **how,
            optim_bits=8 if name.endswith("8bit") else 32,
            # Pages are a GPU's; a CPU has all of its memory at hand.
            is_paged=paged and device().type == "cuda",
        )
    )


def groups_of(trained: Mapping[str, Parameter], spec: TrainingSpec) -> list[dict[str, Any]]:
    """All in one, or an adapter's A and its B, as LoRA+ has them (Hayou et al. 2024)."""
    if spec.loraplus_lr_ratio is None:
        return [{"params": list(trained.values())}]
    of_b = [name.endswith("lora_B.weight") for name in trained]
    return [
        {
            "params": [
                each for each, is_b in zip(trained.values(), of_b, strict=True) if is_b == b
            ],
            TIMES: spec.loraplus_lr_ratio if b else 1.0,
        }
        for b in (False, True)
    ]


def named_of_adam(spec: TrainingSpec) -> dict[str, Any]:
    """AdamW's own settings, as torch and bitsandbytes call them; none if the spec names none."""
    how: dict[str, Any] = {}
    if spec.adam_beta1 is not None or spec.adam_beta2 is not None:
        first = 0.9 if spec.adam_beta1 is None else spec.adam_beta1
        how["betas"] = (first, 0.999 if spec.adam_beta2 is None else spec.adam_beta2)
    if spec.adam_epsilon is not None:
        how["eps"] = spec.adam_epsilon
    return how


def with_moments(optimizer: torch.optim.AdamW) -> Optimizer:
    for parameter in trained_by(optimizer):
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def with_factors(optimizer: Adafactor) -> Optimizer:
    """Rows and columns of a matrix (Shazeer & Stern 2018), all of a vector."""
    for parameter in trained_by(optimizer):
        state: dict[str, Any] = {"step": 0, "RMS": 0}
        if parameter.ndim > 1:
            state["exp_avg_sq_row"] = torch.zeros_like(parameter[..., 0])
            state["exp_avg_sq_col"] = torch.zeros_like(parameter[..., 0, :])
        else:
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        optimizer.state[parameter] = state
    return optimizer


def with_states(optimizer: Any) -> Optimizer:  # noqa: ANN401 (bitsandbytes has no types)
    for number, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            optimizer.init_state(group, parameter, number, index)
    made: Optimizer = optimizer
    return made


def trained_by(optimizer: Optimizer) -> list[Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


State = dict[str, dict[str, float]]


def state_of(
    optimizer: Optimizer, parameters: Mapping[str, Parameter]
) -> tuple[dict[str, Tensor], State]:
    """The tensors in it as `PARAMETER.key`, and its numbers."""
    tensors, numbers = {}, State()
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                tensors[f"{name}.{key}"] = value
            else:
                numbers.setdefault(name, {})[key] = value
    return tensors, numbers


def load_state(
    optimizer: Optimizer,
    parameters: Mapping[str, Parameter],
    tensors: Mapping[str, Tensor],
    numbers: State,
) -> None:
    """Into a new optimizer, to the bit."""
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        for key, value in state.items():
            kept = tensors.get(f"{name}.{key}")
            if kept is None:
                state[key] = numbers[name][key]
            elif isinstance(value, Tensor):
                value.copy_(kept)
            else:
                state[key] = kept.to(parameter.device)
