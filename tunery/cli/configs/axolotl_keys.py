"""Axolotl's keys that are no settings here, each with the reason."""

from typing import Any

from tunery.cli.configs.settings import Keys

# The same name, and the same meaning.
TRAINING = {
    "load_in_4bit", "load_in_8bit", "sample_packing", "micro_batch_size",
    "gradient_accumulation_steps", "num_epochs", "learning_rate", "lr_scheduler", "warmup_ratio",
    "optimizer", "weight_decay", "max_grad_norm", "train_on_inputs", "early_stopping_patience",
    "load_best_model_at_end", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
    "lora_target_parameters",
    "warmup_steps", "max_steps", "adam_beta1", "adam_beta2", "adam_epsilon",
    "loraplus_lr_ratio",
}  # fmt: skip
# What Axolotl does where nothing is said and this service would do something else.
DEFAULTS: dict[str, Any] = {
    "micro_batch_size": 1,
    "num_epochs": 1,
    "lr_scheduler": "cosine",
    "weight_decay": 0.0,
    "max_length": 512,
}
DEFAULT_SEED = 42
DEFAULT_WARMUP_RATIO = 0.03
MAPPED = TRAINING | {
    "base_model", "datasets", "test_datasets", "val_set_size", "sequence_len", "rl", "rl_beta",
    "dpo_beta", "adapter", "lora_target_linear", "peft_use_rslora", "seed", "batch_size",
    "chat_template", "chat_template_jinja", "wandb_project", "wandb_entity",
    "wandb_name", "adam_eps", "cosine_min_lr_ratio", "lr_scheduler_kwargs",
    "dataset_exact_deduplication",
}  # fmt: skip

ONE_RESULT = "how a step is computed is decided here, and does not change its result"
BY_MEMORY = "the plan decides it by the device's memory"
ONE_GPU = "a job trains on one GPU here"
WATCHED = "an evaluation and a checkpoint are at each epoch's end"
READ_HERE = "the service reads and tokenizes the file itself"
SHUFFLED = "rows are drawn in an order that the seed gives"
TOLD = "a job's metrics are shown by the service, in TensorBoard's file and in Weights & Biases"
FETCHED = "the result is downloaded from the service"
BASES = "a base is registered with its own configuration, tokenizer and revision"
UNREAD = "Axolotl reads no such setting"
OTHERS = "it is a setting of an optimizer that is not chosen"

