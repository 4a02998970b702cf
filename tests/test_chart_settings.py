"""The Helm chart knows every setting. Its other tests are `make chart`."""

import json
import tomllib
from pathlib import Path

import yaml

from tests.chart.settings import SCHEMA, written

ROOT = Path(__file__).parents[1]


def test_the_chart_takes_every_setting_that_is_not_a_secret_or_its_own() -> None:
    definitions = json.loads(SCHEMA.read_text())["definitions"]
    for name, expected in written().items():
        assert definitions[name] == expected, "run: python -m tests.chart.settings"


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((SCHEMA.parent / "Chart.yaml").read_text())
    values = yaml.safe_load((SCHEMA.parent / "values.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version
    assert values["images"]["api"] == f"tunery-api:{version}"
    assert values["images"]["worker"] == f"tunery-worker:{version}"
