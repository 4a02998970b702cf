"""How llama.cpp reads each family of models: the keys that its file has, and how its weights lie.

As llama.cpp's `convert_hf_to_gguf.py` writes them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gguf import GGUFWriter, RopeScalingType
from torch import Tensor

from tunery.exports import GGUF_MODELS
from worker.engine.errors import Untrainable

# The tensors that scale positions.
FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


@dataclass(frozen=True)
class Family:
    """What is its own of a `model_type`. `turned`: positions turn a head's neighbouring dimensions
    together. `norms_add_one`: its norms multiply by one more than their weight. `windows`: its
    sliding windows are in llama.cpp.
    """

    turned: bool = False
    norms_add_one: bool = False
    windows: bool = False
    own_keys: Callable[[GGUFWriter, Any], None] = lambda _, __: None


def gemma2_keys(writer: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    require(config, "layer_types", by_period(config, 2))
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def gemma3_keys(writer: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    require(config, "layer_types", by_period(config, 6))
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])


def granite_keys(writer: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def phi3_keys(writer: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    # llama.cpp tells Phi 4 from Phi 3 by it, and has no window for either.
    writer.add_sliding_window(0)
    writer.add_rope_scaling_orig_ctx_len(original_context(config))


def smollm3_keys(_: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    layers = range(config.num_hidden_layers)
    require(config, "no_rope_layers", [int((layer + 1) % 4 != 0) for layer in layers])


FAMILIES = {
    "llama": Family(turned=True),
    "mistral": Family(turned=True),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma": Family(norms_add_one=True),
    "gemma2": Family(norms_add_one=True, windows=True, own_keys=gemma2_keys),
    "gemma3_text": Family(norms_add_one=True, windows=True, own_keys=gemma3_keys),
    "granite": Family(turned=True, own_keys=granite_keys),
    "olmo2": Family(),
    "phi3": Family(own_keys=phi3_keys),
    "smollm3": Family(turned=True, own_keys=smollm3_keys),
}
assert FAMILIES.keys() == GGUF_MODELS.keys()  # noqa: S101


def add_keys(writer: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    """The sizes of a model of one of the `FAMILIES`, from its config as transformers reads it.

    Raises:
        Untrainable: llama.cpp cannot be told of a setting.

    """
    family = FAMILIES[config.model_type]
    writer.add_context_length(context_of(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_key_length(head_width(config))
    writer.add_value_length(head_width(config))
    rope = rope_of(config)
    writer.add_rope_dimension_count(int(head_width(config) * rope.get("partial_rotary_factor", 1)))
    writer.add_rope_freq_base(rope["rope_theta"])
    add_scaling(writer, rope, config)
    family.own_keys(writer, config)


def add_scaling(writer: GGUFWriter, rope: dict[str, Any], config: Any) -> None:  # noqa: ANN401
    """How positions are scaled, as far as it is not in `extra_tensors`."""
    match rope["rope_type"]:
        case "default" | "llama3":
            pass
        case "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            writer.add_rope_scaling_type(RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(original_context(config))
        case "longrope" if config.model_type == "phi3":
            original = original_context(config)
            scale = config.max_position_embeddings / original
            factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
            writer.add_rope_scaling_attn_factors(factor)
        case other:
            raise Untrainable(
                "export_refused",
                f"llama.cpp cannot be told of positions scaled by {other!r}. Export it as merged.",
            )


def extra_tensors(config: Any) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
    """What positions are divided by: (half a head's width,) fp32."""
    rope = rope_of(config)
    if rope["rope_type"] == "longrope":
        yield LONG, torch.tensor(rope["long_factor"], dtype=torch.float32)
        yield SHORT, torch.tensor(rope["short_factor"], dtype=torch.float32)
    if rope["rope_type"] == "llama3":
        yield FACTORS, llama3_factors(rope, head_width(config))


def llama3_factors(rope: dict[str, Any], width: int) -> Tensor:
    """Slow turns are slowed by `factor`, fast ones not at all, those between in part."""
    turns = rope["rope_theta"] ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
    in_context = rope["original_max_position_embeddings"] * turns / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((in_context - low) / (high - low)).clamp(0, 1)
    slower: Tensor = 1 / ((1 - kept) / rope["factor"] + kept)
    return slower


def laid(name: str, weight: Tensor, config: Any) -> Tensor:  # noqa: ANN401
    """A weight of a layer as llama.cpp has it; `name` is transformers'."""
    family = FAMILIES[config.model_type]
    layer = name.split(".")[-2]
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(layer)
    if family.turned and heads:
        by_head = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        return by_head.transpose(1, 2).reshape(weight.shape)
    if family.norms_add_one and layer.endswith("norm"):
        return weight + 1
    return weight


def context_of(config: Any) -> int:  # noqa: ANN401
    """Tokens. Where llama.cpp has no windows it computes the same only so far."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    windowed = "sliding_attention" in kinds if kinds else window is not None
    context = int(config.max_position_embeddings)
    if windowed and window and not FAMILIES[config.model_type].windows:
        return min(int(window), context)
    return context


def rope_of(config: Any) -> dict[str, Any]:  # noqa: ANN401
    found = config.rope_parameters
    return dict(found.get("full_attention", found))


def original_context(config: Any) -> int:  # noqa: ANN401
    found = rope_of(config).get("original_max_position_embeddings")
    return int(found or config.max_position_embeddings)


def head_width(config: Any) -> int:  # noqa: ANN401
    width = getattr(config, "head_dim", None)
    return int(width or config.hidden_size // config.num_attention_heads)


def by_period(config: Any, period: int) -> list[str]:  # noqa: ANN401
    """All layers have windows but the last of each so many."""
    layers = range(config.num_hidden_layers)
    kinds = ("full_attention", "sliding_attention")
    return [kinds[(layer + 1) % period != 0] for layer in layers]


def require(config: Any, setting: str, known: list[Any]) -> None:  # noqa: ANN401
    """llama.cpp has it in its code."""
    if list(getattr(config, setting)) != known:
        raise Untrainable(
            "export_refused",
            f"llama.cpp knows models of type {config.model_type!r} with another {setting} alone. "
            "Export it as merged.",
        )
