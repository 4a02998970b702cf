"""An Axolotl config as a job: what it says in our words, and by name what we cannot do."""

from pathlib import Path
from typing import Any

from tunery.cli.configs.axolotl_keys import (
    DEFAULT_SEED,
    DEFAULT_WARMUP_RATIO,
    DEFAULTS,
    KEYS,
    PLUGINS,
    TRAINING,
)
from tunery.cli.configs.axolotl_rows import joined
from tunery.cli.configs.settings import (
    Settings,
    drop_own_tokens,
    given,
    name_optimizer,
    name_scheduler,
    share_of,
    share_of_steps,
    template_faults,
    whole,
)
from tunery.cli.create import Wanted

QUANTIZATION = {"bnb_4bit_quant_type", "bnb_4bit_use_double_quant"}
OF_NO_EFFECT = {"bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"}


def wanted_of(
    config: Settings,
    *,
    folder: Path,
    training: Path | None = None,
    validation: Path | None = None,
) -> Wanted:
    """`folder` is what the config's relative paths start from. A file takes the place of the path
    of the data set that the config names.
    """
    named = given(config)
    named.update({"adam_epsilon": named.pop("adam_eps")} if "adam_eps" in named else {})
    settings = {name: whole(named.pop(name)) for name in sorted(TRAINING & named.keys())}
    wanted = Wanted({"model": named.pop("base_model", None), "training": settings})
    if "sequence_len" in named:
        settings["max_length"] = named.pop("sequence_len")
    wanted.body["seed"] = named.pop("seed", DEFAULT_SEED)
    adapter_of(named, wanted)
    steps_of(named, wanted)
    method_of(named, wanted)
    tracker_of(named, wanted)
    data_of(named, wanted, folder, {"training": training, "validation": validation})
    model_config = named.get("model_config")
    if isinstance(model_config, dict) and not any(model_config.values()):
        wanted.dropped.append(f"model_config: {named.pop('model_config')} (none of it is done)")
    plugins = named.pop("plugins", [])
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        if any(part in PLUGINS for part in str(plugin).split(".")):
            wanted.dropped.append(f"plugins: {plugin} (how a step is computed is decided here)")
        else:
            wanted.refused.append(f"plugins: {plugin} (no plugin runs here; leave it out)")
    KEYS.judge(named, wanted)
    return wanted


def adapter_of(named: Settings, wanted: Wanted) -> None:
    adapter, training = named.pop("adapter", None), wanted.body["training"]
    if adapter == "qlora":
        training.setdefault("load_in_4bit", True)
    elif adapter is None:
        training["finetuning_type"] = "full"
        for name in [name for name in training if name.startswith("lora")]:
            wanted.dropped.append(f"{name}: {training.pop(name)} (there is no adapter)")
    elif adapter != "lora":
        wanted.refused.append(f"adapter: {adapter} (lora, qlora or none at all)")
    elif not {"load_in_4bit", "load_in_8bit"} & training.keys():
        training["quantization"] = "none"
    if named.pop("lora_target_linear", False) and adapter is not None:
        if targets := training.get("lora_target_modules"):
            wanted.dropped.append(f"lora_target_modules: {targets}, among all linear layers")
        training["lora_target_modules"] = "all-linear"
    if named.pop("peft_use_rslora", False):
        wanted.body["lora"] = {"rslora": True}
    own = named.get("bnb_config_kwargs")
    if isinstance(own, dict) and own.keys() <= QUANTIZATION | OF_NO_EFFECT:
        del named["bnb_config_kwargs"]
        training.update({name: own[name] for name in sorted(QUANTIZATION & own.keys())})
        for name in sorted(OF_NO_EFFECT & own.keys()):
            wanted.dropped.append(f"bnb_config_kwargs: {name}: {own[name]} (by the device)")
    patterns = named.get("unfrozen_parameters")
    if isinstance(patterns, list) and is_all_of_the_text(patterns):
        found = named.pop("unfrozen_parameters")
        wanted.dropped.append(
            f"unfrozen_parameters: {found} (that is all of the language model, and nothing else is "
            "trained)"
        )


