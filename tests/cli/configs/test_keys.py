"""The verdicts on the keys of other trainers' configs."""

import pytest

from tunery.cli.configs import axolotl_keys, llamafactory_keys
from tunery.cli.configs.settings import Keys, is_own_template


@pytest.mark.parametrize("keys", [axolotl_keys.KEYS, llamafactory_keys.KEYS])
def test_a_key_has_one_verdict(keys: Keys) -> None:
    assert not keys.mapped & (keys.no_effect.keys() | keys.refused.keys() | keys.so_here.keys())
    assert not keys.no_effect.keys() & (keys.refused.keys() | keys.so_here.keys())


@pytest.mark.parametrize(
    ("template", "base", "own"),
    [
        ("qwen3_nothink", "Qwen/Qwen3-4B-Instruct-2507", True),
        ("llama3", "meta-llama/Meta-Llama-3-8B-Instruct", True),
        ("llama3", "meta-llama/Llama-2-7b-hf", False),
        ("chatml", "HuggingFaceTB/SmolLM2-1.7B", True),
        ("phi_3", "microsoft/Phi-3.5-mini-instruct", True),
        ("mistral", "mistralai/Mixtral-8x7B-v0.1", True),
        ("qwen3", "katanemo/Plano-Orchestrator-4B", False),
        ("", "anything", False),
    ],
)
def test_a_template_of_the_bases_own_family_and_generation_is_its_own(
    template: str, base: str, own: bool
) -> None:
    assert is_own_template(template, base) == own
