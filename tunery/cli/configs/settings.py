"""What the readers of configs share: the file, the verdicts on its keys, the base's template."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml

from tunery.cli.create import Wanted
from tunery.data.named_templates import is_named
from tunery.errors import InvalidRequest
from tunery.other_names import NO_EFFECT, OPTIMIZERS
from tunery.spec import Optimizer, Scheduler

Settings = dict[str, Any]

# A number that YAML takes for a text, as it has no point.
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")

# What no screen should show.
SECRET = re.compile(r"(key|token|secret)$")

# Optimizers in whose place one of ours is taken, and how that differs.
NEAR_OPTIMIZERS = {
    "adamw_torch_8bit": ("adamw_8bit", "its moments are in the 8 bits of bitsandbytes here"),
    "adamw_torch_4bit": ("adamw_8bit", "its moments are in 8 bits here, which is nearer to AdamW"),
}
# Whose bases have a template by that name, where they are called otherwise.
FAMILIES = {
    "chatml": ("qwen", "smollm", "hermes", "lfm"),
    "mistral": ("mistral", "mixtral", "ministral", "magistral", "devstral"),
    "cohere": ("cohere", "command", "c4ai"),
    "gptoss": ("gpt-oss",),
    "gpt": ("gpt-oss",),
    "intern": ("internlm",),
    "chatglm": ("glm",),
}
# Tokens that a tokenizer has anyway, and that a config names again.
BASES_OWN = {"bos_token", "eos_token", "unk_token", "pad_token"}


@dataclass(frozen=True)
class Keys:
    """A trainer's keys that are no settings here. `no_effect` has the reason of each, whatever its
    value; `so_here` the values that change nothing, and the reason; `refused` what to do instead.
    `mapped` are the others, for the nearest name of one that is unknown.
    """

    no_effect: Mapping[str, str]
    so_here: Mapping[str, tuple[tuple[Any, ...], str]]
    refused: Mapping[str, str]
    mapped: frozenset[str]

    def judge(self, named: Settings, wanted: Wanted) -> None:
        """The verdict on each that is left."""
        for name, said in named.items():
            value = "…" if SECRET.search(name) and isinstance(said, str) else said
            reason = self.no_effect.get(name) or NO_EFFECT.get(name)
            values, why = self.so_here.get(name, ((), ""))
            if reason or value in values:
                wanted.dropped.append(f"{name}: {value} ({reason or why})")
            elif value is False:
                wanted.dropped.append(f"{name}: {value} (it is not done here)")
            elif name in self.refused:
                wanted.refused.append(f"{name}: {value} ({self.refused[name]})")
            elif name in self.so_here:
                wanted.refused.append(f"{name}: {value} ({why}; leave it out)")
            else:
                known = (*self.mapped, *self.refused, *self.so_here, *self.no_effect, *NO_EFFECT)
                near = get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "leave it out"
                wanted.refused.append(f"{name}: {value} (no such setting here; {hint})")


def read(path: Path) -> Settings:
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
    return {str(name): number(value) for name, value in config.items()}


def number(value: Any) -> Any:  # noqa: ANN401 (any setting's)
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def whole(value: Any) -> Any:  # noqa: ANN401 (any setting's)
    """3.0 epochs are 3."""
    return int(value) if isinstance(value, float) and value.is_integer() and value >= 1 else value


def given(config: Settings) -> Settings:
    """Without what is empty, which is the same as not there."""
    return {name: value for name, value in config.items() if value not in (None, "", [], {})}


def share_of_steps(training: Settings) -> None:
    """A warm-up of less than a step is a share of them, as transformers has it since version 5."""
    if isinstance(training.get("warmup_steps"), float) and training["warmup_steps"] < 1:
        training["warmup_ratio"] = training.pop("warmup_steps")


def name_optimizer(training: Settings, wanted: Wanted, said: str) -> None:
    """By our name, or refused; `said` is what the config calls it."""
    name = training.get("optimizer")
    if isinstance(name, str) and name in OPTIMIZERS:
        training["optimizer"] = OPTIMIZERS[name]
    elif isinstance(name, str) and name in NEAR_OPTIMIZERS:
        training["optimizer"], difference = NEAR_OPTIMIZERS[name]
        wanted.notes.append(f"{said}: {name} is {training['optimizer']} ({difference})")
    elif name is not None and name not in get_args(Optimizer):
        ours = ", ".join(get_args(Optimizer))
        wanted.refused.append(f"{said}: {name} (there are {ours})")


def name_scheduler(training: Settings, named: Settings, wanted: Wanted, said: str) -> None:
    """The schedule with its own settings, by our names. `constant` has no warm-up."""
    name = training.get("lr_scheduler")
    if name is not None and name not in get_args(Scheduler):
        wanted.refused.append(f"{said}: {name} (there are {', '.join(get_args(Scheduler))})")
        return
    own = named.pop("lr_scheduler_kwargs", {})
    if not isinstance(own, dict):
        wanted.refused.append(f"lr_scheduler_kwargs: {own} (a mapping of settings)")
        return
    for key, value in own.items():
        rate = training.get("learning_rate")
        if key == "min_lr_rate" and name == "cosine_with_min_lr":
            training["min_lr_ratio"] = number(value)
        elif key == "min_lr" and name == "cosine_with_min_lr" and isinstance(rate, float):
            training["min_lr_ratio"] = float(value) / rate
        elif (key, value) not in SCHEDULES_OWN.get(str(name), ()):
            wanted.refused.append(
                f"lr_scheduler_kwargs: {key}: {value} (of {name} this cannot be set; leave it out)"
            )
    if name == "constant":
        for each in ("warmup_ratio", "warmup_steps"):
            if training.pop(each, None):
                wanted.dropped.append(f"{each} (a constant rate has no warm-up)")


# As they are here.
SCHEDULES_OWN: dict[str, tuple[tuple[str, Any], ...]] = {
    "cosine": (("num_cycles", 0.5),),
    "cosine_with_restarts": (("num_cycles", 1),),
    "polynomial": (("power", 1), ("power", 1.0), ("lr_end", 1e-7)),
    "cosine_with_min_lr": (("num_cycles", 0.5),),
}


def is_own_template(template: str, base: object) -> bool:
    """Whether a template of that name is that of the base's own family, in its generation if both
    say which.
    """
    name = re.match(r"([a-z]+)[-_]?(\d?)", template.lower())
    if name is None:
        return False
    family, generation = name.groups()
    families = "|".join(map(re.escape, FAMILIES.get(family, (family,))))
    for called in reversed(str(base).lower().split("/")):  # an organization may be called so, too
        if found := re.search(rf"(?:{families})[-_. ]*v?(\d?)", called):
            return not (generation and found[1]) or generation == found[1]
    return False


def template_faults(
    template: object, source: object, wanted: Wanted, said: str = "chat_template"
) -> Iterator[str]:
    """What is wrong with a template that a config names, or has in Jinja as its `source`; else it
    is taken, or told to be the base's own anyway.
    """
    training = wanted.body["training"]
    if template == "jinja" and isinstance(source, str):
        found = source
    elif isinstance(template, str) and (
        template == "tokenizer_default" or is_own_template(template, wanted.body["model"])
    ):
        wanted.dropped.append(f"{said}: {template} (the base's own template is used)")
        return
    elif isinstance(template, str) and is_named(template.replace("_", "")):
        found = template.replace("_", "")
    else:
        yield (
            f"{said}: {template} (it is not by its name the base's own, and none of those that are "
            "known here; leave it out for the base's own, or give it in Jinja with "
            "`tunery train --set chat_template=...`)"
        )
        return
    if training.setdefault("chat_template", found) != found:
        yield f"{said}: {template} (there is another one; a job has one template)"


def drop_own_tokens(named: Settings, name: str, wanted: Wanted) -> None:
    tokens = named.get(name)
    if isinstance(tokens, dict) and tokens.keys() <= BASES_OWN:
        wanted.dropped.append(f"{name}: {named.pop(name)} (the base's tokenizer keeps its own)")


def share_of(value: Any, name: str, wanted: Wanted) -> None:  # noqa: ANN401 (any setting's)
    """What is validated on: a share of the rows, or their number."""
    if not value:
        return
    if wanted.validation:
        wanted.dropped.append(f"{name}: {value} (there is a file to validate on)")
    elif isinstance(value, float) and 0 < value < 1:
        wanted.body["training"]["validation_split"] = value
    elif whole(value) == value and isinstance(whole(value), int) and value >= 1:
        wanted.validation_rows = int(value)
    else:
        wanted.refused.append(f"{name}: {value} (a share of the rows, such as 0.05, or a number)")
