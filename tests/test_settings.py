"""Every setting is in `.env.example`, and compose asks for nothing that is not."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

import api.settings
import worker.settings

ROOT = Path(__file__).parents[1]
EXPLAINED = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


@pytest.mark.parametrize("settings", [api.settings.Settings, worker.settings.Settings])
def test_every_setting_is_in_the_example(settings: type[BaseSettings]) -> None:
    prefix = settings.model_config.get("env_prefix", "")
    names = {
        str(field.validation_alias or f"{prefix}{name}".upper())
        for name, field in settings.model_fields.items()
    }
    assert names <= EXPLAINED


@pytest.mark.parametrize("compose", sorted(ROOT.glob("docker-compose*.yml")), ids=lambda p: p.name)
def test_every_value_that_compose_takes_is_in_the_example(compose: Path) -> None:
    assert set(re.findall(r"\$\{([A-Z_]+)", compose.read_text())) <= EXPLAINED
