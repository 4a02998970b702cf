"""The planner's count of saved activations, beside what autograd saves for a real model."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig

from tunery.base_model import shape_of
from tunery.plan.memory import Needs
from tunery.plan.shape import ENCODERS
from tunery.spec import Lora
from worker.engine.model.base import auto_class, without_dropout

TOKENS = 256
CONFIG = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": TOKENS + 1,
    "pad_token_id": 0,
}
# What attention without groups has no names for.
GROUPED = {"num_key_value_heads", "head_dim"}


def sizes_of(architecture: str) -> dict[str, int]:
    grouped = architecture not in {"gpt2", "bert", "roberta"}
    return {name: size for name, size in CONFIG.items() if grouped or name not in GROUPED}


def saved_bytes(architecture: str, lora: Lora | None, *, checkpointing: bool) -> int:
    """What autograd holds after the forward pass of the blocks, beside the parameters."""
    sizes = sizes_of(architecture)
    if architecture == "gpt2":
        sizes["n_inner"] = sizes["intermediate_size"]
    config = without_dropout(AutoConfig.for_model(architecture, **sizes))
    base = auto_class(architecture).from_config(config)  # type: ignore[no-untyped-call]
    model: Any = base.train()
    if lora:
        targets = lora.target_modules
        adapters = LoraConfig(
            target_modules=targets if isinstance(targets, str) else list(targets),
            r=lora.r,
            lora_dropout=lora.dropout,
            task_type=None if architecture in ENCODERS else "CAUSAL_LM",
            fan_in_fan_out=architecture == "gpt2",
        )
        model = get_peft_model(base, adapters).train()
    if checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    held: dict[int, int] = {}

    def hold(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        ids = torch.ones(1, TOKENS, dtype=torch.long)
        hidden = base.base_model(input_ids=ids).last_hidden_state[0]
    assert hidden.requires_grad
    return sum(held.values())


# PEFT 0.21 asks transformers 5.23 for an attribute by its older name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize(
    ("architecture", "lora", "checkpointing"),
    [
        ("llama", {}, False),
        ("llama", {}, True),
        ("llama", {"dropout": 0.1}, False),
        ("llama", {"target_modules": ("v_proj", "layers.1.mlp.down_proj")}, False),
        ("llama", {"target_modules": ("q_proj", "down_proj"), "dropout": 0.1}, False),
        ("qwen3", {}, False),
        ("qwen3", None, False),
        ("gpt2", None, False),
        ("gemma", {}, False),
        ("phi", {}, False),
        ("phi", {"target_modules": ("fc1", "dense"), "dropout": 0.1}, False),
        ("phi3", {}, False),
        ("gpt2", {}, False),
        ("gpt2", {}, True),
        ("bert", {}, False),
        ("bert", {"dropout": 0.1}, False),
        ("roberta", {}, True),
    ],
)
def test_the_planner_counts_what_autograd_saves(
    architecture: str, lora: dict[str, Any] | None, *, checkpointing: bool
) -> None:
    adapters = None if lora is None else Lora(r=8, **lora)
    shape = shape_of(sizes_of(architecture) | {"model_type": architecture}, {})
    needs = Needs(shape, "fp32", adapters)
    counted = TOKENS * needs.saved(checkpointing=checkpointing)
    measured = saved_bytes(architecture, adapters, checkpointing=checkpointing)
    assert counted == pytest.approx(measured, rel=0.1)
