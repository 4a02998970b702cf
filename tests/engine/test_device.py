"""What the engine asks of its device."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from worker.engine.device import device, free_cached


class Held:
    """As activations are, by what was computed of them."""


class Keeping(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, held: Held) -> Tensor:
        ctx.held = held
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> Any:  # noqa: ARG004
        return of_outputs[0], None


class Breaking(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> Tensor:  # noqa: ARG004
        raise torch.OutOfMemoryError


def test_what_a_broken_backward_pass_left_is_given_back() -> None:
    held = Held()
    left = weakref.ref(held)
    x = Keeping.apply(torch.ones(4, device=device(), requires_grad=True), held)  # type: ignore[no-untyped-call]
    # Of two that are ready the newer is taken first, and the other one waits.
    total = (x.sigmoid() + Breaking.apply(x)).sum()  # type: ignore[no-untyped-call]
    with pytest.raises(torch.OutOfMemoryError):
        torch.autograd.backward(total)
    del held, x, total
    with torch.inference_mode():  # in which answers are computed
        free_cached()
    assert left() is None
