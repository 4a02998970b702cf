"""The families that people fine-tune: a config of each as transformers has it by default, with what
makes it one of the published models where the default is none.
"""

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

WINDOWED = ["sliding_attention", "full_attention"] * 2
HYBRID = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
QWEN_3_5 = {"model_type": "qwen3_5_text", "num_hidden_layers": 4, "layer_types": HYBRID}
QWEN_3_5_MOE = QWEN_3_5 | {"model_type": "qwen3_5_moe_text"}
THREE_POSITIONS = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1_000_000.0,
        "mrope_section": [16, 24, 24],
    },
}

GEMMA_4_MOE = {
    "enable_moe_block": True,
    "num_experts": 128,
    "top_k_experts": 8,
    "moe_intermediate_size": 704,
}

# What each is called here, its `model_type` and what is not the default.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 2, Llama 3": ("llama", {}),
    "Llama 3.1, 3.2, 3.3 (scaled positions)": (
        "llama",
        {
            "max_position_embeddings": 131_072,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
    "Llama 4 (text)": ("llama4_text", {}),
    "Mistral 7B v0.2, v0.3, Nemo": ("mistral", {"sliding_window": None}),
    "Mistral 7B v0.1 (window)": ("mistral", {"sliding_window": 4096}),
    "Ministral 3 (text)": ("ministral3", {}),
    "Mixtral": ("mixtral", {}),
    "Qwen 2, Qwen 2.5": ("qwen2", {}),
    "Qwen 2 with a window": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 4096,
            "num_hidden_layers": 4,
            "layer_types": WINDOWED,
        },
    ),
    "Qwen 1.5 MoE, Qwen 2 MoE": ("qwen2_moe", {}),
    "Qwen 3": ("qwen3", {}),
    "Qwen 3 MoE": ("qwen3_moe", {}),
    "Qwen 3 Next": ("qwen3_next", {"num_hidden_layers": 4, "layer_types": HYBRID}),
    "Qwen 3.5 (text)": ("qwen3_5_text", QWEN_3_5),
    "Gemma": ("gemma", {}),
    "Gemma 2": ("gemma2", {}),
    "Gemma 3 (text)": ("gemma3_text", {}),
    "Gemma 4 (text)": ("gemma4_text", {}),
    "Gemma 4 26B-A4B (text)": ("gemma4_text", GEMMA_4_MOE),
    "Gemma 3 (with images)": ("gemma3", {}),
    "Gemma 4 (with images)": ("gemma4", {}),
    "Qwen 3.5 (with images)": ("qwen3_5", {"text_config": QWEN_3_5}),
    "Qwen 3.5 MoE (with images)": ("qwen3_5_moe", {"text_config": QWEN_3_5_MOE}),
    "Qwen 3 VL": ("qwen3_vl", {}),
    "Qwen 2.5 VL": ("qwen2_5_vl", {"text_config": THREE_POSITIONS}),
    "Mistral Small 3": ("mistral3", {}),
    "Llama 4 (with images)": ("llama4", {}),
    "gpt-oss": ("gpt_oss", {}),
    "Phi 1, 1.5, 2": ("phi", {}),
    "Phi 3, Phi 4": ("phi3", {"sliding_window": None}),
    "Phi 3.5, Phi 4 mini (long context)": (
        "phi3",
        {
            "sliding_window": None,
            "max_position_embeddings": 131_072,
            "original_max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10_000.0,
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "short_factor": [1.0 + place / 10 for place in range(48)],
                "long_factor": [2.0 + place / 2 for place in range(48)],
            },
        },
    ),
    "Granite 3": ("granite", {"logits_scaling": 8.0, "residual_multiplier": 0.22}),
    "Granite 4 H": (
        "granitemoehybrid",
        {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "mamba_expand": 2,
            "num_local_experts": 4,
        },
    ),
    "SmolLM 3": ("smollm3", {}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", {"num_hidden_layers": 4, "layer_types": WINDOWED}),
    "GLM 4": ("glm4", {}),
    "GLM 4.5": ("glm4_moe", {}),
    "DeepSeek V3": ("deepseek_v3", {}),
    "Command R": ("cohere", {}),
    "Command R7B, Command A": ("cohere2", {}),
    "EXAONE 4": (
        "exaone4",
        {"num_hidden_layers": 4, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    ),
    "Falcon H1": ("falcon_h1", {}),
    "LFM 2": (
        "lfm2",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
        },
    ),
    "Nemotron, Minitron": ("nemotron", {"head_dim": 128, "num_key_value_heads": 8}),
    "StarCoder 2": ("starcoder2", {}),
    "StableLM 2": ("stablelm", {}),
    "GPT-2": ("gpt2", {}),
    "GPT-NeoX, Pythia": ("gpt_neox", {}),
    "OPT": ("opt", {}),
    "BLOOM": ("bloom", {}),
    "OLMoE": ("olmoe", {}),
    "ERNIE 4.5 MoE": ("ernie4_5_moe", {}),
    "MiniMax M2": ("minimax_m2", {}),
    "Phi 3.5 MoE": ("phimoe", {}),
    "Seed-OSS": ("seed_oss", {}),
    "ERNIE 4.5": ("ernie4_5", {}),
    "Hunyuan": ("hunyuan_v1_dense", {"head_dim": 128}),
    "BERT": ("bert", {}),
    "RoBERTa": ("roberta", {"pad_token_id": 1}),
    "XLM-RoBERTa": ("xlm-roberta", {"pad_token_id": 1}),
    "ModernBERT": ("modernbert", {}),
}

# What a config is not made from.
OF_THE_CLASS = {"_name_or_path", "architectures", "dtype", "model_type", "transformers_version"}


def config_of(family: str) -> PretrainedConfig:
    model_type, other = FAMILIES[family]
    default = CONFIG_MAPPING[model_type]()
    written = {key: value for key, value in default.to_dict().items() if key not in OF_THE_CLASS}
    other = {key: value for key, value in other.items() if key not in OF_THE_CLASS}
    made: PretrainedConfig = type(default)(**written | other)
    return made
