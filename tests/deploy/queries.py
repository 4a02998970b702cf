"""What the Grafana dashboards ask Prometheus. `python -m tests.deploy.queries` prints it as a file
of rules, for promtool to parse.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
# What Grafana puts in their place.
VARIABLES = {"$__rate_interval": "5m", "$__range": "30d"}


def panels(dashboard: Path) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads(dashboard.read_text())["panels"]
    return shown


def queries(dashboard: Path) -> Iterator[str]:
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            asked = target["expr"]
            for variable, value in VARIABLES.items():
                asked = asked.replace(variable, value)
            yield re.sub(r"\$\w+", "any", asked)


def main() -> None:
    groups = [
        {
            "name": dashboard.stem,
            "rules": [
                {"record": f"{dashboard.stem}:panel{number}:query", "expr": asked}
                for number, asked in enumerate(queries(dashboard))
            ],
        }
        for dashboard in DASHBOARDS
    ]
    yaml.safe_dump({"groups": groups}, sys.stdout)


if __name__ == "__main__":
    main()
