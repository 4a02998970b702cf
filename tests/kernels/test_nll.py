"""Our kernels beside their plain twins: on a GPU, or in Triton's interpreter (`make kernels`)."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from worker.engine.device import device
from worker.engine.kernels import chosen
from worker.engine.kernels.chosen import Kernels
from worker.engine.kernels.nll import nll_plain

triton = pytest.importorskip("triton", reason="Triton is not installed: `make kernels` brings it")
if device().type == "cpu" and not triton.knobs.runtime.interpret:
    pytest.skip("there is no GPU: `make kernels`", allow_module_level=True)

from worker.engine.kernels.nll_triton import launch  # noqa: E402


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [7, 33, 50_000])
def test_the_head_kernel_equals_its_twin(vocabulary: int, dtype: torch.dtype) -> None:
    numbers = torch.Generator().manual_seed(vocabulary)
    logits = (4 * torch.randn(9, vocabulary, generator=numbers)).to(device(), dtype)
    labels = torch.randint(0, vocabulary, (9,), generator=numbers).to(device())
    labels[0], labels[-1], labels[4] = 0, vocabulary - 1, logits[4].argmax()
    logits[5] *= 200  # beyond what exp can take
    wanted = cross_entropy(logits.float(), labels, reduction="none")
    losses, right, gradient = nll_plain(logits.clone(), labels, with_gradient=True)
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)

    found, guessed = torch.empty_like(losses), torch.empty_like(right)
    kept = logits.clone()
    launch(logits, labels, found, guessed, with_gradient=False)
    torch.testing.assert_close(found, losses, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits, kept)
    launch(logits, labels, found, guessed, with_gradient=True)
    torch.testing.assert_close(found, losses, rtol=1e-5, atol=1e-5)
    assert torch.equal(guessed, right)
    # In bf16 it is rounded, as what the twin gives is before it is multiplied. Triton's interpreter
    # cuts off instead, which is up to a whole last place.
    off = 1e-6 if dtype is torch.float32 else 2**-7
    torch.testing.assert_close(logits.float(), gradient.float(), rtol=off, atol=1e-6)


@pytest.mark.parametrize("kernels", ["plain", "fused"])
def test_fused_kernels_are_taken_if_they_are_asked_for_and_prove_equal(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "_wanted", kernels)
    there = torch.ones(1, device=device())
    assert chosen.fused(there) is (kernels == "fused" and there.is_cuda)
