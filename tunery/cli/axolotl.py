"""An Axolotl config as a job: what it says in our words, and by name what we cannot do."""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from tunery.cli.create import Wanted
from tunery.data.named_templates import is_named
from tunery.data.read import read_rows
from tunery.data.rows import Fault
from tunery.errors import InvalidRequest
from tunery.other_names import NO_EFFECT

# The same name, and the same meaning.
TRAINING = {
    "load_in_4bit", "load_in_8bit", "sample_packing", "micro_batch_size",
    "gradient_accumulation_steps", "num_epochs", "learning_rate", "lr_scheduler", "warmup_ratio",
    "optimizer", "weight_decay", "max_grad_norm", "train_on_inputs", "early_stopping_patience",
    "load_best_model_at_end", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
    "warmup_steps", "max_steps",
}  # fmt: skip
# How a training is computed, watched or stored, which the service decides or always does: besides
# what has no effect by whatever program's name (`tunery.other_names`).
OURS_TO_DECIDE = {
    "saves_per_epoch", "evals_per_epoch", "eval_sample_packing", "eval_max_new_tokens",
    "eval_table_size", "eval_causal_lm_metrics", "do_causal_lm_eval", "save_first_step",
    "dataset_prepared_path", "dataset_processes", "dataset_exact_deduplication",
    "excess_length_strategy", "sample_packing_eff_est", "sample_packing_group_size",
    "sample_packing_bin_size", "sample_packing_sequentially", "multipack_real_batches",
    "skip_prepare_dataset", "shuffle_before_merging_datasets", "type_of_model", "model_type",
    "tokenizer_type", "tokenizer_use_fast", "tokenizer_legacy", "tokenizer_use_mistral_common",
    "base_model_config", "is_llama_derived_model", "is_mistral_derived_model",
    "is_qwen_derived_model", "is_falcon_derived_model", "trust_remote_code",
    "auto_resume_from_checkpoints", "local_rank", "debug", "strict", "wandb_watch",
    "wandb_log_model", "wandb_mode", "wandb_run_id", "use_tensorboard", "lora_mlp_kernel",
    "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "shuffle_merged_datasets",
    "plugins", "liger_rope", "liger_rms_norm", "liger_rms_norm_gated", "liger_glu_activation",
    "liger_layer_norm", "liger_fused_linear_cross_entropy", "liger_cross_entropy",
    "liger_use_token_scaling", "cut_cross_entropy", "chunked_cross_entropy", "hf_use_auth_token",
    "eot_tokens", "loss_watchdog_threshold", "loss_watchdog_patience", "use_kernels",
    "quantize_moe_experts", "experts_implementation", "use_scattermoe", "use_sonicmoe",
    "fused_attn_kernel", "flash_attn_fuse_mlp", "flash_attn_fuse_qkv", "flash_attn_rms_norm",
    "flash_attn_cross_entropy", "flex_attn_compile_kwargs", "sage_attention", "s2_attention",
    "gemma4_hybrid_attn_impl", "llama4_linearized_experts", "tiled_mlp", "tiled_mlp_num_shards",
    "unsloth_cross_entropy_loss", "unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o",
    "unsloth_rms_norm", "unsloth_rope", "experimental_skip_move_to_device", "gc_steps",
    "gpu_memory_limit", "max_memory", "lora_on_cpu", "merge_lora", "include_tokens_per_second",
    "profiler_steps", "xformers_attention", "flash_optimum", "eager_attention", "noisy_embedding",
    "lora_fan_in_fan_out", "mean_resizing_embeddings", "torch_compile_backend", "tf32",
    "torch_compile_mode", "eval_batch_size", "logging_dir", "resize_token_embeddings_to_32x",
    "ddp_find_unused_parameters", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
    "ddp", "load_best_model_at_end_metric", "dion_lr", "bnb_config_kwargs",
}  # fmt: skip
# How a training is spread over several GPUs; a job is on one here, if its plan fits.
OF_SEVERAL_GPUS = {
    "deepspeed", "fsdp", "fsdp_config", "fsdp_version", "fsdp_final_state_dict_type",
    "dp_shard_size", "dp_replicate_size", "tensor_parallel_size", "expert_parallel_size",
    "context_parallel_size", "sequence_parallel_degree", "heads_k_stride", "ring_attn_func",
    "pipeline_parallel_size", "world_size",
}  # fmt: skip
# What has no effect with this value, which is how it is here.
SO_ALREADY: dict[str, tuple[Any, ...]] = {
    "adam_beta1": (0.9,),
    "adam_beta2": (0.999,),
    "adam_epsilon": (1e-8,),
    "adam_eps": (1e-8,),
    "chat_template": ("tokenizer_default",),
    "lora_bias": ("none",),
}
# Whose bases have a template by that name, where they are called otherwise.
FAMILIES = {
    "chatml": ("qwen", "smollm", "hermes", "lfm"),
    "mistral": ("mistral", "mixtral", "ministral", "magistral", "devstral"),
    "cohere": ("cohere", "command", "c4ai"),
    "gptoss": ("gpt-oss",),
}
# Tokens that a tokenizer has anyway, and that a config names again.
BASES_OWN = {"bos_token", "eos_token", "unk_token", "pad_token"}


