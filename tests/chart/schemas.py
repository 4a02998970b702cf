"""Reads manifests as a JSON list from the standard input, and says what Kubernetes, KEDA and the
Prometheus operator would refuse, a line each. Runs in the environment that `tools.py` makes.
"""

import json
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate
from cloudcoil.models.keda.v1alpha1 import ScaledJob, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

# The oldest that Chart.yaml allows, and the newest that there is a schema for.
VERSIONS = ("1.29", "1.37")
CUSTOM = {
    one.__name__: one for one in (ScaledJob, TriggerAuthentication, ServiceMonitor, PrometheusRule)
}


@cache
def validator(kind: str) -> Draft202012Validator:
    schema = CUSTOM[kind].model_json_schema(by_alias=True)
    close(schema)
    return Draft202012Validator(schema)


def close(schema: Any) -> None:
    """Kubernetes drops what a schema does not name; here it is a fault."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for one in schema.values():
            close(one)
    elif isinstance(schema, list):
        for one in schema:
            close(one)


def faults(manifest: dict[str, Any]) -> Iterator[str]:
    if manifest["kind"] in CUSTOM:
        if error := best_match(validator(manifest["kind"]).iter_errors(manifest)):
            yield f"{error.json_path}: {error.message}"
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


def main() -> None:
    for manifest in json.load(sys.stdin):
        for fault in faults(manifest):
            sys.stdout.write(f"{manifest['kind']} {manifest['metadata']['name']}: {fault}\n")


if __name__ == "__main__":
    main()
