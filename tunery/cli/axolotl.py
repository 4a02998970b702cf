"""An Axolotl config as a job: what it says in our words, and by name what we cannot do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunery.cli.create import Wanted
from tunery.data.read import read_rows
from tunery.data.rows import Fault
from tunery.errors import InvalidRequest

# The same name, and the same meaning.
TRAINING = {
    "load_in_4bit", "load_in_8bit", "sample_packing", "micro_batch_size",
    "gradient_accumulation_steps", "num_epochs", "learning_rate", "lr_scheduler", "warmup_ratio",
    "optimizer", "weight_decay", "max_grad_norm", "train_on_inputs", "early_stopping_patience",
    "load_best_model_at_end", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
}  # fmt: skip
# How a training is computed, watched or stored, which we decide or always do.
OURS_TO_DECIDE = {
    "bf16", "fp16", "tf32", "bfloat16", "float16", "flash_attention", "xformers_attention",
    "sdp_attention", "flex_attention", "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "activation_offloading", "logging_steps", "saves_per_epoch", "save_steps", "save_strategy",
    "save_total_limit", "save_safetensors", "evals_per_epoch", "eval_steps", "eval_strategy",
    "eval_batch_size", "eval_sample_packing", "output_dir", "dataset_prepared_path",
    "dataset_processes", "dataloader_num_workers", "dataloader_prefetch_factor",
    "dataloader_pin_memory", "pad_to_sequence_len", "group_by_length", "model_type",
    "tokenizer_type", "is_llama_derived_model", "is_mistral_derived_model",
    "auto_resume_from_checkpoints",
    "local_rank", "debug", "strict", "wandb_watch", "wandb_log_model", "wandb_mode",
    "torch_compile", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel",
    "shuffle_merged_datasets", "low_cpu_mem_usage", "plugins", "liger_rope", "liger_rms_norm",
    "liger_glu_activation", "liger_layer_norm", "liger_fused_linear_cross_entropy",
    "cut_cross_entropy", "remove_unused_columns", "hf_use_auth_token",
}  # fmt: skip


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
    if "sequence_len" in named:
        settings["max_length"] = named.pop("sequence_len")
    if "seed" in named:
        body["seed"] = named.pop("seed")
    adapter_of(named, wanted)
    method_of(named, wanted)
    tracker_of(named, wanted)
    data_of(named, wanted, folder)
    for name, value in named.items():
        if name in OURS_TO_DECIDE or value is False:
            wanted.dropped.append(f"{name}: {value}")
        else:
            wanted.refused.append(f"{name}: {value} (no such setting here)")
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
        wanted.body["method"] = {"type": "dpo", "dpo": {"hyperparameters": {"beta": beta}}}
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
    if share:
        wanted.refused.append(
            f"val_set_size: {share} (rows are not split here; give a file with --validation)"
        )
    if named.get("chat_template") == "tokenizer_default":
        del named["chat_template"]
    tokens = named.get("special_tokens")
    if isinstance(tokens, dict) and tokens.keys() == {"pad_token"}:
        wanted.dropped.append(f"special_tokens: {named.pop('special_tokens')} (nothing is padded)")


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
