"""A job that ran at OpenAI as a job here, on an open base: from its JSON, as their API gave it."""

import json
from pathlib import Path
from typing import Any

from tunery.cli.create import Wanted
from tunery.errors import InvalidRequest

METHODS = ("supervised", "dpo")
# What a job was, not what it was asked for.
OUTCOME = {
    "id", "object", "created_at", "finished_at", "estimated_finish", "fine_tuned_model",
    "organization_id", "result_files", "status", "trained_tokens", "error", "user_provided_suffix",
    "shared_with_openai", "eval_id", "usage_metrics",
}  # fmt: skip


def wanted_of(
    job: dict[str, Any], *, model: str, training: Path, validation: Path | None
) -> Wanted:
    """On `model`, with the files that the job was trained on: their ids mean nothing here."""
    told = without_null(job)
    named = {name: value for name, value in told.items() if value not in ([], {}, "")}
    body: dict[str, Any] = {"model": model}
    wanted = Wanted(body, training, validation)
    wanted.dropped.append(f"model: {named.pop('model', 'unnamed')}, in place of which is {model}")
    for name in ("training_file", "validation_file"):
        if name in named:
            wanted.dropped.append(f"{name}: {named.pop(name)}, an id of another service")
    if "validation_file" in job and job["validation_file"] and validation is None:
        wanted.refused.append("validation_file: it had one; name yours with --validation")
    for name in ("seed", "metadata", "integrations"):
        if name in named:
            body[name] = named.pop(name)
    if suffix := named.get("user_provided_suffix"):
        body["suffix"] = suffix
    method = named.pop("method", {"type": "supervised"})
    kind = method["type"]
    if kind in METHODS:
        settings = (method.get(kind) or {}).get("hyperparameters") or named.get("hyperparameters")
        body["method"] = {"type": kind, kind: {"hyperparameters": settings or {}}}
        if "learning_rate_multiplier" in (settings or {}):
            wanted.dropped.append(
                "nothing of learning_rate_multiplier, but here it multiplies the usual rate of "
                f"{model}"
            )
        wanted.refused += [
            f"method.{name}: {value}"
            for name, value in (method | (method.get(kind) or {})).items()
            if name not in {"type", kind, "hyperparameters"} and value not in ([], {}, "")
        ]
    else:
        wanted.refused.append(f"method: {kind} ({' and '.join(METHODS)} are trained here)")
    named.pop("hyperparameters", None)
    wanted.refused += [f"{name}: {value}" for name, value in named.items() if name not in OUTCOME]
    return wanted


def without_null(value: Any) -> Any:  # noqa: ANN401 (anything of JSON)
    """Null is what was left out."""
    if isinstance(value, dict):
        return {name: without_null(part) for name, part in value.items() if part is not None}
    return [without_null(part) for part in value] if isinstance(value, list) else value


def read(path: Path) -> dict[str, Any]:
    """Raises `InvalidRequest` for what is no job of OpenAI's."""
    try:
        job = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidRequest(f"{path} is no JSON: {error}") from error
    method = job.get("method") if isinstance(job, dict) else None
    known = method is None or (isinstance(method, dict) and isinstance(method.get("type"), str))
    if not isinstance(job, dict) or job.get("object") != "fine_tuning.job" or not known:
        raise InvalidRequest(f"{path} is no fine-tuning job as OpenAI's API gives it.")
    return job
