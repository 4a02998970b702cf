"""What a trained model can be exported as, and what each target takes.

Sources of the limits: llama.cpp's `convert_lora_to_gguf.py` and `conversion/`, vLLM's
`config/lora.py` and `lora/peft_helper.py`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from tunery.errors import InvalidRequest
from tunery.spec import Frozen, Lora

Format = Literal["peft", "merged", "gguf", "ollama"]
GgufQuantization = Literal["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]


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


class InGguf(Frozen):
    """The whole model in one file, if a `quantization` is given; else the adapter alone."""

    quantization: GgufQuantization | None = None
    """Number format of the whole model's weights, as llama.cpp names it."""
    dtype: Literal["f16", "f32"] | None = None
    """Number format of the adapter's weights."""

    @model_validator(mode="before")
    @classmethod
    def of_one_of_the_two(cls, given: Any) -> Any:  # noqa: ANN401 (whatever was sent)
        if not isinstance(given, dict):
            return given
        if given.get("quantization") is None:
            return {"dtype": "f32"} | {k: v for k, v in given.items() if v is not None}
        if given.get("dtype") is not None:
            raise ValueError("dtype is of the adapter; of a whole model quantization says it")
        return given


class Gguf(InGguf):
    """For llama.cpp."""

    format: Literal["gguf"] = "gguf"
    """The format of the export."""


class Ollama(InGguf):
    """The same, with the Modelfile that `ollama create` wants."""

    format: Literal["ollama"] = "ollama"
    """The format of the export."""


Options = Annotated[Peft | Merged | Gguf | Ollama, Field(discriminator="format")]
OPTIONS: TypeAdapter[Peft | Merged | Gguf | Ollama] = TypeAdapter(Options)


def is_whole(options: Options) -> bool:
    """Whether it is a model without a base, which the adapter is merged into."""
    return isinstance(options, Merged) or (
        isinstance(options, InGguf) and options.quantization is not None
    )


# By the `model_type` of a config: what GGUF calls the architecture, of adapters.
GGUF_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
}
# The same of whole models. Each was compared with transformers in llama.cpp: tests/engine/
# test_gguf_families.py.
GGUF_MODELS = GGUF_ARCHITECTURES | {
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "granite": "granite",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "smollm3": "smollm3",
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
    options: Options, *, architecture: str, lora: Lora | None, not_for_ollama: str | None = None
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
    if not isinstance(options, InGguf):
        return
    name = "llama.cpp" if options.format == "gguf" else "Ollama"
    whole = options.quantization is not None
    known = GGUF_MODELS if whole else GGUF_ARCHITECTURES
    if architecture not in known:
        other = ""
        if architecture in GGUF_MODELS:
            other = ", or the whole model with a quantization"
        raise InvalidRequest(
            f"{'A' if whole else 'An adapter for a'} model of type {architecture!r} is not written "
            f"for {name} here; those of {', '.join(known)} are. Export it as peft or "
            f"merged{other}.",
            param="exports",
        )
    if options.format == "ollama" and not_for_ollama:
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
