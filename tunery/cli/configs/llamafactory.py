"""A LLaMA-Factory config as a job: what it says in our words, and by name what we cannot do."""

from pathlib import Path

from tunery.cli.configs.llamafactory_keys import (
    DEFAULT_RANK,
    DEFAULT_SEED,
    DEFAULTS,
    KEYS,
    TRAINING,
)
from tunery.cli.configs.llamafactory_rows import Written, joined
from tunery.cli.configs.settings import (
    Settings,
    given,
    name_optimizer,
    name_scheduler,
    share_of,
    share_of_steps,
    template_faults,
    whole,
)
from tunery.cli.create import Wanted

NO_PROJECT = "name a project to be told to Weights & Biases: project: NAME"


def wanted_of(
    config: Settings,
    *,
    folder: Path,
    training: Path | None = None,
    validation: Path | None = None,
) -> Wanted:
    """The config's `dataset_dir` is looked for from where the command runs, as LLaMA-Factory does,
    and then from `folder`, which has the config. A file takes the place of the one that the config
    names.
    """
    named = given(config)
    settings = {ours: whole(named.pop(name)) for name, ours in TRAINING.items() if name in named}
    wanted = Wanted({"model": named.pop("model_name_or_path", None), "training": settings})
    wanted.body["seed"] = named.pop("seed", DEFAULT_SEED)
    stage = named.pop("stage", "sft")
    method_of(str(stage), named, wanted)
    adapter_of(named, wanted)
    steps_of(named, wanted)
    tracker_of(named, wanted)
    most = whole(named.pop("max_samples", None))
    if most is not None and (not isinstance(most, int) or most is True or most < 1):
        wanted.refused.append(f"max_samples: {most} (a number of rows)")
        most = None
    written = Written(
        str(stage),
        last_alone=bool(named.pop("mask_history", False)),
        system=str(named.pop("default_system", "")),
        most=most,
    )
    info = named.pop("dataset_dir", "data")
    for theirs, ours, file in (
        ("dataset", "training", training),
        ("eval_dataset", "validation", validation),
    ):
        names = named.pop(theirs, None)
        setattr(wanted, ours, joined(names, theirs, wanted, (info, folder), file, written))
    share_of(named.pop("val_size", 0), "val_size", wanted)
    template = named.pop("template", None)
    if template is not None and stage == "pt":
        wanted.dropped.append(f"template: {template} (texts are trained as they stand)")
    elif template is not None:
        wanted.refused += template_faults(template, None, wanted, "template")
    KEYS.judge(named, wanted)
    return wanted


def method_of(stage: str, named: Settings, wanted: Wanted) -> None:
    beta, loss = named.pop("pref_beta", "auto"), named.pop("pref_loss", "sigmoid")
    if stage == "dpo":
        wanted.body["method"] = {"type": "dpo", "dpo": {"hyperparameters": {"beta": beta}}}
        if loss != "sigmoid":
            wanted.refused.append(f"pref_loss: {loss} (sigmoid, which is DPO's, alone)")
    elif stage not in {"sft", "pt"}:
        wanted.refused.append(
            f"stage: {stage} (sft, dpo and pt; preferences can be trained with dpo)"
        )
    elif beta != "auto":
        wanted.dropped.append(f"pref_beta: {beta} (it is for stage: dpo)")


def adapter_of(named: Settings, wanted: Wanted) -> None:
    training = wanted.body["training"]
    kind = named.pop("finetuning_type", "lora")
    rank = named.pop("lora_rank", DEFAULT_RANK)
    alpha = named.pop("lora_alpha", None)
    dropout, targets = named.pop("lora_dropout", None), named.pop("lora_target", "all")
    rslora = named.pop("use_rslora", False)
    if kind == "full":
        training["finetuning_type"] = "full"
    elif kind == "lora":
        alpha = 2 * rank if alpha is None and isinstance(rank, int) else alpha
        training |= {"lora_r": rank, "lora_alpha": alpha}
        if dropout is not None:
            training["lora_dropout"] = dropout
        names = targets if isinstance(targets, list) else str(targets).split(",")
        names = [str(name).strip() for name in names]
        training["lora_target_modules"] = "all-linear" if names == ["all"] else names
        if rslora:
            wanted.body["lora"] = {"rslora": True}
    else:
        wanted.refused.append(f"finetuning_type: {kind} (lora or full)")
    quantization_of(named, wanted, kind)


def quantization_of(named: Settings, wanted: Wanted, kind: object) -> None:
    training = wanted.body["training"]
    bits, method = named.pop("quantization_bit", None), named.pop("quantization_method", "bnb")
    flavour, double = named.pop("quantization_type", "nf4"), named.pop("double_quantization", None)
    if bits is None:
        if kind == "lora":
            training["quantization"] = "none"
    elif bits not in (4, 8) or method not in ("bnb", "bitsandbytes"):
        wanted.refused.append(
            f"quantization_bit: {bits}, quantization_method: {method} (4 or 8 bits of bnb)"
        )
    elif bits == 8:
        training["load_in_8bit"] = True
    else:
        training |= {"load_in_4bit": True, "bnb_4bit_quant_type": flavour}
        if double is not None:
            training["bnb_4bit_use_double_quant"] = double


def steps_of(named: Settings, wanted: Wanted) -> None:
    """How many steps there are, of how many rows, at which rate."""
    training = wanted.body["training"]
    if training.get("max_steps") == -1:
        del training["max_steps"]
    if "max_steps" in training:  # which then counts, whatever the epochs are
        if epochs := training.pop("num_epochs", None):
            wanted.dropped.append(f"num_train_epochs: {epochs} (max_steps says when it ends)")
        training["num_epochs"] = None
    for name, value in DEFAULTS.items():
        training.setdefault(name, value)
    epochs = training["num_epochs"]
    if isinstance(epochs, float):
        wanted.refused.append(f"num_train_epochs: {epochs} (whole epochs; max_steps ends before)")
    share_of_steps(training)
    steps = training.get("warmup_steps")
    if steps and training.pop("warmup_ratio", None) is not None:
        wanted.dropped.append("warmup_ratio (beside warmup_steps)")
    elif steps == 0 and training.get("warmup_ratio"):
        del training["warmup_steps"]
    if training["lr_scheduler"] != "constant" and "warmup_steps" not in training:
        training.setdefault("warmup_ratio", 0.0)
    name_scheduler(training, named, wanted, "lr_scheduler_type")
    name_optimizer(training, wanted, "optim")


def tracker_of(named: Settings, wanted: Wanted) -> None:
    found = named.pop("report_to", "none")
    programs = [str(each) for each in (found if isinstance(found, list) else [found])]
    project, name = named.pop("project", None), named.pop("run_name", None)
    for program in programs:
        if program == "wandb" and project:
            shown = {"project": project} | ({"name": name} if name else {})
            wanted.body["integrations"] = [{"type": "wandb", "wandb": shown}]
        elif program == "wandb":
            wanted.dropped.append(f"report_to: {program} ({NO_PROJECT})")
        elif program == "none":
            wanted.dropped.append("report_to: none (the service shows a job's metrics anyway)")
        else:
            wanted.dropped.append(
                f"report_to: {program} (the service shows a job's metrics, and TensorBoard's file "
                "is among the results)"
            )
    if name and "integrations" not in wanted.body:
        wanted.dropped.append(f"run_name: {name} (no tracker is told)")
