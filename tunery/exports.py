"""What a trained model can be exported as, and what each target takes.

Sources of the limits: llama.cpp's `convert_lora_to_gguf.py` and `conversion/`, vLLM's
`config/lora.py` and `lora/peft_helper.py`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from tunery.errors import InvalidRequest
from tunery.spec import Frozen, Lora

Format = Literal["peft", "merged", "gguf", "ollama"]


class Peft(Frozen):
    """The adapter as PEFT and vLLM load it."""

    format: Literal["peft"] = "peft"
    """The format of the export."""


class Merged(Frozen):
    """One model, W + scale * B A."""

    format: Literal["merged"] = "merged"
    """The format of the export."""
    onto: Literal["trained", "original"] = "trained"
    """The base that the adapter is merged onto: as it was trained on, dequantized, which is exact;
    or the original one, which differs from that by the quantization's error.
    """
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Number format of the merged weights."""


class Gguf(Frozen):
    """The adapter as llama.cpp loads it."""

    format: Literal["gguf"] = "gguf"
    """The format of the export."""
    dtype: Literal["f16", "f32"] = "f32"
    """Number format of the adapter's weights."""


class Ollama(Frozen):
    """The same, with the Modelfile that `ollama create` wants."""

    format: Literal["ollama"] = "ollama"
    """The format of the export."""
    dtype: Literal["f16", "f32"] = "f32"
    """Number format of the adapter's weights."""


Options = Annotated[Peft | Merged | Gguf | Ollama, Field(discriminator="format")]
OPTIONS: TypeAdapter[Peft | Merged | Gguf | Ollama] = TypeAdapter(Options)

# By the `model_type` of a config: what GGUF calls the architecture.
GGUF_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
}

# By the `model_type` of a config: the ends of the names of layers that vLLM takes adapters on.
IN_BLOCKS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
VLLM_LAYERS = {
    "llama": IN_BLOCKS,
    "mistral": IN_BLOCKS,
    "qwen2": IN_BLOCKS,
    "qwen3": IN_BLOCKS,
    "gemma": IN_BLOCKS,
    "phi": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
}
# The largest ranks that it can be told.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


# Why not for Ollama, of a job with a template of its own.
OWN_TEMPLATE = "it is training.chat_template, which is not looked at"


def refuse(
    format_: Format, *, architecture: str, lora: Lora | None, not_for_ollama: str | None = None
) -> None:
    """Raises `InvalidRequest` if a model of this `model_type`, trained so, cannot be exported so;
    without `lora` it was trained in full. `not_for_ollama` is why Ollama has no words for its chat
    template, if that is known.
    """
    if lora is None:
        raise InvalidRequest(
            "Full fine-tuning makes a whole model: its artifacts are what is served. Leave exports "
            "out, or train an adapter (finetuning_type lora).",
            param="exports",
        )
    if format_ in {"peft", "merged"}:
        return
    name = "llama.cpp" if format_ == "gguf" else "Ollama"
    if architecture not in GGUF_ARCHITECTURES:
        raise InvalidRequest(
            f"An adapter for a model of type {architecture!r} is not written for {name} here; "
            f"those of {', '.join(GGUF_ARCHITECTURES)} are. Export it as peft or merged.",
            param="exports",
        )
    if format_ == "ollama" and not_for_ollama:
        raise InvalidRequest(
            f"Ollama has no words for the base's chat template: {not_for_ollama}. Export it as "
            "gguf, and write the Modelfile yourself.",
            param="exports",
        )


def scaling(config: Mapping[str, Any]) -> float:
    """What an adapter's B A is multiplied by, from its `adapter_config.json`."""
    r, alpha = config["r"], config["lora_alpha"]
    return float(alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r)


def vllm_rank(r: int) -> int:
    """The smallest of vLLM's ranks that holds it."""
    return next(rank for rank in VLLM_RANKS if rank >= r)


def vllm_serve(base: str, *, name: str, folder: str, r: int) -> str:
    """The command that serves the adapter in `folder` under a name, with the base it is for, which
    is told as `served_base` does.
    """
    return (
        f"vllm serve {base} --enable-lora --max-lora-rank {vllm_rank(r)} "
        f"--lora-modules {name}={folder}"
    )


def vllm_faults(
    config: Mapping[str, Any], layers: Iterable[str], *, architecture: str
) -> list[str]:
    """Why vLLM would not take an adapter, each a sentence; none if it does. `config` is its
    `adapter_config.json`, `layers` are the names of the layers that it adapts.
    """
    known = VLLM_LAYERS.get(architecture)
    if known is None:
        return [f"vLLM takes no adapters for models of type {architecture!r}."]
    unknown = sorted({layer.split(".")[-1] for layer in layers} - known)
    refused = {
        f"another method than LoRA ({config['peft_type']})": config["peft_type"] != "LORA",
        "DoRA": config.get("use_dora"),
        f"trained biases (bias {config.get('bias')!r})": config.get("bias", "none") != "none",
        "layers trained whole (modules_to_save)": config.get("modules_to_save"),
        "adapters on experts, which it leaves out in silence": config.get("target_parameters"),
        "ranks of their own for some layers (rank_pattern)": config.get("rank_pattern"),
        "alphas of their own for some layers (alpha_pattern)": config.get("alpha_pattern"),
        f"ranks over {VLLM_RANKS[-1]} (r {config['r']})": config["r"] > VLLM_RANKS[-1],
        f"adapters on {', '.join(unknown)}": unknown,
    }
    return [f"vLLM does not take {what}." for what, found in refused.items() if found]