def is_all_of_the_text(patterns: list[Any]) -> bool:
    """Whether patterns name all of a language model, perhaps with its embeddings and its head."""
    names = {str(pattern).strip("^$").removesuffix("*").strip(".\\") for pattern in patterns}
    whole = {"model.language_model", "language_model", "model"}
    return bool(names & whole) and names <= whole | {"lm_head", "embed_tokens"}


def steps_of(named: Settings, wanted: Wanted) -> None:
    """How many steps there are, of how many rows, at which rate."""
    training = wanted.body["training"]
    if training.get("max_steps") == -1:
        del training["max_steps"]
    share_of_steps(training)
    if "warmup_ratio" in training and "warmup_steps" in training:  # as Axolotl has it
        wanted.dropped.append(f"warmup_ratio: {training.pop('warmup_ratio')}, beside warmup_steps")
    if "max_steps" in training:
        training.setdefault("num_epochs", None)
    for name, value in DEFAULTS.items():
        training.setdefault(name, value)
    epochs = training["num_epochs"]
    if isinstance(epochs, float):
        wanted.refused.append(f"num_epochs: {epochs} (whole epochs; max_steps can end before)")
    if "batch_size" in named:
        method = {"hyperparameters": {"batch_size": named.pop("batch_size")}}
        wanted.body["method"] = {"type": "supervised", "supervised": method}
    else:
        training.setdefault("gradient_accumulation_steps", 1)
    if "cosine_min_lr_ratio" in named and training["lr_scheduler"] == "cosine":
        training["lr_scheduler"] = "cosine_with_min_lr"
        training["min_lr_ratio"] = named.pop("cosine_min_lr_ratio")
    elif "cosine_min_lr_ratio" in named:
        ratio = named.pop("cosine_min_lr_ratio")
        wanted.dropped.append(f"cosine_min_lr_ratio: {ratio} (the schedule is no cosine)")
    if training["lr_scheduler"] != "constant" and "warmup_steps" not in training:
        training.setdefault("warmup_ratio", DEFAULT_WARMUP_RATIO)
    name_scheduler(training, named, wanted, "lr_scheduler")
    name_optimizer(training, wanted, "optimizer")


def method_of(named: Settings, wanted: Wanted) -> None:
    kind = named.pop("rl", None)
    beta = named.pop("rl_beta", named.pop("dpo_beta", "auto"))
    if kind == "dpo":
        asked = wanted.body.get("method", {}).get("supervised", {}).get("hyperparameters", {})
        hyperparameters = {"hyperparameters": asked | {"beta": beta}}
        wanted.body["method"] = {"type": "dpo", "dpo": hyperparameters}
    elif kind is not None:
        wanted.refused.append(f"rl: {kind} (dpo alone, on pairs of a chosen and a rejected answer)")
    elif beta != "auto":
        wanted.refused.append(f"rl_beta: {beta} (it is for rl: dpo)")


def tracker_of(named: Settings, wanted: Wanted) -> None:
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


def data_of(named: Settings, wanted: Wanted, folder: Path, files: dict[str, Path | None]) -> None:
    """The rows, what is validated on, and the chat template that they are written in."""
    once = bool(named.pop("dataset_exact_deduplication", False))
    for theirs, ours in (("datasets", "training"), ("test_datasets", "validation")):
        sets = named.pop(theirs, [])
        found = joined(sets, theirs, wanted, folder, files[ours], once=once)
        setattr(wanted, ours, found)
    share_of(named.pop("val_set_size", 0), "val_set_size", wanted)
    source = named.get("chat_template_jinja")
    template = named.pop("chat_template", "jinja" if source else None)
    if template is not None:
        if template == "jinja":
            named.pop("chat_template_jinja", None)
        wanted.refused += template_faults(template, source, wanted)
    for name in ("special_tokens", "tokens"):
        drop_own_tokens(named, name, wanted)
