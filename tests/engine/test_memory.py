"""The planner's count of saved activations, beside what autograd saves for a real model."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tunery.base_model import shape_of
from tunery.plan.memory import Needs

TOKENS, R = 256, 8
CONFIG = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": TOKENS,
}


def saved_bytes(architecture: str, *, checkpointing: bool, dropout: float) -> int:
    """What autograd holds after the forward pass of the blocks, beside the parameters."""
    config = AutoConfig.for_model(architecture, **CONFIG)
    lora = LoraConfig(target_modules="all-linear", r=R, lora_dropout=dropout, task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_config(config)
    model = get_peft_model(base, lora).train()
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
        hidden = base.model(input_ids=torch.zeros(1, TOKENS, dtype=torch.long))
    assert hidden.last_hidden_state.requires_grad
    return sum(held.values())


# PEFT 0.21 asks transformers 5.23 for an attribute by its older name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize(
    ("architecture", "checkpointing", "dropout"),
    [("llama", False, 0), ("llama", True, 0), ("llama", False, 0.1), ("qwen3", False, 0)],
)
def test_the_planner_counts_what_autograd_saves(
    architecture: str, *, checkpointing: bool, dropout: float
) -> None:
    shape = shape_of(CONFIG | {"model_type": architecture})
    needs = Needs(shape, R, "fp32", dropout=dropout > 0)
    counted = TOKENS * needs.saved(checkpointing=checkpointing)
    measured = saved_bytes(architecture, checkpointing=checkpointing, dropout=dropout)
    assert counted == pytest.approx(measured, rel=0.1)
