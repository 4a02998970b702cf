"""A base of more layers than there is room for at once, and a plan that divides it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from tests.engine.conftest import PLAN, TINY
from worker.engine.model.base import auto_class

# More than there are rooms, and not a multiple of them.
LAYERS = 5
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 4,
}
# Of every family that is divided, with what is not its default.
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma": {"num_key_value_heads": 1, "head_dim": 32},
    "gpt2": {"n_inner": 128, "scale_attn_by_inverse_layer_idx": True},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False, "mlp_bias": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 16},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32},
}


def deep(parent: Path, family: str = "llama") -> Path:
    """A random base of that family, with biases where it has any."""
    folder = Path(shutil.copytree(TINY, parent / family))
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **SIZES | FAMILIES[family])
    model = auto_class(family).from_config(config)  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def planned(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    """For two processes, which is how each step is cut whoever takes it."""
    usual = {"micro_tokens": 100, "gpus": 2, "dequantized": False}
    plan = PLAN.model_copy(update=usual | changes)
    patch.setattr("worker.engine.train.plan_of", lambda *_: plan)
