"""docker-compose.yml as an engine would read it, and its services as processes."""

import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


def services(file: Path, values: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """With its variables put in; those that others depend on first.

    Raises:
        ValueError: a variable that must be set is not, in the file's own words.

    """
    read = with_values(yaml.safe_load(file.read_text()), values)["services"]
    order = TopologicalSorter({name: one.get("depends_on", {}) for name, one in read.items()})
    return {name: read[name] for name in order.static_order()}


def with_values(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {name: with_values(value, values) for name, value in node.items()}
    if isinstance(node, list):
        return [with_values(value, values) for value in node]
    if not isinstance(node, str):
        return node

    def put_in(found: re.Match[str]) -> str:
        dollar, name, sign, words = found.groups()
        if dollar:
            return "$"
        value = values.get(name, "")
        if not value and sign == "?":
            raise ValueError(words)
        return value or (words if sign == "-" else "")

    return VARIABLE.sub(put_in, node)


def mounts(service: Mapping[str, Any], volumes: Path) -> Iterator[tuple[str, str, str]]:
    """(from, to, options) of its volumes; a folder of ours stands for a volume with a name."""
    for volume in service.get("volumes", ()):
        source, target, *options = volume.split(":")
        named = not source.startswith((".", "/"))
        folder = volumes / source if named else Path(source).resolve()
        yield str(folder), target, ",".join(options)


def temporary(service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(to, options) of what it has in memory, as an engine mounts it."""
    for one in service.get("tmpfs", ()):
        target, _, told = one.partition(":")
        yield target, ",".join(["mode=1777", "nosuid", "nodev", told or "noexec"])
