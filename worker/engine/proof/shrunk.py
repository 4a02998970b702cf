"""A model's own config with tiny sizes: the same kinds of layers, and limits that are reached."""

from typing import Any

from transformers import PretrainedConfig

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
    """Of the same class, some hundred thousand parameters large."""
    written = config.to_dict()
    small = {name: value for name, value in sized(written).items() if name not in NOT_SET}
    made: PretrainedConfig = type(config)(**small)
    return made


def sized(written: dict[str, Any]) -> dict[str, Any]:
    layers = next((written[name] for name in LAYER_COUNTS if number(written.get(name))), None)
    small: dict[str, Any] = {}
    for name, value in written.items():
        small[name] = value
        if not isinstance(name, str):  # a layer's number
            small[name] = sized(value) if isinstance(value, dict) else value
        elif name in LAYER_COUNTS and number(value):
            small[name] = min(value, LAYERS)
        elif number(value) and value > 0 and name in SIZES:
            small[name] = SIZES[name]
        elif number(value) and value > 0 and name in LIMITS:
            small[name] = min(value, LIMITS[name])
        elif name.endswith("_token_id") and number(value):
            small[name] = value % VOCABULARY
        elif name.endswith("_token_id") and isinstance(value, list):
            small[name] = [each % VOCABULARY for each in value]
        elif isinstance(value, list) and layers and len(value) == layers:
            small[name] = of_each_kind(value)
        elif name in {"long_factor", "short_factor"} and isinstance(value, list):
            small[name] = value[: rotary_pairs(written)]
        elif name in {"audio_config", "vision_config"} and isinstance(value, dict):
            small[name] = {each: UNSEEN.get(each, other) for each, other in value.items()}
        elif name == "mrope_section" and isinstance(value, list):
            parts = [part * rotary_pairs(written) // sum(value) for part in value]
            small[name] = [rotary_pairs(written) - sum(parts[1:]), *parts[1:]]
        elif isinstance(value, dict) and (name == "text_config" or not name.endswith("_config")):
            small[name] = sized(value)
    heads, groups = written.get("num_attention_heads"), written.get("num_key_value_heads")
    if number(groups) and groups == heads:
        small["num_key_value_heads"] = small["num_attention_heads"]
    turned = written.get("qk_rope_head_dim")
    if number(turned) and written.get("head_dim") == turned:
        small["head_dim"] = small["qk_rope_head_dim"]
    return small


def rotary_pairs(rope: dict[str, Any]) -> int:
    """Of one head that has all of its width turned, or a part of it."""
    part = rope.get("partial_rotary_factor") or 1
    return int(SIZES["head_dim"] * part) // 2


def of_each_kind(layers: list[Any]) -> list[Any]:
    """So many layers that each kind is among them, in their order."""
    first = layers[:LAYERS]
    kinds = list({str(each): each for each in layers}.values())
    if len(kinds) == len({str(each) for each in first}) or len(kinds) > LAYERS:
        return first
    return (kinds * LAYERS)[:LAYERS]


def number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
