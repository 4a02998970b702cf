"""The parts of a model that this project computes on a CPU in fewer passes than transformers."""

import sys
from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from worker.engine.kernels import chosen, parts, rotary
from worker.engine.kernels.rms_norm import FusedNorm, rms_norm_plain
from worker.engine.kernels.rotary import FusedRotation, rotated_plain
from worker.engine.training.loss import token_nll


def with_gradient(out: Tensor, of: Tensor, of_out: Tensor) -> tuple[Tensor, ...]:
    return out.detach(), *torch.autograd.grad(out, of, of_out)


def rotates(model: torch.nn.Module) -> bool:
    written_in = sys.modules[type(model).__module__]
    return isinstance(getattr(written_in, rotary.NAME), partial)


def test_norms_equal_their_twin() -> None:
    numbers = torch.Generator().manual_seed(1)
    x, of_out = (torch.randn(2, 7, 48, generator=numbers) for _ in range(2))
    weight = torch.randn(48, generator=numbers)
    x[0, 0] = 0  # whose scale is epsilon's alone
    x.requires_grad_()
    normed: Tensor = FusedNorm.apply(x, weight, 1e-5)  # type: ignore[no-untyped-call]
    found = with_gradient(normed, x, of_out)
    wanted = with_gradient(rms_norm_plain(x, weight, 1e-5), x, of_out)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_rotations_equal_their_twin() -> None:
    numbers = torch.Generator().manual_seed(1)
    # Queries are a part of what a layer gives for a token, and each value has an angle of its own.
    given = torch.randn(2, 3, 2, 5, 24, generator=numbers)
    x, of_out = (each.transpose(1, 2) for each in (given[:, :, 0], given[:, :, 1]))
    cos, sin = torch.randn(2, 1, 3, 24, generator=numbers)
    x.requires_grad_()
    turned: Tensor = FusedRotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    found = with_gradient(turned, x, of_out)
    wanted = with_gradient(rotated_plain(x, cos, sin), x, of_out)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("family", "kind"), [("llama", "Llama"), ("qwen3", "Qwen3")])
def test_a_step_with_them_is_transformers_own(family: str, kind: str) -> None:
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    embedding = model.get_input_embeddings().weight.requires_grad_()
    ids = torch.arange(24)[None] % 32

    def computed() -> tuple[Tensor, Tensor]:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        losses, _ = token_nll(hidden, model.lm_head.weight.detach(), ids[0])
        return losses.detach(), *torch.autograd.grad(losses.sum(), embedding)

    plain = computed()
    with parts.fused_parts(model, chosen.parts_of(embedding)):
        norms = [module for module in model.modules() if "forward" in vars(module)]
        assert {type(norm).__name__ for norm in norms} == {f"{kind}RMSNorm"}
        assert rotates(model)
        found = computed()
    assert not rotates(model)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
