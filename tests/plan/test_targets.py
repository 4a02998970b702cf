"""Which layers a user's targets are."""

from dataclasses import replace

import pytest

from tests.plan.test_memory import LLAMA_8B
from tunery.errors import InvalidRequest
from tunery.plan.memory import Needs
from tunery.plan.targets import refuse_no_experts, targeted
from tunery.spec import Lora


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("all-linear", 7 * 32),
        (("q_proj", "v_proj"), 2 * 32),
        (("layers.3.mlp.up_proj", "down_proj"), 33),
        (r"model\.layers\.(30|31)\..*\.[kv]_proj", 4),
    ],
)
def test_targets_are_matched_as_peft_does(targets: str | tuple[str, ...], found: int) -> None:
    assert len(targeted(LLAMA_8B, targets)) == found


def test_the_adapter_is_as_large_as_its_layers_make_it() -> None:
    needs = Needs(LLAMA_8B, "bf16", Lora(r=8, target_modules=("q_proj", "v_proj")))
    assert needs.adapter_parameters == 32 * 8 * (4096 + 4096 + 4096 + 1024)
    assert needs.trained == 16 * needs.adapter_parameters
    assert replace(needs, optimizer="lion_8bit").trained == 9 * needs.adapter_parameters


MIXTURE = LLAMA_8B.model_copy(
    update={
        "experts_read": (
            ("model.layers.0.block_sparse_moe.experts.down_proj", 8, 14336, 4096),
            ("model.layers.0.block_sparse_moe.experts.gate_up_proj", 8, 4096, 28672),
        ),
        "experts_chosen": 2,
    }
)


def test_experts_that_are_named_add_to_the_adapter_for_each_of_them() -> None:
    """By the last parts of their names: what is before them differs between files and models."""
    needs = Needs(MIXTURE, "bf16", Lora(r=8))
    on_experts = replace(needs, lora=Lora(r=8, target_parameters=("mlp.experts.down_proj",)))
    more = on_experts.adapter_parameters - needs.adapter_parameters
    assert more == 8 * 8 * (14336 + 4096)
    refuse_no_experts(MIXTURE, ("mlp.experts.down_proj", "experts.up_proj"))
    with pytest.raises(InvalidRequest, match=r"'mlp.gate.weight', .* Choose from experts.down_pro"):
        refuse_no_experts(MIXTURE, ("mlp.gate.weight",))


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (("q_proj", "lm_head"), r"has 'lm_head', .* Choose from q_proj, k_proj, .*\"all-linear\""),
        (("proj",), "has 'proj'"),
        ("q_proj", r"no linear layer's whole name .* model\.layers\.0\.self_attn\.q_proj"),
        ("model.embed_tokens", "no linear layer"),
        ("(.*", "cannot be read as a regular expression: unclosed group"),
        (r"(?=.*)q_proj", "look-around"),
        ("a)|(b", "unopened group"),
        (r"(\w+\.?)+!", "no linear layer"),  # Python's own expressions would take years
    ],
)
def test_targets_that_are_no_layer_are_refused(targets: str | tuple[str, ...], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        targeted(LLAMA_8B, targets)
    assert refused.value.param == "lora.target_modules"