# What a data set's `type` calls our formats of rows.
TYPES = {
    "alpaca": {"alpaca"},
    "chat_template": {"chat", "sharegpt"},
    "sharegpt": {"sharegpt"},
    "completion": {"text"},
}
# What may stand beside a data set's path, because it is so here anyway.
SO_HERE: dict[str, tuple[Any, ...]] = {
    "split": ("train",),
    "ds_type": ("json", "csv", "parquet"),
    "field": ("text",),
    "field_messages": ("messages", "conversations"),
    "message_field_role": ("role", "from"),
    "message_field_content": ("content", "value"),
    "message_property_mappings": (
        {"role": "role", "content": "content"},
        {"role": "from", "content": "value"},
    ),
    "chat_template": ("tokenizer_default",),
    "roles_to_train": (["assistant"], ["gpt"], ["assistant", "gpt"], ["gpt", "assistant"]),
    "train_on_eos": ("turn",),
}
NOT_SO_HERE = (
    "a file is read whole, its rows' own names are used, and of a chat the answers are trained on; "
    "write what you want into a file and give it with --"
)


KNOWN = (*TRAINING, "base_model", "datasets", "test_datasets", "val_set_size", "sequence_len", "rl")


def wanted_of(
    config: dict[str, Any],
    *,
    folder: Path,
    training: Path | None = None,
    validation: Path | None = None,
) -> Wanted:
    """`folder` is what the config's relative paths start from. The files are in place of those that
    it names.
    """
    named = {name: value for name, value in config.items() if value not in (None, "", [], {})}
    settings = {name: whole(named.pop(name)) for name in sorted(TRAINING & named.keys())}
    if "micro_batch_size" in settings:
        settings.setdefault("gradient_accumulation_steps", 1)
    body: dict[str, Any] = {"model": named.pop("base_model", None), "training": settings}
    wanted = Wanted(body, training, validation)
    if "batch_size" in named:
        method = {"hyperparameters": {"batch_size": named.pop("batch_size")}}
        body["method"] = {"type": "supervised", "supervised": method}
    if "sequence_len" in named:
        settings["max_length"] = named.pop("sequence_len")
    if "warmup_ratio" in settings and "warmup_steps" in settings:  # as Axolotl has it
        wanted.dropped.append(f"warmup_ratio: {settings.pop('warmup_ratio')}, beside warmup_steps")
    if "seed" in named:
        body["seed"] = named.pop("seed")
    adapter_of(named, wanted)
    method_of(named, wanted)
    tracker_of(named, wanted)
    data_of(named, wanted, folder)
    for name, value in named.items():
        if name in NO_EFFECT:
            wanted.dropped.append(f"{name}: {value} ({NO_EFFECT[name]})")
        elif name in OF_SEVERAL_GPUS:
            wanted.dropped.append(f"{name}: {value} (a job trains on one GPU here)")
        elif name in OURS_TO_DECIDE or value is False or value in SO_ALREADY.get(name, ()):
            wanted.dropped.append(f"{name}: {value}")
        else:
            near = get_close_matches(name, KNOWN, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            wanted.refused.append(f"{name}: {value} (no such setting here{hint})")
    return wanted


def whole(value: Any) -> Any:  # noqa: ANN401 (any setting's)
    """3.0 epochs are 3."""
    return int(value) if isinstance(value, float) and value.is_integer() and value >= 1 else value


def adapter_of(named: dict[str, Any], wanted: Wanted) -> None:
    adapter, training = named.pop("adapter", None), wanted.body["training"]
    if adapter == "qlora":
        training.setdefault("load_in_4bit", True)
    elif adapter is None:
        training["finetuning_type"] = "full"
    elif adapter != "lora":
        wanted.refused.append(f"adapter: {adapter} (lora, qlora or none at all)")
    elif not {"load_in_4bit", "load_in_8bit"} & training.keys():
        training["quantization"] = "none"
    if named.pop("lora_target_linear", False):
        if targets := training.get("lora_target_modules"):
            wanted.dropped.append(f"lora_target_modules: {targets}, among all linear layers")
        training["lora_target_modules"] = "all-linear"
    if named.pop("peft_use_rslora", False):
        wanted.body["lora"] = {"rslora": True}


def method_of(named: dict[str, Any], wanted: Wanted) -> None:
    kind = named.pop("rl", None)
    beta = named.pop("rl_beta", named.pop("dpo_beta", "auto"))
    if kind == "dpo":
        asked = wanted.body.get("method", {}).get("supervised", {}).get("hyperparameters", {})
        hyperparameters = {"hyperparameters": asked | {"beta": beta}}
        wanted.body["method"] = {"type": "dpo", "dpo": hyperparameters}
    elif kind is not None:
        wanted.refused.append(f"rl: {kind} (dpo alone)")
    elif beta != "auto":
        wanted.refused.append(f"rl_beta: {beta} (it is for rl: dpo)")


def tracker_of(named: dict[str, Any], wanted: Wanted) -> None:
    found = {
        ours: named.pop(theirs)
        for ours, theirs in (
            ("project", "wandb_project"),
            ("entity", "wandb_entity"),
            ("name", "wandb_name"),
        )
        if theirs in named
    }
    if "project" in found:
        wanted.body["integrations"] = [{"type": "wandb", "wandb": found}]
    else:
        wanted.dropped += [f"wandb_{name}: {value} (no project)" for name, value in found.items()]


def data_of(named: dict[str, Any], wanted: Wanted, folder: Path) -> None:
    """One file of rows, whose format is told from what it holds, and one to validate on."""
    for theirs, ours in (("datasets", "training"), ("test_datasets", "validation")):
        sets, given = named.pop(theirs, []), getattr(wanted, ours)
        if sets and given:
            wanted.dropped.append(f"{theirs}: {sets}, in place of which is {given}")
            continue
        match sets:
            case []:
                continue
            case [{"path": str(path), **beside}]:
                setattr(wanted, ours, folder / path)
                wanted.refused += [
                    f"{theirs}: {fault}" for fault in faults_of(beside, folder / path, ours)
                ]
            case [_, _, *_]:
                wanted.refused.append(f"{theirs}: {len(sets)} of them (one file; join them)")
            case other:
                wanted.refused.append(f"{theirs}: {other} (a list of one, with its path)")
    share = named.pop("val_set_size", 0)
    if share and wanted.validation:
        wanted.dropped.append(f"val_set_size: {share}, as there is {wanted.validation}")
    elif isinstance(share, float) and 0 < share < 1:
        wanted.body["training"]["validation_split"] = share
    elif share:
        wanted.refused.append(f"val_set_size: {share} (a share of the rows, such as 0.05)")
    template = named.get("chat_template")
    if isinstance(template, str) and is_own_template(template, wanted.body["model"]):
        wanted.dropped.append(
            f"chat_template: {named.pop('chat_template')} (the base's own template is used)"
        )
    elif template == "jinja" and isinstance(named.get("chat_template_jinja"), str):
        del named["chat_template"]
        wanted.body["training"]["chat_template"] = named.pop("chat_template_jinja")
    elif isinstance(template, str) and is_named(template):
        wanted.body["training"]["chat_template"] = named.pop("chat_template")
    tokens = named.get("special_tokens")
    if isinstance(tokens, dict) and tokens.keys() <= BASES_OWN:
        wanted.dropped.append(
            f"special_tokens: {named.pop('special_tokens')} (the base's tokenizer keeps its own)"
        )


def is_own_template(template: str, base: object) -> bool:
    """Whether a template of that name is that of the base's own family."""
    stem = re.match(r"[a-z]*", template.lower())
    family = stem[0] if stem else ""
    families = FAMILIES.get(family, (family,))
    return bool(family) and any(each in str(base).lower() for each in families)


def faults_of(beside: Mapping[Any, Any], path: Path, ours: str) -> list[str]:
    """What stands beside a data set's path and is otherwise here."""
    found = []
    for name, value in beside.items():
        if name == "type":
            formats = TYPES.get(value) if isinstance(value, str) else None
            row = next(read_rows(path), None) if path.is_file() else None
            if formats is None:
                found.append(f"type: {value} ({', '.join(TYPES)} are known here)")
            elif row and not isinstance(row, Fault) and row.format not in formats:
                found.append(f"type: {value} ({path.name} holds rows of the format {row.format})")
        elif value not in (None, "", [], {}, False) and value not in SO_HERE.get(name, ()):
            found.append(f"{name}: {value} ({NOT_SO_HERE}{ours})")
    return found


def read(path: Path) -> dict[str, Any]:
    """Raises `InvalidRequest` for a file that is no mapping of settings."""
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{path} is no YAML: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is no text: {error}") from error
    if not isinstance(config, dict):
        raise InvalidRequest(f"{path} holds no settings.")
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{path} holds a value that no setting has: {error}.") from error
    return config
