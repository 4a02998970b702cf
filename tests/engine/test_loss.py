"""The chunked loss against torch's own on all logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from worker.engine import loss
from worker.engine.loss import summed_nll


@pytest.mark.parametrize("vocabulary", [7, 1000, 50_000])
def test_loss_and_gradient_equal_cross_entropy_whatever_the_chunks(
    vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", 4)
    numbers = torch.Generator().manual_seed(vocabulary)
    hidden = torch.randn(10, 16, generator=numbers).requires_grad_()
    head = torch.randn(vocabulary, 16, generator=numbers)
    labels = torch.randint(0, vocabulary, (10,), generator=numbers)
    labels[0], labels[-1] = 0, vocabulary - 1
    logits = hidden @ head.T
    labels[5] = logits[5].argmax()
    wanted = cross_entropy(logits, labels, reduction="sum")
    (wanted_gradient,) = torch.autograd.grad(3 * wanted, hidden)

    nll, right = summed_nll(hidden, head, labels)
    (gradient,) = torch.autograd.grad(3 * nll, hidden)

    assert nll.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert right.item() == (logits.argmax(1) == labels).sum().item()
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-4)


def test_in_bf16_the_gradients_scale_is_not_rounded() -> None:
    """A 1,021st of the loss; in bf16 that is a 1,024th."""
    numbers = torch.Generator().manual_seed(6)
    hidden = torch.randn(50, 16, generator=numbers).bfloat16().requires_grad_()
    head = torch.randn(30, 16, generator=numbers).bfloat16()
    nll, _ = summed_nll(hidden, head, torch.arange(50) % 30)
    (whole,) = torch.autograd.grad(nll, hidden, retain_graph=True)
    (part,) = torch.autograd.grad(nll / 1021, hidden)
    wanted = whole.float().norm().item() / 1021
    assert part.float().norm().item() == pytest.approx(wanted, rel=1e-3)


def test_logits_beyond_what_exp_can_take_are_no_trouble() -> None:
    head = torch.tensor([[500.0], [0.0], [-500.0]])
    nll, _ = summed_nll(torch.ones(1, 1), head, torch.tensor([1]))
    assert nll.item() == 500
