"""What the chart's values.schema.json says of settings, written from the settings themselves.

python -m tests.chart.settings      write it anew, after a setting has changed
"""

import json
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

import api.settings
import worker.settings

SCHEMA = Path(__file__).parents[2] / "deploy/helm/tunery/values.schema.json"
# What the templates set by other values: where the chart's own parts are, and what they share.
SET_BY_THE_CHART = {
    "serverSettings": {
        "TUNERY_STORAGE",
        "TUNERY_S3_ENDPOINT",
        "TUNERY_S3_REGION",
        "TUNERY_S3_PATH_STYLE",
        "TUNERY_STORAGE_CACHE",
        "TUNERY_STORAGE_CACHE_BYTES",
        "TUNERY_POOLS",
    },
    "workerSettings": {
        "TUNERY_API_URL",
        "TUNERY_GRACE_SECONDS",
        "TUNERY_POOL",
        "TUNERY_WORK_DIR",
        "TUNERY_WORKER_NAME",
    },
}
KEPT = {"type", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum"}


def offered(settings: type[BaseSettings], set_by_the_chart: set[str]) -> dict[str, Any]:
    """The schema of a map of settings by their names in the environment. Secrets are not among
    them: they would lie open in the release.
    """
    prefix = settings.model_config.get("env_prefix", "")
    read = settings.model_json_schema(by_alias=True)
    properties = {}
    for field_name, field in settings.model_fields.items():
        name = str(field.validation_alias or f"{prefix}{field_name}".upper())
        if "SecretStr" not in str(field.annotation) and name not in set_by_the_chart:
            properties[name] = plain(read["properties"][str(field.validation_alias or field_name)])
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
    }


def plain(says: dict[str, Any]) -> dict[str, Any]:
    """As an environment can have it: a list is a text, and nothing is null."""
    for one in says.get("anyOf", ()):
        if one.get("type") != "null":
            says = says | one
    if says.get("type") not in {"integer", "number", "boolean"}:
        return {"type": "string"} | {key: says[key] for key in ("enum", "pattern") if key in says}
    return {key: value for key, value in says.items() if key in KEPT}


def written() -> dict[str, Any]:
    """The definitions as they should be."""
    models: dict[str, type[BaseSettings]] = {
        "serverSettings": api.settings.Settings,
        "workerSettings": worker.settings.Settings,
    }
    return {name: offered(model, SET_BY_THE_CHART[name]) for name, model in models.items()}


def main() -> None:
    schema = json.loads(SCHEMA.read_text())
    schema["definitions"].update(written())
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    main()
