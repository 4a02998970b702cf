"""LLaMA-Factory's keys that are no settings here, each with the reason."""

from typing import Any

from tunery.cli.configs.axolotl_keys import (
    BASES,
    BY_MEMORY,
    FETCHED,
    NOT_OFFERED,
    ONE_GPU,
    ONE_RESULT,
    OTHERS,
    READ_HERE,
    SHUFFLED,
    TOLD,
    WATCHED,
    WEIGHTS,
)
from tunery.cli.configs.settings import Keys

# Their names, and ours, of the same meaning.
TRAINING = {
    "cutoff_len": "max_length",
    "per_device_train_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "learning_rate": "learning_rate",
    "num_train_epochs": "num_epochs",
    "max_steps": "max_steps",
    "lr_scheduler_type": "lr_scheduler",
    "warmup_ratio": "warmup_ratio",
    "warmup_steps": "warmup_steps",
    "optim": "optimizer",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "adam_beta1": "adam_beta1",
    "adam_beta2": "adam_beta2",
    "adam_epsilon": "adam_epsilon",
    "train_on_prompt": "train_on_inputs",
    "early_stopping_steps": "early_stopping_patience",
    "load_best_model_at_end": "load_best_model_at_end",
    "loraplus_lr_ratio": "loraplus_lr_ratio",
}
# What LLaMA-Factory does where nothing is said and this service would do something else.
DEFAULTS: dict[str, Any] = {
    "max_length": 2048,
    "micro_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "num_epochs": 3,
    "lr_scheduler": "linear",
    "weight_decay": 0.0,
}
DEFAULT_RANK = 8
DEFAULT_SEED = 42
MAPPED = TRAINING.keys() | {
    "model_name_or_path", "stage", "finetuning_type", "template", "dataset", "eval_dataset",
    "dataset_dir", "val_size", "max_samples", "mask_history", "default_system", "lora_rank",
    "lora_alpha", "lora_dropout", "lora_target", "use_rslora", "quantization_bit",
    "quantization_method", "quantization_type", "double_quantization", "pref_beta", "pref_loss",
    "seed", "lr_scheduler_kwargs", "report_to", "project", "run_name",
}  # fmt: skip

BY_TEMPLATE = "the base's own chat template decides it"
NO_MEDIA = "images, audio and video are not trained on, and rows that have them are refused"
NOT_TRAINING = "it is of serving or exporting a model, and this is a training"

