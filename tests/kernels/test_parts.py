"""The kernels of norms and gated MLPs beside their twins, on a GPU or in Triton's interpreter, and
which modules take them.
"""

import json
import subprocess
import sys
from functools import partial
from importlib import import_module
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from worker.engine.device import device
from worker.engine.kernels import chosen, parts, rms_norm, rotary, swiglu
from worker.engine.kernels.nll import nll_in_place
from worker.engine.kernels.rms_norm import is_as_twin, rms_norm_plain
from worker.engine.kernels.rotary import rotated_plain
from worker.engine.kernels.swiglu import swiglu_plain
from worker.engine.training.loss import token_nll

triton = pytest.importorskip("triton", reason="Triton is not installed: `make kernels` brings it")
if device().type == "cpu" and not triton.knobs.runtime.interpret:
    pytest.skip("there is no GPU: `make kernels`", allow_module_level=True)

from tests.kernels.compiled import KERNELS  # noqa: E402
from worker.engine.kernels import rms_norm_triton, rotary_triton, swiglu_triton  # noqa: E402

ALL = (rms_norm, rotary, swiglu)


def near(one: Tensor, other: Tensor, off_in_bf16: float = 2**-6) -> None:
    """In bf16 to a last place: Triton's interpreter cuts off."""
    off = 1e-5 if one.dtype is torch.float32 else off_in_bf16
    torch.testing.assert_close(one, other, rtol=off, atol=off)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [5, 64, 1000])
def test_the_norms_kernels_equal_their_twin(width: int, dtype: torch.dtype) -> None:
    numbers = torch.Generator().manual_seed(width)
    x, of_out = (torch.randn(7, width, generator=numbers).to(device(), dtype) for _ in range(2))
    weight = torch.randn(width, generator=numbers).to(device(), dtype)
    x = x.requires_grad_()
    wanted = rms_norm_plain(x, weight, 1e-5)
    (gradient,) = torch.autograd.grad(wanted, x, of_out)
    out, of_x = torch.empty_like(wanted), torch.empty_like(gradient)
    rms_norm_triton.forward(x.detach(), weight, out, 1e-5)
    near(out, wanted.detach())
    rms_norm_triton.backward(of_out, x.detach(), weight, of_x, 1e-5)
    near(of_x, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gated_products_kernels_equal_their_twin(dtype: torch.dtype) -> None:
    numbers = torch.Generator().manual_seed(1)
    gate, up, of_out = (
        (2 * torch.randn(7, 700, generator=numbers)).to(device(), dtype) for _ in range(3)
    )
    given = gate.requires_grad_(), up.requires_grad_()
    wanted = swiglu_plain(*given)
    gradients = torch.autograd.grad(wanted, given, of_out)
    out, *found = (torch.empty_like(gate) for _ in range(3))
    with torch.no_grad():
        swiglu_triton.forward(gate, up, out)
        near(out, wanted)
        swiglu_triton.backward(of_out, gate, up, *found)
    for one, other in zip(found, gradients, strict=True):
        near(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "width"), [(1, 2), (5, 24), (40, 256)])
def test_the_rotations_kernel_equals_its_twin(heads: int, width: int, dtype: torch.dtype) -> None:
    numbers = torch.Generator().manual_seed(width)
    # Queries are a part of what a layer gives for a token; angles may be the same in each row.
    given = torch.randn(2, 3, 2, heads, width, generator=numbers).to(device(), dtype)
    x, of_out = (each.transpose(1, 2) for each in (given[:, :, 0], given[:, :, 1]))
    cos, sin = torch.randn(2, 1, 3, width, generator=numbers).to(device(), dtype)
    wanted = rotated_plain(x.requires_grad_(), cos, sin)
    (turned_back,) = torch.autograd.grad(wanted, x, of_out)
    x, wanted = x.detach(), wanted.detach()
    cos, sin = cos.expand(2, -1, -1), sin.expand(2, -1, -1)
    out, of_x = torch.empty_like(x), torch.empty_like(x)
    rotary_triton.launch(x, cos, sin, out, back=False)
    near(out, wanted, 2**-5)  # it cuts off both products and their sum
    rotary_triton.launch(of_out, cos, sin, of_x, back=True)
    near(of_x, turned_back, 2**-5)


