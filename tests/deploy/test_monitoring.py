"""The alerts and dashboards that are shipped: each names what there is. `make alerts` runs the
rules themselves, in promtool.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.queries import DASHBOARDS, ROOT, panels, queries

ALERTS = ROOT / "deploy" / "alerts"
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
RULES = yaml.safe_load((ALERTS / "tunery.rules.yaml").read_text())["groups"][0]["rules"]


def named(queries: list[str]) -> set[str]:
    return {name for query in queries for name in re.findall(r"\bft_\w+", query)}


def test_alerts_and_dashboards_ask_for_metrics_that_there_are() -> None:
    """The page names every metric and no other (tests/api/metrics)."""
    there = dict(re.findall(r"^\| `(ft_\w+)` \| \w+ \| [^|]*\| \[?(\w+)", PAGE, re.MULTILINE))
    series = set[str]()
    for name, kind in there.items():
        parts = ("_bucket", "_count", "_sum") if kind == "Histogram" else ("",)
        series |= {name + part for part in parts}
    asked = [rule["expr"] for rule in RULES]
    asked += [query for dashboard in DASHBOARDS for query in queries(dashboard)]
    assert named(asked) - series == set()


def test_each_alert_says_what_to_do_and_has_a_test_where_it_fires_and_one_where_it_does_not() -> (
    None
):
    tests = yaml.safe_load((ALERTS / "tunery.tests.yaml").read_text())["tests"]
    shown = {
        (case["alertname"], bool(case["exp_alerts"]))
        for test in tests
        for case in test["alert_rule_test"]
    }
    names = [rule["alert"] for rule in RULES]
    assert shown == {(name, fires) for name in names for fires in (True, False)}
    assert re.findall(r"^### (Tunery\w+)$", PAGE, re.MULTILINE) == names
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"critical", "warning"}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_asks_the_prometheus_that_is_chosen(dashboard: Path) -> None:
    whole = json.loads(dashboard.read_text())
    assert (whole["schemaVersion"], whole["uid"]) == (39, f"tunery-{dashboard.stem}")
    variables = {variable["name"] for variable in whole["templating"]["list"]}
    assert "datasource" in variables
    numbers = [panel["id"] for panel in panels(dashboard)]
    assert len(set(numbers)) == len(numbers)
    places = [tuple(panel["gridPos"].values()) for panel in panels(dashboard)]
    assert len(set(places)) == len(places)
    for panel in panels(dashboard):
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
        asked = json.dumps(panel.get("targets", [])) + panel["title"]
        assert set(re.findall(r"\$\{?([a-z]\w*)", asked)) <= variables
