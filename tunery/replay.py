"""The request that repeats a training, made from its spec."""

from typing import Any

from tunery.spec import TrainingSpec


def request_of(spec: TrainingSpec, quantization: str) -> dict[str, Any]:
    """The request whose spec is this one: everything is named, nothing left to `auto`. The
    `quantization` is the one that was planned.
    """
    kind = spec.objective.type
    hyperparameters = {"n_epochs": spec.n_epochs, "batch_size": spec.batch_size}
    names = (
        "learning_rate", "lr_scheduler", "warmup_ratio", "optimizer", "weight_decay",
        "max_grad_norm", "max_length", "overflow", "micro_batch_size", "early_stopping_patience",
        "samples", "max_lost_share", "warmup_steps", "max_steps", "validation_split",
        "chat_template", "adam_beta1", "adam_beta2", "adam_epsilon", "min_lr_ratio",
        "loraplus_lr_ratio",
    )  # fmt: skip
    flags = ("train_on_inputs", "load_best_model_at_end")
    training = {name: value for name in names if (value := getattr(spec, name)) is not None}
    training |= {name: True for name in flags if getattr(spec, name)}
    if not spec.train_on_reasoning:
        training["train_on_reasoning"] = False
    if spec.lr_scheduler == "constant":  # which has no warm-up, whatever the spec says
        del training["warmup_ratio"]
    if "warmup_steps" in training:
        training.pop("warmup_ratio", None)
    if spec.lora is None:
        training["finetuning_type"] = "full"
    else:
        training["quantization"] = quantization
    if quantization in {"nf4", "fp4"}:
        training["bnb_4bit_use_double_quant"] = spec.double_quant
    return {
        "model": spec.adapter.model if spec.adapter else spec.base_model,
        "seed": spec.seed,
        "method": {
            "type": kind,
            kind: {"hyperparameters": hyperparameters | spec.objective.hyperparameters},
        },
        "training": training,
        "lora": spec.lora.model_dump(mode="json") if spec.lora else {},
        **asked_evaluation(spec),
    }


def asked_evaluation(spec: TrainingSpec) -> dict[str, Any]:
    if spec.evaluation is None:
        return {}
    dumped = spec.evaluation.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {"evaluation": dumped}