@pytest.mark.parametrize(
    ("family", "taken"),
    [
        ("llama", True),
        ("qwen3", True),
        ("gemma2", True),
        ("phi3", True),
        ("olmo2", True),
        ("cohere", False),  # pairs of neighbours, in fp32
        ("glm", False),
        ("modernbert", False),  # in fp32
        ("gemma4", False),  # for one tensor
    ],
)
def test_rotations_that_compute_in_another_way_are_left_as_they_are(
    family: str, *, taken: bool
) -> None:
    written_in = import_module(f"transformers.models.{family}.modeling_{family}")
    assert rotary.is_as_twin(written_in.apply_rotary_pos_emb) is taken


def test_a_part_of_a_heads_width_is_rotated_as_transformers_does() -> None:
    plain = import_module("transformers.models.phi3.modeling_phi3").apply_rotary_pos_emb
    q, k, cos, sin = (torch.randn(1, *size) for size in ((2, 3, 8), (1, 3, 8), (3, 4), (3, 4)))
    found = rotary.computed(plain, q, k, cos, sin)
    assert all(map(torch.equal, found, plain(q, k, cos, sin)))


def test_norms_that_compute_in_another_way_are_left_as_they_are() -> None:
    found = [is_as_twin(kind(16).bfloat16()) for kind in (LlamaRMSNorm, Qwen3RMSNorm, GemmaRMSNorm)]
    assert found == [True, True, False]


@pytest.mark.parametrize(
    ("family", "norms", "gated"),
    [("llama", 5, 2), ("qwen3", 9, 2), ("gemma", 0, 0), ("phi3", 5, 0), ("gpt2", 0, 0)],
)
def test_only_parts_that_compute_as_the_twins_are_taken(
    family: str, norms: int, gated: int
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32}
    if family == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 32}
    config = AutoConfig.for_model(family, **sizes, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config)
    with parts.fused_parts(model, ALL):
        taken = [vars(each)["forward"].func for each in model.modules() if "forward" in vars(each)]
    assert taken.count(rms_norm.computed) == norms
    assert taken.count(swiglu.computed) == gated
    # What is patched is put back.
    written_in = import_module(type(model).__module__)
    assert not isinstance(getattr(written_in, rotary.NAME, None), partial)
    assert not any("forward" in vars(each) for each in model.modules())


def test_a_step_with_the_kernels_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients of a whole model, whose layers are recomputed."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes)).to(device())
    embedding = model.get_input_embeddings().weight.requires_grad_()
    ids = torch.arange(24, device=device())[None] % 32

    def computed() -> tuple[Tensor, ...]:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        losses, _ = token_nll(hidden, model.lm_head.weight.detach(), ids[0])
        return losses, *torch.autograd.grad(losses.sum(), embedding)

    plain = computed()
    monkeypatch.setattr(chosen, "fused", lambda _: True)
    if device().type == "cpu":  # the operators are for CUDA alone
        for operator in (nll_in_place, rms_norm.rms_norm, rms_norm.rms_norm_backward):
            operator.register_kernel("cpu")(operator._init_fn)
        for operator in (swiglu.swiglu, swiglu.swiglu_backward, rotary.rotated):
            operator.register_kernel("cpu")(operator._init_fn)
        monkeypatch.setattr(rms_norm, "normed", rms_norm.rms_norm)
        monkeypatch.setattr(rms_norm, "of_normed", rms_norm.rms_norm_backward)
    rotated = Mock(side_effect=rotary.rotated)
    monkeypatch.setattr(rotary, "turned", rotated)
    with parts.fused_parts(model, ALL):
        fused = computed()
    assert rotated.call_count == 2 * 2 * 2  # layers, queries and keys, forward and back
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_kernels_compile_for_gpus_that_are_not_here() -> None:
    without = ["env", "--unset=TRITON_INTERPRET"]
    made = subprocess.run(
        [*without, sys.executable, "-m", "tests.kernels.compiled"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(made.stdout)
    assert {capability for _, capability, _, _ in found} == {80, 90, 100}
    assert len(found) == 3 * len(KERNELS)
    assert all(code > 0 and shared < 48 << 10 for _, _, code, shared in found)  # what each GPU has
