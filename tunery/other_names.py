"""What TRL, Unsloth, Axolotl and LLaMA-Factory call the settings of a training: by which of our
names each is known here, and what has no effect here because it is always so, or decided by itself.
"""

from typing import Any

# Of `training`: their names by ours.
TRAINING = {
    "num_train_epochs": "num_epochs",
    "epochs": "num_epochs",
    "n_epochs": "num_epochs",
    "per_device_train_batch_size": "micro_batch_size",
    "train_batch_size": "micro_batch_size",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "optim": "optimizer",
    "optimizer_type": "optimizer",
    "packing": "sample_packing",
    "cutoff_len": "max_length",
    "sequence_len": "max_length",
    "max_seq_len": "max_length",
    "grad_accum_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "max_grad_clip": "max_grad_norm",
    "val_set_size": "validation_split",
    "val_size": "validation_split",
    "max_train_steps": "max_steps",
    "lora_rank": "lora_r",
    "r": "lora_r",
    "rank": "lora_r",
    "target_modules": "lora_target_modules",
    "lora_target": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "bnb_4bit_double_quant": "bnb_4bit_use_double_quant",
    "adam_eps": "adam_epsilon",
    "cosine_min_lr_ratio": "min_lr_ratio",
    "min_lr_rate": "min_lr_ratio",
}
# OpenAI's, which are the method's and not of `training`.
HYPERPARAMETERS = frozenset(
    {"n_epochs", "batch_size", "learning_rate_multiplier", "beta", "mask_probability"}
)
# Optimizers, by names that mean the same.
OPTIMIZERS = {
    "adamw_torch_fused": "adamw_torch",
    "adamw_torch_xla": "adamw_torch",
    "adamw_apex_fused": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "lion": "lion_32bit",
    "paged_lion": "paged_lion_32bit",
}
# Of `lora`.
LORA = {
    "lora_r": "r",
    "lora_rank": "r",
    "rank": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "target_modules",
    "lora_target": "target_modules",
    "lora_target_parameters": "target_parameters",
    "use_rslora": "rslora",
    "peft_use_rslora": "rslora",
}

PRECISION = "a GPU computes in bf16 where it can, a CPU in fp32"
MEMORY = "the plan decides it by the device's memory"
KERNELS = "the engine has one way of attention and of its loss, which knows packed rows"
WATCHED = "every step is told, and checkpoints are kept by the service"
READ = "the service reads and tokenizes the file itself"
# Names that are accepted without effect, with the reason, whatever their value.
NO_EFFECT = (
    dict.fromkeys(
        ("bf16", "fp16", "tf32", "bfloat16", "float16", "dtype", "torch_dtype"), PRECISION
    )
    | dict.fromkeys(("pure_bf16", "bf16_full_eval", "fp16_full_eval"), PRECISION)
    | dict.fromkeys(("bnb_4bit_compute_dtype", "half_precision_backend"), PRECISION)
    | dict.fromkeys(
        ("gradient_checkpointing", "gradient_checkpointing_kwargs", "use_gradient_checkpointing"),
        MEMORY,
    )
    | dict.fromkeys(("activation_offloading", "auto_find_batch_size", "low_cpu_mem_usage"), MEMORY)
    | dict.fromkeys(("per_device_eval_batch_size", "eval_batch_size", "device_map"), MEMORY)
    | dict.fromkeys(
        ("attn_implementation", "flash_attention", "flash_attn", "xformers_attention"), KERNELS
    )
    | dict.fromkeys(("sdp_attention", "flex_attention", "use_liger_kernel", "liger"), KERNELS)
    | dict.fromkeys(("torch_compile", "padding_free", "packing_strategy", "neat_packing"), KERNELS)
    | dict.fromkeys(("group_by_length", "pad_to_sequence_len", "pad_to_multiple_of"), KERNELS)
    | dict.fromkeys(
        ("logging_steps", "logging_dir", "logging_strategy", "logging_first_step", "log_level"),
        WATCHED,
    )
    | dict.fromkeys(("save_steps", "save_strategy", "save_total_limit", "output_dir"), WATCHED)
    | dict.fromkeys(("save_safetensors", "overwrite_output_dir", "save_only_model"), WATCHED)
    | dict.fromkeys(("eval_steps", "eval_strategy", "evaluation_strategy", "do_train"), WATCHED)
    | dict.fromkeys(("do_eval", "plot_loss", "include_num_input_tokens_seen"), WATCHED)
    | dict.fromkeys(
        ("dataset_num_proc", "preprocessing_num_workers", "dataloader_num_workers"), READ
    )
    | dict.fromkeys(("dataloader_pin_memory", "dataloader_prefetch_factor"), READ)
    | dict.fromkeys(("remove_unused_columns", "overwrite_cache", "dataset_text_field"), READ)
    | dict.fromkeys(("dataloader_drop_last", "ddp_find_unused_parameters"), READ)
)
# Names that are accepted with one value, which is what always happens here; and their reasons.
ONLY: dict[str, tuple[Any, str]] = {
    "bias": ("none", "an adapter trains no biases"),
    "task_type": ("CAUSAL_LM", "the method says what is learned"),
    "init_lora_weights": (True, "adapters begin as PEFT's usual ones"),
    "use_dora": (False, "DoRA is not offered"),
    "modules_to_save": (None, "an adapter has low-rank weights alone"),
    "layers_to_transform": (None, "the adapter is on every layer that target_modules names"),
    "push_to_hub": (False, "the result is downloaded from the service"),
    "neftune_noise_alpha": (None, "NEFTune is not offered"),
    "label_smoothing_factor": (0, "labels are not smoothed"),
}
# Losses on answers alone are the default here; on all of a row is `train_on_inputs`.
ON_ANSWERS = ("assistant_only_loss", "completion_only_loss")
WITHOUT_EFFECT = {*NO_EFFECT, *ONLY, *ON_ANSWERS}


def in_our_names(
    asked: dict[str, Any], names: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings by our names, and why those without effect have none.

    Raises:
        ValueError: a setting comes by two names with two values.

    """
    found: dict[str, Any] = {}
    without_effect: dict[str, str] = {}
    for name, value in asked.items():
        if name in ON_ANSWERS:
            if value is False:
                found["train_on_inputs"] = True
            else:
                without_effect[name] = "the loss is on the answers alone anyway"
        elif name in NO_EFFECT:
            without_effect[name] = NO_EFFECT[name]
        elif name in ONLY:
            only, reason = ONLY[name]
            if value in (only, None):
                without_effect[name] = reason
            else:
                found[name] = value  # which is refused, as no setting of ours
        else:
            ours = names.get(name, name)
            if ours in found and found[ours] != value:
                raise ValueError(
                    f"has {ours} by two names and with two values, {found[ours]!r} and {value!r}; "
                    "give one"
                )
            found[ours] = value
    return found, without_effect
