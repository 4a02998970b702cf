"""The adapter as llama.cpp loads it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tests.engine.conftest import TINY
from tests.engine.exporting import export_order, exported, random_adapter, random_base
from tunery.exports import Gguf
from worker.engine.errors import Untrainable
from worker.engine.model.base import WarmBase
from worker.engine.sealed import broken_seal

HEADS, KV_HEADS, WIDTH = 4, 2, 16


class GgufLora:
    """A file as the format's description has it: W + alpha / r * B A."""

    def __init__(self, folder: Path) -> None:
        reader = GGUFReader(folder / "adapter.gguf")
        self.fields = {
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.")
        }
        # Its shapes are the other way round.
        self.tensors = {each.name: torch.tensor(np.array(each.data)) for each in reader.tensors}

    def delta(self, name: str) -> Tensor:
        a, b = (self.tensors[f"{name}.weight.lora_{part}"].float() for part in "ab")
        scaled: Tensor = self.fields["adapter.lora.alpha"] / len(a) * (b @ a)
        return scaled


def trained_delta(adapter: Path, layer: str, scale: float) -> Tensor:
    tensors = load_file(adapter / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
    return scale * b @ a


def scores(q: Tensor, k: Tensor) -> Tensor:
    """(heads, N, N), of (heads, N, width) and (key heads, N, width)."""
    return q @ k.repeat_interleave(HEADS // KV_HEADS, dim=0).transpose(1, 2)


def as_heads(x: Tensor, heads: int) -> Tensor:
    return x.view(-1, heads, WIDTH).transpose(0, 1)


def angles(length: int) -> Tensor:
    """(N, width / 2): what each pair of a head's dimensions is turned by."""
    return torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)


def turned_by_pairs(x: Tensor) -> Tensor:
    """As llama.cpp turns the architecture llama: dimension 2 i together with 2 i + 1."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], WIDTH // 2, 2).contiguous())
    turn = torch.polar(torch.ones(()), angles(x.shape[1]))
    return torch.view_as_real(pairs * turn).reshape(x.shape)


@pytest.mark.parametrize(
    ("settings", "scale", "alpha"),
    [({}, 2, 8), ({"use_rslora": True, "r": 16, "lora_alpha": 6}, 1.5, 24)],
)
def test_its_attention_and_its_layers_are_those_that_were_trained(
    bases: WarmBase,
    cache: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    scale: float,
    alpha: float,
) -> None:
    adapter = random_adapter(tmp_path / "adapter", TINY, **settings)
    folder, said = exported(export_order(TINY, adapter, Gguf(), tmp_path / "out", cache), bases)
    lora = GgufLora(folder)
    assert lora.fields == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "LoRA for tunery/tiny",
        "general.base_model.count": 1,
        "general.base_model.0.name": "tunery/tiny",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    layer = "model.layers.1.self_attn"
    torch.manual_seed(0)
    x = torch.randn(7, 64)
    q, k = (
        turned_by_pairs(as_heads(x @ lora.delta(f"blk.1.attn_{part}").T, heads))
        for part, heads in (("q", HEADS), ("k", KV_HEADS))
    )
    our_q, our_k = (
        as_heads(x @ trained_delta(adapter, f"{layer}.{part}_proj", scale).T, heads)[None]
        for part, heads in (("q", HEADS), ("k", KV_HEADS))
    )
    turn = torch.cat([angles(7), angles(7)], dim=1)[None]
    our_q, our_k = apply_rotary_pos_emb(our_q, our_k, turn.cos(), turn.sin())
    torch.testing.assert_close(scores(q, k), scores(our_q[0], our_k[0]))
    names = {
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for theirs, ours in names.items():
        trained = trained_delta(adapter, f"model.layers.0.{ours}", scale)
        torch.testing.assert_close(lora.delta(f"blk.0.{theirs}"), trained)
    assert len(lora.tensors) == 2 * 2 * (len(names) + 2)
    assert broken_seal(folder) is None
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["export"] == {"format": "gguf", "dtype": "f32"}
    assert not said


def test_other_architectures_are_turned_as_they_are_trained(
    bases: WarmBase, cache: Path, tmp_path: Path
) -> None:
    base = random_base(tmp_path / "base", "qwen3")
    adapter = random_adapter(tmp_path / "adapter", base)
    order = export_order(base, adapter, Gguf(dtype="f16"), tmp_path / "out", cache)
    lora = GgufLora(exported(order, bases)[0])
    assert lora.fields["general.architecture"] == "qwen3"
    assert {tensor.dtype for tensor in lora.tensors.values()} == {torch.float16}
    for part in "qkv":
        trained = trained_delta(adapter, f"model.layers.0.self_attn.{part}_proj", 2)
        torch.testing.assert_close(lora.delta(f"blk.0.attn_{part}"), trained, atol=1e-3, rtol=5e-3)


def test_what_the_format_cannot_carry_is_refused(
    bases: WarmBase, cache: Path, tmp_path: Path
) -> None:
    adapter = random_adapter(tmp_path / "adapter", TINY, scale=1e5)
    order = export_order(TINY, adapter, Gguf(dtype="f16"), tmp_path / "f16", cache)
    with pytest.raises(Untrainable, match=r"weights over 65504.*dtype f32"):
        exported(order, bases)
    path = adapter / "adapter_model.safetensors"
    last = "model.layers.1.mlp.up_proj"
    save_file({n.replace(last, "lm_head"): each for n, each in load_file(path).items()}, path)
    with pytest.raises(RuntimeError, match="no place for an adapter on lm_head"):
        exported(order.model_copy(update={"options": Gguf()}), bases)
    full = order.spec.model_copy(update={"lora": None})
    with pytest.raises(Untrainable, match="Full fine-tuning makes a whole model"):
        exported(order.model_copy(update={"spec": full}), bases)
    assert not list(order.folder.iterdir())
