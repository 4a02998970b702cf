"""The tests of the chart, with the tools that `make chart` makes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.chart.rendering import EXAMPLES, Manifest, render


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.getoption("--helm") else True


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> Path:
    return Path(pytestconfig.getoption("--helm"))


@pytest.fixture(scope="session")
def helm(tools: Path) -> Callable[..., list[Manifest]]:
    """Renders values with the newest helm."""
    return partial(render, tools / "helm4")


@pytest.fixture(scope="session")
def examples(helm: Callable[..., list[Manifest]]) -> dict[str, list[Manifest]]:
    """What comes of each file in ci/, by its name."""
    return {name: helm(path) for name, path in EXAMPLES.items()}
