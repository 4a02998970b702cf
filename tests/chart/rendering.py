"""What helm makes of the chart and a file of values."""

import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "deploy/helm/tunery"
EXAMPLES = {path.stem: path for path in sorted((CHART / "ci").glob("*.yaml"))}
RELEASE = "tunery"

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm's own words."""


def render(
    helm: Path, values: Path, *sets: str, chart: Path = CHART, release: str = RELEASE
) -> list[Manifest]:
    """The manifests, hooks included. Raises `Refused`."""
    words = [word for one in sets for word in ("--set-json", one)]
    done = subprocess.run(
        [helm, "template", release, chart, "--namespace", RELEASE, "--values", values, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refused(done.stderr)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def of_kind(manifests: Iterable[Manifest], kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def pods(manifests: Iterable[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """The template of each workload's pods, with the workload's name."""
    for one in manifests:
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one
        spec = one.get("spec", {})
        template = spec.get("jobTargetRef", spec).get("template")
        if template:
            yield one["metadata"]["name"], template


def labels(template: Manifest) -> dict[str, str]:
    found: dict[str, str] = template["metadata"]["labels"]
    return found


def component(template: Manifest) -> str:
    return labels(template)["app.kubernetes.io/component"]


def containers(template: Manifest) -> list[Manifest]:
    spec = template["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def variables(container: Manifest) -> dict[str, str]:
    """Those with a value of their own."""
    return {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}


def secrets(template: Manifest) -> set[str]:
    """The names of all secrets that a pod is given."""
    found = set()
    for container in containers(template):
        for one in container.get("envFrom", ()):
            found.add(one["secretRef"]["name"])
        for one in container.get("env", ()):
            if "secretKeyRef" in one.get("valueFrom", {}):
                found.add(one["valueFrom"]["secretKeyRef"]["name"])
    return found
