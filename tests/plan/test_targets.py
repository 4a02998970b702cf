"""Which layers a user's targets are."""

from dataclasses import replace

import pytest

from tests.plan.test_memory import LLAMA_8B
from tunery.errors import InvalidRequest
from tunery.plan.memory import Needs
from tunery.plan.targets import targeted
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
    assert needs.adapter == 16 * needs.adapter_parameters
    assert replace(needs, optimizer="lion_8bit").adapter == 9 * needs.adapter_parameters


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
