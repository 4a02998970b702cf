"""Every setting is in `.env.example`, and compose asks for nothing that is not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

import api.settings
import tunery.settings
import worker.settings

ROOT = Path(__file__).parents[1]
EXPLAINED = set(re.findall(r"^#?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


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
    assert set(re.findall(r"\$\{([A-Z0-9_]+)", compose.read_text())) <= EXPLAINED


@pytest.mark.parametrize(
    ("program", "named"),
    [
        ("uvicorn --factory api.main:create_app", ("DATABASE_URL is", "TUNERY_SECRET cannot")),
        ("api.janitor", ("TUNERY_STORAGE is not set.", "should have at least 32 characters.")),
        ("api.admin list-keys", ("DATABASE_URL is not set.",)),
        ("worker --poll", ("TUNERY_API_URL cannot be used", "TUNERY_WORK_DIR is not set.")),
        ("celery -A worker.app worker", ("TUNERY_WORKER_KEY is not set.",)),
    ],
)
def test_a_process_says_which_variables_are_wrong_and_shows_no_value(
    program: str, named: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *program.split()],
        env={"TUNERY_SECRET": "too-short", "TUNERY_API_URL": "api:8000"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert all(name in done.stderr for name in named), done.stderr
    assert "Traceback" not in done.stderr
    assert "too-short" not in done.stderr


def test_patterns_of_the_hubs_models_are_written_between_commas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNERY_HUB_MODELS", "Qwen/*, google/gemma-*,")
    given = {"database_url": "postgresql://x", "storage": "/none", "secret": "s" * 32}
    read = api.settings.Settings(**given)  # type: ignore[arg-type]
    assert read.hub_models == ("Qwen/*", "google/gemma-*")
    monkeypatch.setenv("TUNERY_HUB_MODELS", "Qwen/*;all")
    with pytest.raises(ValidationError):
        api.settings.Settings(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ("a100:80GiB", "TUNERY_POOLS cannot be used: it is no JSON: Expecting value"),
        ('[{"name": "a100"}]', "TUNERY_POOLS[0].memory_bytes is not set."),
        ('[{"name": "a100", "memory_bytes": "80 big"}]', "TUNERY_POOLS[0].memory_bytes cannot be"),
        ('[{"name": "A 100", "memory_bytes": 1}]', "TUNERY_POOLS[0].name cannot be used"),
        ('[{"name": "none", "memory_bytes": 1}]', "the name none is reserved."),
        ('[{"name": "l4", "memory_bytes": 0}]', "pool l4 has no memory."),
        ('[{"name": "l4", "memory_bytes": 1}, {"name": "l4", "memory_bytes": 2}]', "there twice."),
        ('[{"name": "l4", "memory_bytes": 1, "prize": 2}]', "TUNERY_POOLS[0].prize cannot be"),
    ],
)
def test_pools_are_refused_with_their_place_and_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, pools: str, words: str
) -> None:
    given = {"DATABASE_URL": "postgresql://x", "TUNERY_STORAGE": "/none", "TUNERY_SECRET": "s" * 32}
    for name, value in {**given, "TUNERY_POOLS": pools}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        tunery.settings.read(api.settings.Settings)
    assert words in str(ended.value)


def test_a_pools_memory_is_a_number_or_a_size_with_its_unit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "TUNERY_POOLS",
        '[{"name": "l4", "memory_bytes": "22GiB"}, {"name": "big", "memory_bytes": 85899345920}]',
    )
    given = {"database_url": "postgresql://x", "storage": "/none", "secret": "s" * 32}
    read = api.settings.Settings(**given)  # type: ignore[arg-type]
    assert [pool.memory_bytes for pool in read.pools] == [22 << 30, 80 << 30]


def test_a_worker_takes_the_apis_address_with_its_v1_too() -> None:
    given = {"worker_key": "k", "work_dir": "/none"}
    for url in ("http://api:8000", "http://api:8000/", "http://api:8000/v1", "http://api:8000/v1/"):
        read = worker.settings.Settings.model_validate({**given, "api_url": url})
        assert read.api_url == "http://api:8000"
