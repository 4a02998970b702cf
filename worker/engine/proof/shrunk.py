"""A model's own config with tiny sizes: the same kinds of layers, and limits that are reached."""

import copy
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from worker.engine.model.base import auto_class

# More only if a kind of layer is not among so many: some come at every eighth place.
LAYERS = 4
VOCABULARY = 512

# By the names that families' configs have for them.
SIZES = {
    # widths
    **dict.fromkeys(("d_model", "dim", "embed_dim", "hidden_size", "model_dim", "n_embd"), 64),
    **dict.fromkeys(("block_dim", "conv_dim", "conv_dim_out", "lru_width"), 64),
    **dict.fromkeys(("d_ff", "ffn_dim", "ffn_hidden_size", "intermediate_size", "n_inner"), 96),
    **dict.fromkeys(("dense_intermediate_size", "intermediate_size_mlp", "mlp_hidden_size"), 96),
    "prefix_dense_intermediate_size": 96,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "embedding_size": 64,
    # attention heads
    **dict.fromkeys(("attention_heads", "n_head", "n_heads", "num_attention_heads"), 4),
    "num_heads": 4,
    **dict.fromkeys(("num_global_key_value_heads", "num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("attention_head_dim", "head_dim", "kv_channels", "swa_head_dim"), 16),
    "global_head_dim": 32,
    "v_head_dim": 16,
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "o_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("index_n_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("index_head_dim", "linear_head_dim", "linear_key_head_dim"), 16),
    "linear_value_head_dim": 16,
    **dict.fromkeys(("linear_num_heads", "linear_num_value_heads"), 4),
    "rotary_dim": 8,
    # state spaces
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 8),
    "n_mamba_heads": 2,
    "mamba_d_ssm": 128,
    # experts
    **dict.fromkeys(("moe_num_experts", "n_routed_experts", "num_experts", "num_local_experts"), 4),
    **dict.fromkeys(("moe_k", "moe_top_k", "moe_topk", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "num_expert_group", "topk_group"), 1),
    **dict.fromkeys(("expert_ffn_hidden_size", "moe_intermediate_size"), 32),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    "moe_shared_expert_intermediate_size": 32,
    # tokens and positions
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_ctx", "n_positions", "seq_length"), 512),
    "type_vocab_size": 2,
}
# What a row of some dozens of tokens must run into, or a wrong path would not show.
LIMITS = {
    **dict.fromkeys(("attention_window", "local_attention", "sliding_window"), 8),
    **dict.fromkeys(("attention_chunk_size", "chunk_size", "mamba_chunk_size"), 8),
    "sliding_window_size": 8,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 2.0,
    "floor_scale": 8,
    "index_topk": 8,
    "original_max_position_embeddings": 16,
}
# Of what sees images or hears, which no row has: only its size matters.
UNSEEN = {
    **dict.fromkeys(("hidden_size", "num_position_embeddings"), 32),
    **dict.fromkeys(("head_dim", "intermediate_size", "num_position_embeddings"), 16),
    **dict.fromkeys(("depth", "num_hidden_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("out_hidden_size", "projection_dim", "vision_output_dim"), 64),
    **dict.fromkeys(("projector_input_dim", "projector_output_dim"), 64),
    "image_size": 28,
    "patch_size": 14,
    "deepstack_visual_indexes": [0],
}
LAYER_COUNTS = ("n_layer", "n_layers", "num_hidden_layers", "num_layers")
# What a config is not made from.
NOT_SET = (
    "_name_or_path",
    "architectures",
    "dtype",
    "model_type",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
)


def shrunk(config: PretrainedConfig) -> PretrainedConfig:
    """Of the same class, some hundred thousand parameters large, and as few layers as have all
    kinds; if the whole number of them has not, the first few.
    """
    wanted = kinds_of(config)
    most = max(LAYERS, layers_of(config.get_text_config().to_dict()))
    for count in takewhile(lambda count: count < 2 * most, (LAYERS << n for n in range(most))):
        small = of_layers(config, count)
        if wanted <= kinds_of(small):
            return small
    return of_layers(config, LAYERS)


def kinds_of(config: PretrainedConfig) -> set[frozenset[type[nn.Module]]]:
    """The modules that its layers are made of."""
    with torch.device("meta"):
        model = auto_class(config.model_type).from_config(copy.deepcopy(config))  # type: ignore[no-untyped-call]
    layers = (each for each in model.modules() if isinstance(each, GradientCheckpointingLayer))
    return {frozenset(map(type, layer.modules())) for layer in layers}


def of_layers(config: PretrainedConfig, count: int) -> PretrainedConfig:
    written = config.to_dict()
    small = {name: value for name, value in sized(written, count).items() if name not in NOT_SET}
    made: PretrainedConfig = type(config)(**small)
    return made


def sized(written: dict[str, Any], count: int) -> dict[str, Any]:
    places = places_of(written, count)
    small: dict[str, Any] = {}
    for name, value in written.items():
        small[name] = value
        if not isinstance(name, str):  # a class's number
            continue
        if name in LAYER_COUNTS and number(value):
            small[name] = min(value, count)
        elif name == "num_kv_shared_layers" and number(value):  # the last ones
            small[name] = min(value, count // 2)
        elif number(value) and value > 0 and name in SIZES:
            small[name] = SIZES[name]
        elif number(value) and value > 0 and name in LIMITS:
            small[name] = min(value, LIMITS[name])
        elif name.endswith("_token_id") and number(value):
            small[name] = value % VOCABULARY
        elif name.endswith("_token_id") and isinstance(value, list):
            small[name] = [each % VOCABULARY for each in value]
        elif is_by_layer(value, written):
            small[name] = [value[place] for place in places]
        elif is_by_number(value):
            settings = {int(layer): doubled(sized(each, count)) for layer, each in value.items()}
            kept = {new: settings.get(place) for new, place in enumerate(places)}
            small[name] = {new: each for new, each in kept.items() if each}
        elif name in {"long_factor", "short_factor"} and isinstance(value, list):
            small[name] = value[: rotary_pairs(written)]
        elif name in {"audio_config", "vision_config"} and isinstance(value, dict):
            small[name] = {each: UNSEEN.get(each, other) for each, other in value.items()}
        elif name == "mrope_section" and isinstance(value, list):
            parts = [part * rotary_pairs(written) // sum(value) for part in value]
            small[name] = [rotary_pairs(written) - sum(parts[1:]), *parts[1:]]
        elif isinstance(value, dict) and (name == "text_config" or not name.endswith("_config")):
            small[name] = sized(value, count)
    heads, groups = written.get("num_attention_heads"), written.get("num_key_value_heads")
    if number(groups) and groups == heads:
        small["num_key_value_heads"] = small["num_attention_heads"]
    turned = written.get("qk_rope_head_dim")
    if number(turned) and written.get("head_dim") == turned:
        small["head_dim"] = small["qk_rope_head_dim"]
    return small


def doubled(settings: dict[str, Any]) -> dict[str, Any]:
    """So that a layer of its own sizes has other ones than the rest."""
    return {
        name: 2 * value if name in SIZES and number(value) else value
        for name, value in settings.items()
    }


def rotary_pairs(rope: dict[str, Any]) -> int:
    """Of one head that has all of its width turned, or a part of it."""
    part = rope.get("partial_rotary_factor") or 1
    return int(SIZES["head_dim"] * part) // 2


def places_of(written: dict[str, Any], count: int) -> list[int]:
    """Of the layers that are kept: the first ones, or of each kind, in their order, where the first
    have not all.
    """
    layers = layers_of(written)
    lists = [value for value in written.values() if is_by_layer(value, written)]
    numbered = [
        {int(layer): each for layer, each in value.items()}
        for value in written.values()
        if is_by_number(value)
    ]
    kinds: dict[str, int] = {}
    for layer in range(layers):
        settings = [each[layer] for each in lists] + [each.get(layer) for each in numbered]
        kinds.setdefault(str(settings), layer)
    each = list(kinds.values())
    if max(each, default=0) < count or len(each) > count:
        return list(range(min(count, layers)))
    return (each * count)[: min(count, layers)]


def layers_of(written: dict[str, Any]) -> int:
    found = (written[name] for name in LAYER_COUNTS if number(written.get(name)))
    return int(next(found, 0))


def is_by_layer(value: object, written: dict[str, Any]) -> bool:
    """Whether it has a setting for each layer."""
    return isinstance(value, list) and len(value) == layers_of(written) > 0


def is_by_number(value: object) -> bool:
    """Whether it has settings for some layers, by their numbers, which may be written."""
    if not isinstance(value, dict) or not value:
        return False
    return all(str(key).isdigit() and isinstance(each, dict) for key, each in value.items())


def number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