NO_EFFECT = {
    name: reason
    for reason, names in (
        (
            ONE_RESULT,
            (
                "packing", "neat_packing", "use_unsloth", "enable_liger_kernel", "use_v1_kernels",
                "use_kt", "kt_weight_path", "kt_non_expert_weight_path", "kt_cpu_activation",
                "kt_expert_checkpoint_path", "kt_use_lora_experts", "kt_lora_expert_num",
                "kt_lora_expert_intermediate_size", "kt_config", "use_cpu", "full_determinism",
                "torch_compile_backend", "torch_compile_mode", "data_seed", "block_diag_attn",
                "liger_kernel_config", "use_cache", "enable_jit_checkpoint",
                "ignore_pad_token_for_loss", "ref_model_quantization_bit",
            ),
        ),
        (
            BY_MEMORY,
            (
                "use_unsloth_gc", "disable_gradient_checkpointing", "use_reentrant_gc",
                "upcast_layernorm", "upcast_lmhead_output", "quantization_device_map",
                "torch_empty_cache_steps", "offload_folder", "activation_checkpointing",
                "activation_checkpointing_kwargs", "compute_dtype",
            ),
        ),
        (
            ONE_GPU,
            (
                "deepspeed", "fsdp", "fsdp_config", "fsdp_transformer_layer_cls_to_wrap",
                "ddp_timeout", "ddp_backend", "ddp_static_graph", "parallelism_config",
                "average_tokens_across_devices", "megatron_bridge_args",
                "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "local_rank", "ray_num_workers",
                "ray_init_kwargs", "ray_run_name", "ray_storage_path", "resources_per_worker",
                "placement_strategy", "master_addr", "master_port", "accelerator_config",
                "use_mca", "use_megatron_bridge", "use_hyper_parallel", "hyper_parallel_args",
                "hyper_parallel_cp_size", "tensor_model_parallel_size", "sequence_parallel",
                "pipeline_model_parallel_size", "expert_model_parallel_size",
                "context_parallel_size", "use_distributed_optimizer", "overlap_param_gather",
                "overlap_grad_reduce", "bias_activation_fusion", "apply_rope_fusion",
                "moe_grouped_gemm", "moe_token_dispatcher_type", "recompute_granularity",
                "virtual_pipeline_model_parallel_size", "recompute_method",
                "recompute_num_layers",
            ),
        ),
        (
            WATCHED,
            (
                "compute_accuracy", "predict_with_generate", "eval_num_beams",
                "eval_on_each_dataset", "eval_accumulation_steps", "eval_on_start", "eval_delay",
                "print_param_status", "enable_torch_profiler", "profiler_output_dir",
                "profiler_wait_steps", "profiler_warmup_steps", "profiler_active_steps",
                "profiler_repeat", "profiler_record_shapes", "profiler_profile_memory",
                "profiler_with_stack", "profile_modules", "save_on_each_node", "debug",
                "batch_eval_metrics", "eval_do_concat_batches", "eval_use_gather_object",
                "include_for_metrics", "prediction_loss_only", "skip_memory_metrics",
                "log_level_replica", "log_on_each_node", "logging_nan_inf_filter",
                "ignore_data_skip", "restore_callback_states_from_checkpoint",
            ),
        ),
        (
            READ_HERE,
            (
                "tokenized_path", "preprocessing_batch_size", "streaming", "buffer_size",
                "data_shared_file_system", "cache_dir", "hf_hub_token", "ms_hub_token",
                "om_hub_token", "dataloader_persistent_workers",
                "dataloader_in_order", "dataloader_multiprocessing_context", "label_names",
                "length_column_name",
            ),
        ),
        (
            TOLD,
            (
                "include_effective_tokens_per_second", "include_tokens_per_second",
                "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
                "use_swanlab", "swanlab_project", "swanlab_workspace",
                "swanlab_run_name", "swanlab_mode", "swanlab_api_key", "swanlab_logdir",
                "swanlab_lark_webhook_url", "swanlab_lark_secret", "disable_tqdm",
            ),
        ),
        (
            FETCHED,
            ("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo",
             "hub_revision", "hub_always_push"),
        ),
        (BASES, ("model_revision", "use_fast_tokenizer", "trust_remote_code")),
        (BY_TEMPLATE, ("enable_thinking", "preserve_thinking", "tool_format")),
        (
            NO_MEDIA,
            (
                "media_dir", "image_max_pixels", "image_min_pixels", "image_do_pan_and_scan",
                "crop_to_patches", "video_max_pixels", "video_min_pixels", "video_fps",
                "video_maxlen", "use_audio_in_video", "audio_sampling_rate",
                "freeze_vision_tower", "freeze_multi_modal_projector",
            ),
        ),
        (
            NOT_TRAINING,
            (
                "infer_backend", "infer_dtype", "use_kv_cache", "export_dir", "export_size",
                "export_device", "export_quantization_bit", "export_quantization_dataset",
                "export_quantization_nsamples", "export_quantization_maxlen",
                "export_legacy_format", "export_hub_model_id", "vllm_maxlen", "vllm_gpu_util",
                "vllm_enforce_eager", "vllm_max_lora_rank", "vllm_config", "sglang_maxlen",
                "sglang_mem_fraction", "sglang_tp_size", "sglang_config", "sglang_lora_backend",
                "max_new_tokens", "max_length", "temperature", "top_p", "top_k", "num_beams",
                "do_sample", "repetition_penalty", "length_penalty", "skip_special_tokens",
                "generation_max_length", "generation_num_beams", "pissa_iter", "pissa_convert",
            ),
        ),
        (
            OTHERS,
            (
                "galore_target", "galore_rank", "galore_update_interval", "galore_scale",
                "galore_proj_type", "galore_layerwise", "apollo_target", "apollo_rank",
                "apollo_update_interval", "apollo_scale", "apollo_proj", "apollo_proj_type",
                "apollo_scale_type", "apollo_layerwise", "apollo_scale_front", "badam_mode",
                "badam_start_block", "badam_switch_mode", "badam_switch_interval",
                "badam_update_ratio", "badam_mask_mode", "badam_verbose",
            ),
        ),
        (
            "it is a setting of another way of training than the one that is chosen",
            (
                "freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules",
                "module_dropout", "oft_rank", "oft_block_size", "oft_target", "simpo_gamma",
                "kto_chosen_weight", "kto_rejected_weight", "loraplus_lr_embedding", "asft_alpha",
                "eaft_alpha", "fp8_backend", "fp8_enable_fsdp_float8_all_gather",
                "create_new_adapter", "ppo_buffer_size", "ppo_epochs", "ppo_score_norm",
                "ppo_target", "ppo_whiten_rewards", "reward_model_type",
            ),
        ),
    )
    for name in names
}  # fmt: skip

