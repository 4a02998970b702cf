"""The optimizers against those of the libraries that they are named after."""

from collections.abc import Callable
from typing import Any, get_args

import bitsandbytes
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch.nn import Parameter
from torch.optim import Optimizer as Steps
from transformers.optimization import Adafactor

from tests.engine.conftest import PLAN
from tunery.spec import Lora, Optimizer, TrainingSpec
from worker.engine.data.rows import TokenRow
from worker.engine.device import device
from worker.engine.model.base import Base
from worker.engine.training.objectives.supervised import NextToken
from worker.engine.training.optimizer import load_state, new_optimizer, state_of
from worker.engine.training.slot import adapted, new_slot, trained_parameters
from worker.engine.training.step import take_step

MakeOrder = Callable[..., Any]
HOW: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1}
# What a CPU's AdamW is computed by: one rounding away from PyTorch's other ways.
FUSED = True if device().type == "cpu" else None


def plain(name: Optimizer, parameters: list[Parameter], **named: Any) -> Steps:
    how = HOW | named
    if name == "adamw_torch":
        return torch.optim.AdamW(parameters, **how, fused=FUSED)
    if name == "sgd":
        return torch.optim.SGD(parameters, **how)
    if name == "adafactor":
        return Adafactor(parameters, **how, scale_parameter=False, relative_step=False)
    of = {
        "adamw_8bit": "AdamW8bit",
        "paged_adamw_32bit": "PagedAdamW32bit",
        "paged_adamw_8bit": "PagedAdamW8bit",
        "lion_32bit": "Lion32bit",
        "lion_8bit": "Lion8bit",
        "paged_lion_32bit": "PagedLion32bit",
        "paged_lion_8bit": "PagedLion8bit",
        "ademamix": "AdEMAMix",
        "ademamix_8bit": "AdEMAMix8bit",
    }
    made: Steps = getattr(bitsandbytes.optim, of[name])(parameters, **how)
    return made


def some_parameters() -> dict[str, Parameter]:
    """The first is large enough for a state of 8 bits."""
    numbers = torch.Generator().manual_seed(1)
    shapes = {"matrix": (64, 80), "small": (4, 6), "vector": (7,)}
    return {
        name: Parameter(torch.randn(shape, generator=numbers).to(device()))
        for name, shape in shapes.items()
    }


def take(optimizer: Steps, parameters: dict[str, Parameter], steps: range) -> None:
    for step in steps:
        numbers = torch.Generator().manual_seed(step)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=numbers).to(device())
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        optimizer.step()


def same(ones: dict[str, Parameter], others: dict[str, Parameter]) -> bool:
    return all(torch.equal(one, others[name]) for name, one in ones.items())


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
@pytest.mark.parametrize("name", get_args(Optimizer))
def test_it_is_the_one_of_that_name_and_goes_on_from_its_state_to_the_bit(
    make_order: MakeOrder, rows: list[dict[str, Any]], name: Optimizer
) -> None:
    spec: TrainingSpec = make_order(rows, optimizer=name, weight_decay=0.1).spec
    theirs, ours = some_parameters(), some_parameters()
    take(plain(name, list(theirs.values())), theirs, range(5))
    optimizer = new_optimizer(ours, spec)
    keys = [optimizer.state[parameter].keys() for parameter in ours.values()]
    take(optimizer, ours, range(3))
    after = [optimizer.state[parameter].keys() for parameter in ours.values()]
    assert keys == after  # so that nothing was added by a step
    eight_bits = any(
        isinstance(value, torch.Tensor) and value.dtype == torch.uint8
        for value in optimizer.state[ours["matrix"]].values()
    )
    assert eight_bits == name.endswith("8bit")
    tensors, numbers = state_of(optimizer, ours)
    resumed = {name: Parameter(parameter.detach().clone()) for name, parameter in ours.items()}
    another = new_optimizer(resumed, spec)
    load_state(another, resumed, tensors, numbers)
    take(another, resumed, range(3, 5))
    assert same(resumed, theirs)
    fresh = {name: Parameter(parameter.detach().clone()) for name, parameter in ours.items()}
    take(new_optimizer(fresh, spec), fresh, range(3, 5))
    assert same(fresh, theirs) == (name == "sgd")  # which alone has no state to forget


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
@pytest.mark.parametrize("name", [name for name in get_args(Optimizer) if "adamw" in name])
def test_betas_and_epsilon_of_adamw_are_those_that_are_named(
    make_order: MakeOrder, rows: list[dict[str, Any]], name: Optimizer
) -> None:
    """To the bit; one that is not named is the library's own."""
    for settings, how in (
        ({"adam_beta1": 0.8, "adam_epsilon": 1e-3}, {"betas": (0.8, 0.999), "eps": 1e-3}),
        ({"adam_beta2": 0.95}, {"betas": (0.9, 0.95)}),
    ):
        spec: TrainingSpec = make_order(rows, optimizer=name, weight_decay=0.1, **settings).spec
        wanted, ours = some_parameters(), some_parameters()
        take(plain(name, list(wanted.values()), **how), wanted, range(3))
        take(new_optimizer(ours, spec), ours, range(3))
        assert same(ours, wanted)


def test_lora_plus_gives_each_weight_the_rate_that_pefts_own_gives_it(
    make_order: MakeOrder, rows: list[dict[str, Any]], base: Base
) -> None:
    spec: TrainingSpec = make_order(
        rows, loraplus_lr_ratio=16.0, weight_decay=0.1, lora=Lora(r=4, alpha=8)
    ).spec
    ids = torch.arange(5, 25, dtype=torch.int32)
    row = TokenRow(1, ids, torch.arange(20) > 0)
    trained: list[dict[str, Parameter]] = []
    for by_peft in (False, True):
        with adapted(base.model, spec) as model:
            slot = new_slot(model, spec, PLAN)
            if by_peft:
                slot.optimizer = create_loraplus_optimizer(
                    model,
                    torch.optim.AdamW,
                    lr=spec.learning_rate,
                    loraplus_lr_ratio=16.0,
                    loraplus_weight_decay=0.1,
                    fused=FUSED,
                )
                ratios = [group["lr"] / spec.learning_rate for group in slot.optimizer.param_groups]

                def scale(theirs: Steps, *_: object, ratios: list[float] = ratios) -> None:
                    for group, ratio in zip(theirs.param_groups, ratios, strict=True):
                        group["lr"] *= ratio  # which every step sets anew

                slot.optimizer.register_step_pre_hook(scale)
            for rate in (1e-3, 5e-4, 1e-4):
                take_step(slot, NextToken(spec), [row], rate, spec, lambda: None)
            trained.append(
                {name: Parameter(each.clone()) for name, each in trained_parameters(model).items()}
            )
    assert same(*trained)