NO_EFFECT = {
    name: reason
    for reason, names in (
        (
            ONE_RESULT,
            (
                "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel",
                "liger_rope", "liger_rms_norm", "liger_rms_norm_gated", "liger_glu_activation",
                "liger_layer_norm", "liger_fused_linear_cross_entropy", "liger_cross_entropy",
                "liger_use_token_scaling", "cut_cross_entropy", "chunked_cross_entropy",
                "chunked_cross_entropy_num_chunks", "use_kernels", "experts_implementation",
                "use_scattermoe", "use_sonicmoe", "use_glm_dsa_kernels", "use_dsv4_kernels",
                "llama4_linearized_experts", "fused_attn_kernel", "flash_attn_fuse_mlp",
                "flash_attn_fuse_qkv", "flash_attn_rms_norm", "flash_attn_cross_entropy",
                "flash_attn_d512", "flex_attn_compile_kwargs", "sage_attention", "eager_attention",
                "flash_optimum", "sdpa_varlen", "large_head_attention", "gemma4_hybrid_attn_impl",
                "unsloth_cross_entropy_loss", "unsloth_lora_mlp", "unsloth_lora_qkv",
                "unsloth_lora_o", "unsloth_rms_norm", "unsloth_rope", "torch_compile_backend",
                "torch_compile_mode", "torch_compile_options", "deepcompile",
                "sample_packing_eff_est", "sample_packing_group_size", "sample_packing_bin_size",
                "sample_packing_sequentially", "sample_packing_mp_start_method",
                "multipack_real_batches", "batch_flattening", "eval_sample_packing",
                "pretrain_multipack_attn", "lora_fan_in_fan_out", "precompute_ref_log_probs",
                "peft_autocast_adapter_dtype", "dpo_use_logits_to_keep",
                "dpo_use_liger_kernel", "dpo_padding_free", "accelerator_config",
            ),
        ),
        (
            BY_MEMORY,
            (
                "gpu_memory_limit", "max_memory", "lora_on_cpu", "gc_steps", "gc_collect_steps",
                "torch_empty_cache_steps", "tiled_mlp", "tiled_mlp_num_shards",
                "tiled_mlp_use_original_mlp", "layer_offloading", "selective_checkpointing",
                "experimental_skip_move_to_device", "embeddings_skip_upcast", "device", "float32",
                "quantize_moe_experts", "qlora_sharded_model_loading",
            ),
        ),
        (
            ONE_GPU,
            (
                "deepspeed", "fsdp", "fsdp_config", "fsdp_version", "fsdp_final_state_dict_type",
                "dp_shard_size", "dp_replicate_size", "tensor_parallel_size",
                "expert_parallel_size", "expert_parallel_token_capacity",
                "expert_parallel_num_nvl_bytes", "context_parallel_size",
                "sequence_parallel_degree", "heads_k_stride", "ring_attn_func",
                "pipeline_parallel_size", "world_size", "local_rank", "ddp", "ddp_timeout",
                "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
                "use_ray", "ray_num_workers", "ray_run_name", "resources_per_worker",
            ),
        ),
        (
            WATCHED,
            (
                "saves_per_epoch", "evals_per_epoch", "save_first_step", "eval_max_new_tokens",
                "eval_table_size", "eval_causal_lm_metrics", "do_causal_lm_eval",
                "eval_sequence_len", "auto_resume_from_checkpoints", "dynamic_checkpoint",
                "load_best_model_at_end_metric", "generate_samples", "num_generation_samples",
                "generation_max_new_tokens", "generation_temperature", "generation_top_p",
                "generation_top_k", "generation_prompt_ratio", "generation_do_sample",
                "dpo_generate_during_eval", "do_bench_eval", "bench_dataset", "bench_split",
            ),
        ),
        (
            READ_HERE,
            (
                "dataset_prepared_path", "dataset_processes", "dataset_keep_in_memory",
                "dataset_shard_num", "dataset_shard_idx", "num_dataset_shards_to_save",
                "skip_prepare_dataset", "push_dataset_to_hub", "hf_use_auth_token", "streaming",
                "streaming_multipack_buffer_size", "pretrain_multipack_buffer_size",
                "preprocess_iterable", "is_preprocess", "total_num_tokens",
                "total_supervised_tokens", "axolotl_config_path",
            ),
        ),
        (
            "a row that is longer is cut at sequence_len, and the job's events count such rows",
            ("excess_length_strategy",),
        ),
        (
            SHUFFLED,
            ("shuffle_merged_datasets", "shuffle_before_merging_datasets"),
        ),
        (
            TOLD,
            (
                "wandb_watch", "wandb_log_model", "wandb_mode", "wandb_run_id", "use_wandb",
                "use_tensorboard", "use_mlflow", "mlflow_tracking_uri", "mlflow_experiment_name",
                "mlflow_run_name", "hf_mlflow_log_artifacts", "use_comet", "comet_api_key",
                "comet_workspace", "comet_project_name", "comet_experiment_key", "comet_mode",
                "comet_online", "comet_experiment_config", "use_trackio", "trackio_project_name",
                "trackio_run_name", "trackio_space_id", "use_swanlab", "swanlab_project",
                "swanlab_experiment_name", "swanlab_description", "swanlab_mode",
                "swanlab_workspace", "swanlab_api_key", "swanlab_log_completions",
                "swanlab_completion_log_interval", "swanlab_completion_max_buffer",
                "swanlab_lark_webhook_url", "swanlab_lark_secret", "use_otel_metrics",
                "otel_metrics_host", "otel_metrics_port", "include_tokens_per_second",
                "include_tkps",
            ),
        ),
        (FETCHED, ("hub_model_id", "hub_strategy", "hub_revision", "push_to_hub")),
        (
            BASES,
            (
                "type_of_model", "model_type", "cls_model_config", "base_model_config",
                "base_model_ignore_patterns", "revision_of_model", "tokenizer_type",
                "tokenizer_config", "tokenizer_use_fast", "tokenizer_legacy",
                "tokenizer_use_mistral_common", "tokenizer_save_jinja_files",
                "is_llama_derived_model", "is_mistral_derived_model", "is_qwen_derived_model",
                "is_falcon_derived_model", "trust_remote_code", "mean_resizing_embeddings",
                "resize_token_embeddings_to_32x", "shrink_embeddings",
            ),
        ),
        ("what ends a turn is read off the chat template", ("eot_tokens",)),
        ("embeddings have no adapter", ("loraplus_lr_embedding",)),
        ("each message's own names are looked for", ("template_thinking_key",)),
        (UNREAD, ("eta_min", "test_value")),
        (
            "a loss that is no finite number ends a job, and a high one does not",
            ("loss_watchdog_threshold", "loss_watchdog_patience"),
        ),
        (
            "it is of how Axolotl itself runs",
            ("profiler_steps", "profiler_steps_start", "debug", "strict"),
        ),
        ("an export merges: tunery export JOB --format merged", ("merge_lora", "merge_method")),
        (
            "it is of serving a model, and this is a training",
            (
                "gradio_title", "gradio_share", "gradio_server_name", "gradio_server_port",
                "gradio_max_new_tokens", "gradio_temperature",
            ),
        ),
        (
            OTHERS,
            (
                "dion_lr", "dion_momentum", "dion_rank_fraction", "dion_rank_multiple_of",
                "adam_beta3", "adam_epsilon2", "qgalore_rank", "qgalore_update_proj_gap",
                "qgalore_scale", "qgalore_proj_type", "qgalore_proj_quant", "qgalore_proj_bits",
                "qgalore_proj_group_size", "qgalore_cos_threshold", "qgalore_gamma_proj",
                "qgalore_queue_size", "torchdistx_path", "optim_target_modules",
            ),
        ),
    )
    for name in names
}  # fmt: skip

