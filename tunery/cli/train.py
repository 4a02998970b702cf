"""`tunery train`: from a data set on this machine to a tuned model."""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from tunery.cli.create import Wanted, create
from tunery.data.columns import Columns
from tunery.other_names import HYPERPARAMETERS

# A number that YAML takes for a text, as it has no point.
EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")
# What a job has beside its `training`.
BESIDE = {"seed", "suffix", "metadata", "integrations", "exports"}


def run(
    data: Path,
    *,
    model: str,
    validation: Path | None,
    method: str,
    settings: list[str],
    columns: Columns | None,
    evaluation: Path | None = None,
    into: Path | None,
    stay: bool,
    as_json: bool,
) -> None:
    body = body_of(settings, method) | {"model": model}
    if method != "supervised" or "method" in body:
        body.setdefault("method", {})["type"] = method
    wanted = Wanted(body, data, validation, columns=columns)
    create(wanted, stay=stay, into=into, as_json=as_json, evaluation=evaluation)


def body_of(settings: list[str], method: str) -> dict[str, Any]:
    """Each `name=value` as a setting of `training`, a hyperparameter of the method, or where its
    name says (`lora.r=8`, `seed=1`, `metadata.team=x`); a value is YAML.
    """
    body: dict[str, Any] = {}
    for setting in settings:
        name, equals, written = setting.partition("=")
        if not equals or not name:
            sys.exit(f"tunery: --set {setting} has no value. Write --set NAME=VALUE.")
        try:
            value = yaml.safe_load(written)
        except yaml.YAMLError:
            value = written
        if EXPONENT.fullmatch(written):
            value = float(written)
        *places, last = name.split(".")
        if last in HYPERPARAMETERS and places in ([], ["training"]):
            places = ["method", method, "hyperparameters"]
        elif not places and name not in BESIDE:
            places = ["training"]
        within = body
        for place in places:
            within = within.setdefault(place, {})
        within[last] = value
    return body
