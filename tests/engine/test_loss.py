"""The chunked loss against torch's own on all logits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from worker.engine.device import device
from worker.engine.training import loss
from worker.engine.training.loss import token_nll


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("trained_head", [False, True])
@pytest.mark.parametrize("vocabulary", [7, 50_000])
def test_losses_and_gradients_equal_cross_entropy_whatever_the_chunks(
    vocabulary: int, trained_head: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", 4)
    numbers = torch.Generator().manual_seed(vocabulary)
    hidden = torch.randn(10, 16, generator=numbers).to(device()).requires_grad_()
    head = torch.randn(vocabulary, 16, generator=numbers).to(device()).requires_grad_(trained_head)
    bias = torch.randn(vocabulary, generator=numbers).to(device()) if with_bias else None
    weights = torch.randn(10, generator=numbers).to(device())
    labels = torch.randint(0, vocabulary, (10,), generator=numbers).to(device())
    labels[0], labels[-1] = 0, vocabulary - 1
    trained = [hidden]
    if trained_head:
        trained += [head] if bias is None else [head, bias.requires_grad_()]
    logits = hidden @ head.T if bias is None else hidden @ head.T + bias
    labels[5] = logits[5].argmax()
    wanted = cross_entropy(logits, labels, reduction="none")
    wanted_gradients = torch.autograd.grad((weights * wanted).sum(), trained)

    losses, right = token_nll(hidden, head, labels, bias)
    gradients = torch.autograd.grad((weights * losses).sum(), trained)

    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(right, logits.argmax(1) == labels)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-4, atol=1e-4)


def test_in_bf16_the_gradients_scale_is_not_rounded() -> None:
    """A 1,021st of the loss; in bf16 that is a 1,024th."""
    numbers = torch.Generator().manual_seed(6)
    hidden = torch.randn(50, 16, generator=numbers).bfloat16().requires_grad_()
    head = torch.randn(30, 16, generator=numbers).bfloat16()
    losses, _ = token_nll(hidden, head, torch.arange(50) % 30)
    nll = losses.sum()
    (whole,) = torch.autograd.grad(nll, hidden, retain_graph=True)
    (part,) = torch.autograd.grad(nll / 1021, hidden)
    wanted = whole.float().norm().item() / 1021
    assert part.float().norm().item() == pytest.approx(wanted, rel=1e-3)


def test_logits_beyond_what_exp_can_take_are_no_trouble() -> None:
    head = torch.tensor([[500.0], [0.0], [-500.0]])
    losses, _ = token_nll(torch.ones(1, 1), head, torch.tensor([1]))
    assert losses.item() == 500


def test_in_bf16_it_is_as_near_to_fp32_as_torchs_own() -> None:
    """Which takes the logits in bf16 and the rest in fp32, and rounds what it multiplies by."""
    numbers = torch.Generator().manual_seed(1)
    exact = torch.randn(64, 32, generator=numbers).bfloat16().float()
    head = torch.randn(500, 32, generator=numbers).bfloat16()
    labels = torch.randint(0, 500, (64,), generator=numbers)

    def off(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
        """How far loss and gradient are from those in fp32."""
        hidden, wanted = exact.bfloat16().requires_grad_(), exact.clone().requires_grad_()
        nll, right = loss(hidden, head), torchs(wanted, head.float())
        (gradient,) = torch.autograd.grad(nll / 64, hidden)
        (goal,) = torch.autograd.grad(right / 64, wanted)
        return abs(nll.item() / right.item() - 1), float((gradient - goal).norm() / goal.norm())

    def torchs(hidden: Tensor, head: Tensor) -> Tensor:
        return cross_entropy((hidden @ head.T).float(), labels, reduction="sum")

    ours, theirs = off(lambda hidden, head: token_nll(hidden, head, labels)[0].sum()), off(torchs)
    assert ours[0] <= 1.1 * theirs[0]
    assert ours[1] <= 1.1 * theirs[1]