NOT_OFFERED = "it is not offered; leave it out"
SO_HERE: dict[str, tuple[tuple[Any, ...], str]] = {
    "lora_bias": (("none",), "an adapter trains no biases"),
    "peft_init_lora_weights": ((True, "default", "kaiming"), "adapters begin as PEFT's usual ones"),
    "dpo_loss_type": ((["sigmoid"], "sigmoid"), "the loss of DPO is the sigmoid one"),
    "dpo_label_smoothing": ((0, 0.0), "labels are not smoothed"),
    "cosine_constant_lr_ratio": ((0, 0.0, 1, 1.0), "a cosine falls to the last step"),
    "model_quantization_config": (("Mxfp4Config",), "a base is read in 16 bits, or in NF4 or int8"),
    "model_quantization_config_kwargs": (
        ({"dequantize": True},),
        "a base is read in 16 bits, or in NF4 or int8",
    ),
    "metric_for_best_model": (
        ("eval_loss", "loss"),
        "the best evaluation is the one with the least loss",
    ),
    "greater_is_better": ((False,), "the best evaluation is the one with the least loss"),
    "lr_groups": (([],), "all weights have one rate"),
}

WEIGHTS = "an adapter has low-rank weights of linear layers alone"
REFUSED = {
    "lora_modules_to_save": (
        f"{WEIGHTS}; leave it out, choose a base that has the tokens, or train all weights without "
        "an adapter"
    ),
    "lora_rank_pattern": "all layers have one rank; leave it out, and set lora_r",
    "lora_alpha_pattern": "all layers have one alpha; leave it out, and set lora_alpha",
    "peft_layers_to_transform": "leave it out, and name the layers in lora_target_modules",
    "peft_layers_pattern": "leave it out, and name the layers in lora_target_modules",
    "peft_use_dora": f"DoRA: {NOT_OFFERED}, and train LoRA, or rsLoRA with peft_use_rslora",
    "peft_ensure_weight_tying": f"{WEIGHTS}; leave it out",
    "peft": f"LoftQ: {NOT_OFFERED}, and adapters begin as PEFT's usual ones",
    "lora_model_dir": "leave it out, and name the tuned model with --model",
    "embedding_lr": "all weights have one rate; leave it out",
    "embedding_lr_scale": "all weights have one rate; leave it out",
    "unfrozen_parameters": (
        "all weights are trained, or an adapter; leave it out, or set adapter and "
        "lora_target_modules"
    ),
    "freeze_mm_modules": "images are not trained on; leave it out for a base of text alone",
    "processor_type": "images and audio are not trained on; choose a base and data of text",
    "is_multimodal": "images and audio are not trained on; choose a base and data of text",
    "tokens": "no tokens are added to a base; choose one that has them, and leave it out",
    "added_tokens_overrides": "no tokens are changed in a base; choose one that has them",
    "special_tokens": "no tokens are added to a base; choose one that has them, and leave it out",
    "fix_untrained_tokens": "no tokens are changed in a base; leave it out",
    "bnb_config_kwargs": "bnb_4bit_quant_type and bnb_4bit_use_double_quant alone can be set",
    "neftune_noise_alpha": f"NEFTune: {NOT_OFFERED}",
    "lr_quadratic_warmup": "a warm-up is linear; leave it out",
    "lr_div_factor": f"it belongs to the schedule one_cycle: {NOT_OFFERED}",
    "cosine_constant_lr_ratio": "leave it out: a cosine falls to the last step",
    "optim_args": "leave it out; adam_beta1, adam_beta2 and adam_epsilon can be set",
    "curriculum_sampling": f"{SHUFFLED}; leave it out",
    "max_packed_sequence_len": "leave it out, and set sample_packing and sequence_len",
    "min_sample_len": "rows are not left out by their length; leave short ones out of the file",
    "max_prompt_len": "a row is cut at sequence_len as a whole; leave it out",
    "s2_attention": "attention is the model's own; leave it out, and lower sequence_len if need be",
    "scaling_softmax": "attention is the model's own; leave it out",
    **dict.fromkeys(
        ("scaling_softmax_factor", "scaling_softmax_bias"),
        "attention is the model's own; leave it out",
    ),
    **dict.fromkeys(
        ("use_pose", "pose_split_on_token_ids", "pose_max_context_len", "pose_num_chunks"),
        "positions are the model's own; leave it out",
    ),
    "pretraining_sample_concatenation": (
        "texts are packed, and none sees another; leave it out, and give them as `datasets`"
    ),
    "trainer_cls": "the service trains by its own loop; leave it out",
    "rpo_alpha": f"RPO: {NOT_OFFERED}",
    "dpo_norm_loss": "the loss of a step is the mean over its pairs; leave it out",
    "noisy_embedding_alpha": f"NEFTune: {NOT_OFFERED}",
    "role_boundaries": "what is an answer is read off the chat template; leave it out",
    **dict.fromkeys(
        ("image_size", "image_resize_algorithm"),
        "images and audio are not trained on; choose a base and data of text",
    ),
    "model_config": "a base is trained as it is configured; leave it out",
    "overrides_of_model_config": "a base is trained as it is configured; leave it out",
    "overrides_of_model_kwargs": "a base is trained as it is configured; leave it out",
    "rope_scaling": "a base is trained as it is configured; leave it out, or register one with it",
    "relora": f"ReLoRA: {NOT_OFFERED}, and train one adapter",
    "lisa_n_layers": f"LISA: {NOT_OFFERED}, and train all weights or an adapter",
    "gptq": "a base is quantized here, from 16 bits: name that one, and set load_in_4bit",
    "fp8": "a base is in 16 bits, int8 or 4 bits; leave it out, or set load_in_8bit",
    "qat": f"quantization-aware training: {NOT_OFFERED}",
    "quantization": "leave it out, and export the model to GGUF when it is trained",
    "llmcompressor": f"sparse training: {NOT_OFFERED}",
    "diffusion": f"diffusion: {NOT_OFFERED}",
    "pretraining_dataset": (
        "give the texts as a file, as `datasets` of type completion; weights start from the base's"
    ),
    "reinit_weights": "a training starts from the base's weights; leave it out",
    "use_eaft": f"EAFT: {NOT_OFFERED}",
    "kd_trainer": f"distillation: {NOT_OFFERED}",
    "reward_model": "reward models are not trained here; train preferences with rl: dpo",
    "process_reward_model": "reward models are not trained here; train preferences with rl: dpo",
    "num_labels": "classifiers are not trained here; leave it out",
    "trl": "answers are not sampled in a training; leave it out",
    "vllm": "answers are not sampled in a training; leave it out",
    "ebft": f"EBFT: {NOT_OFFERED}",
    "dpo_use_weighting": f"weighted preferences: {NOT_OFFERED}",
    "dpo_loss_weights": "DPO has one loss here; leave it out",
    "resume_from_checkpoint": "leave it out; name a tuned model or a job's checkpoint with --model",
    "default_system_message": "leave it out, and write it into the rows as their system message",
    "chat_template_kwargs": "leave it out, and give the template in Jinja as it should write",
    "use_onebitllms": "ternary weights are not trained here; choose a base in 16 bits",
    "peft_layer_replication": "a base is trained as it is configured; leave it out",
    "peft_trainable_token_indices": f"{WEIGHTS}; leave it out",
    "processor_kwargs": "images and audio are not trained on; choose a base and data of text",
    **dict.fromkeys(
        ("fp32_norms", "fp32_norm_classes"), "a base is in one precision; leave it out"
    ),
    **dict.fromkeys(
        ("nvfp4_merge_aware", "dsv4_fp4_grouped_mode", "gptq_disable_exllama"),
        "a base is quantized here, from 16 bits: name that one, and set load_in_4bit",
    ),
    **dict.fromkeys(
        (
            "relora_prune_ratio", "relora_prune_method", "relora_cpu_offload",
            "jagged_restart_steps", "jagged_restart_warmup_steps", "jagged_restart_anneal_steps",
        ),
        f"it belongs to ReLoRA: {NOT_OFFERED}",
    ),
    **dict.fromkeys(
        ("lisa_step_interval", "lisa_layers_attribute"), f"it belongs to LISA: {NOT_OFFERED}"
    ),
    **dict.fromkeys(("eaft_alpha", "eaft_k"), f"it belongs to EAFT: {NOT_OFFERED}"),
    **dict.fromkeys(
        (
            "orpo_alpha", "kto_desirable_weight", "kto_undesirable_weight", "simpo_gamma",
            "cpo_alpha",
        ),
        f"it belongs to another method than DPO: {NOT_OFFERED}",
    ),
    "fp8_enable_fsdp_float8_all_gather": f"it belongs to fp8: {NOT_OFFERED}",
    "center_rewards_coefficient": "reward models are not trained here; leave it out",
}  # fmt: skip
KEYS = Keys(NO_EFFECT, SO_HERE, REFUSED, frozenset(MAPPED))
# Plugins that change how a step is computed or what is told of it, and not what is learnt.
PLUGINS = {
    "cut_cross_entropy", "liger", "kernels", "expert_parallel", "swanlab", "spectrum", "lm_eval",
}  # fmt: skip
