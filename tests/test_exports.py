"""What each target takes of a trained model."""

from typing import Any, get_args

import pytest

from tunery.errors import InvalidRequest
from tunery.exports import (
    OPTIONS,
    Format,
    Gguf,
    refuse,
    scaling,
    vllm_faults,
    vllm_rank,
    vllm_serve,
)
from tunery.spec import Lora

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "modules_to_save": None}
LAYERS = ["base_model.model.model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]


def test_what_a_target_cannot_carry_is_refused() -> None:
    lora = Lora()
    usual = {name: OPTIONS.validate_python({"format": name}) for name in get_args(Format)}
    for options in usual.values():
        with pytest.raises(InvalidRequest, match="Full fine-tuning makes a whole model") as caught:
            refuse(options, architecture="llama", lora=None)
        assert caught.value.param == "exports"
        for architecture in ("llama", "mistral", "qwen2", "qwen3", "gemma"):
            refuse(options, architecture=architecture, lora=lora)
    for architecture in ("gpt2", "phi", "bert", "qwen3_moe", "gpt_oss"):
        refuse(usual["peft"], architecture=architecture, lora=lora)
        refuse(usual["merged"], architecture=architecture, lora=lora)
        for name, program in (("gguf", "llama.cpp"), ("ollama", "Ollama")):
            why = f"{architecture}' is not written for {program}"
            with pytest.raises(InvalidRequest, match=f"An adapter for a model of type '{why}"):
                refuse(usual[name], architecture=architecture, lora=lora)
            whole = OPTIONS.validate_python({"format": name, "quantization": "q8_0"})
            with pytest.raises(InvalidRequest, match=f"A model of type '{why}"):
                refuse(whole, architecture=architecture, lora=lora)
    with pytest.raises(InvalidRequest, match="or the whole model with a quantization"):
        refuse(usual["gguf"], architecture="phi3", lora=lora)
    refuse(Gguf(quantization="q4_k_m"), architecture="phi3", lora=lora)


def test_vllm_is_told_the_next_rank_that_it_takes() -> None:
    told = {r: vllm_rank(r) for r in (1, 2, 8, 9, 16, 129, 257, 512)}
    assert told == {1: 1, 2: 8, 8: 8, 9: 16, 16: 16, 129: 256, 257: 320, 512: 512}
    assert vllm_serve("llama", name="ft:a", folder="adapter", r=12) == (
        "vllm serve llama --enable-lora --max-lora-rank 16 --lora-modules ft:a=adapter"
    )


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "trained biases (bias 'lora_only')"),
        ({"modules_to_save": ["lm_head"]}, "layers trained whole (modules_to_save)"),
        ({"r": 513}, "ranks over 512 (r 513)"),
        ({"rank_pattern": {"q_proj": 4}}, "ranks of their own"),
        ({"peft_type": "LOHA"}, "another method than LoRA (LOHA)"),
    ],
)
def test_an_adapter_that_vllm_would_not_take_is_told(changed: dict[str, Any], fault: str) -> None:
    (told,) = vllm_faults(CONFIG | changed, LAYERS, architecture="llama")
    assert told.startswith(f"vLLM does not take {fault}")


def test_one_that_it_takes_has_no_faults() -> None:
    assert not vllm_faults(CONFIG | {"use_rslora": True}, LAYERS, architecture="llama")
    unknown = ["model.layers.0.mlp.fc1", "model.layers.0.mlp.fc2"]
    assert vllm_faults(CONFIG, unknown, architecture="llama") == [
        "vLLM does not take adapters on fc1, fc2."
    ]
    assert not vllm_faults(CONFIG, unknown, architecture="phi")
    assert not vllm_faults(CONFIG, ["model.layers.0.mlp.gate_up_proj"], architecture="phi3")
    (told,) = vllm_faults(CONFIG, ["transformer.h.0.attn.c_attn"], architecture="gpt2")
    assert told == "vLLM takes no adapters for models of type 'gpt2'."


def test_the_scale_is_that_of_the_config() -> None:
    assert scaling({"r": 16, "lora_alpha": 32}) == 2
    assert scaling({"r": 16, "lora_alpha": 32, "use_rslora": True}) == 8