SO_HERE: dict[str, tuple[tuple[Any, ...], str]] = {
    "mix_strategy": (("concat",), "data sets follow each other, and rows are drawn by the seed"),
    "pref_ftx": ((0, 0.0), "DPO has no supervised term"),
    "pref_bco_weight": ((0, 0.0), "DPO has no other term"),
    "dpo_label_smoothing": ((0, 0.0), "labels are not smoothed"),
    "label_smoothing_factor": ((0, 0.0), "labels are not smoothed"),
    "moe_aux_loss_coef": ((0, 0.0), "the loss has no term for the router"),
    "metric_for_best_model": (
        ("eval_loss", "loss"),
        "the best evaluation is the one with the least loss",
    ),
    "greater_is_better": ((False,), "the best evaluation is the one with the least loss"),
    "do_train": ((True,), "this is a training"),
    "train_sampling_strategy": (("random", "group_by_length"), SHUFFLED),
    "model_max_length": ((), "cutoff_len says how long a row may be"),
}
REFUSED = {
    "adapter_name_or_path": "leave it out, and name the tuned model with --model",
    "adapter_folder": "leave it out, and name the tuned model with --model",
    "resume_from_checkpoint": "leave it out; name a tuned model or a job's checkpoint with --model",
    "additional_target": f"{WEIGHTS}; leave it out, or train all weights: finetuning_type: full",
    "use_dora": f"DoRA: {NOT_OFFERED}, and train LoRA, or rsLoRA with use_rslora",
    "pissa_init": f"PiSSA: {NOT_OFFERED}, and adapters begin as PEFT's usual ones",
    "neftune_noise_alpha": f"NEFTune: {NOT_OFFERED}",
    "use_galore": f"GaLore: {NOT_OFFERED}, and train an adapter to save memory",
    "use_apollo": f"APOLLO: {NOT_OFFERED}, and train an adapter to save memory",
    "use_badam": f"BAdam: {NOT_OFFERED}, and train an adapter to save memory",
    "use_adam_mini": f"Adam-mini: {NOT_OFFERED}; optim: adamw_8bit saves memory, too",
    "use_muon": f"Muon: {NOT_OFFERED}",
    "use_llama_pro": f"LLaMA Pro: {NOT_OFFERED}, and train an adapter",
    "use_dft_loss": f"DFT: {NOT_OFFERED}",
    "use_asft_loss": f"ASFT: {NOT_OFFERED}",
    "use_eaft_loss": f"EAFT: {NOT_OFFERED}",
    "ld_alpha": f"LD-DPO: {NOT_OFFERED}",
    "ref_model": "the model that the training starts from is compared with; leave it out",
    "ref_model_adapters": "the model that the training starts from is compared with; leave it out",
    **dict.fromkeys(
        ("reward_model_adapters", "reward_model_quantization_bit"),
        "rewards are not learnt from here; leave it out",
    ),
    "reward_model": "rewards are not learnt from here; train preferences with stage: dpo",
    "freeze_language_model": "images are not trained on; leave it out",
    "rope_scaling": "a base is trained as it is configured; leave it out, or register one with it",
    "shift_attn": "attention is the model's own; leave it out, and lower cutoff_len if need be",
    "mixture_of_depths": "a base is trained as it is configured; leave it out",
    "train_from_scratch": "a training starts from the base's weights; leave it out",
    "resize_vocab": "no tokens are added to a base; choose one that has them, and leave it out",
    "add_tokens": "no tokens are added to a base; choose one that has them, and leave it out",
    "add_special_tokens": "no tokens are added to a base; choose one that has them",
    "new_special_tokens_config": "no tokens are added to a base; choose one that has them",
    "init_special_tokens": "no tokens are added to a base; leave it out",
    "split_special_tokens": "control tokens that a user types are text here; leave it out",
    "interleave_probs": "data sets follow each other; leave it out, and mix_strategy",
    "disable_shuffling": f"{SHUFFLED}; leave it out",
    "fp8": "a base is in 16 bits, int8 or 4 bits; leave it out, or set quantization_bit",
    "do_predict": "a job trains; leave it out, and ask the tuned model when it is served",
    "do_train": "a job trains; set it to true, or leave it out",
    "optim_args": "leave it out; adam_beta1, adam_beta2 and adam_epsilon can be set",
    "optim_target_modules": "leave it out, and train an adapter to save memory",
}
KEYS = Keys(NO_EFFECT, SO_HERE, REFUSED, frozenset(MAPPED))
