"""What docker-compose.yml says of every container, as no engine runs here."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.images import compose, dockerfile

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((Path(__file__).parents[1] / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_takes_the_whole_machine_or_writes_to_its_own_root(name: str) -> None:
    service = SERVICES[name]
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_redis_asks_for_a_password_and_only_a_migration_has_the_owner_of_the_database() -> None:
    assert "requirepass" in SERVICES["redis"]["command"][-1]
    environments = {name: service.get("environment", {}) for name, service in SERVICES.items()}
    urls = [env["REDIS_URL"] for env in environments.values() if "REDIS_URL" in env]
    assert len(urls) == 2
    assert all(url.startswith("redis://:${REDIS_PASSWORD:?") for url in urls)
    owners = {
        name
        for name, env in environments.items()
        if env.get("DATABASE_URL", "").startswith("postgresql://tunery:")
    }
    assert owners == {"migrate"}


def test_the_images_hold_the_code_and_nothing_else() -> None:
    stages = dockerfile.stages((ROOT / "Dockerfile.gpu").read_text())
    assert {name: stage.base for name, stage in stages.items()} == {
        "base": "python:3.12-slim",
        "api": "base",
        "worker": "base",
    }
    # Triton builds its launchers on the machine where they run.
    installed = " ".join(text for _, text in stages["worker"].steps if "apt-get install" in text)
    assert {"gcc", "libc6-dev"} <= set(installed.split())
    # What they hold stays, where a worker may write: the rest of its root is read-only.
    said = [dockerfile.variables(text) for word, text in stages["worker"].steps if word == "ENV"]
    cache = next(each["TRITON_CACHE_DIR"] for each in said if "TRITON_CACHE_DIR" in each)
    assert f"work:{Path(cache).parent}" in SERVICES["worker"]["volumes"]
    held = {path.as_posix() for path in dockerfile.context(ROOT)}
    assert {"api/main.py", "worker/engine/train.py", "models/demo/config.json"} <= held
    assert "constraints.txt" in held
    assert not [path for path in held if re.search(r"__pycache__|^tests|\.env|models/tiny", path)]


def test_compose_asks_for_what_must_be_set_and_starts_what_others_need_first() -> None:
    file = ROOT / "docker-compose.yml"
    with pytest.raises(ValueError, match="openssl rand -hex"):
        compose.services(file, {})
    names = ("POSTGRES_PASSWORD", "TUNERY_LOGIN_PASSWORD", "REDIS_PASSWORD", "TUNERY_SECRET")
    services = compose.services(file, dict.fromkeys(names, "x"))
    order = list(services)
    assert (
        order.index("postgres")
        < order.index("migrate")
        < order.index("api")
        < order.index("worker")
    )
    assert services["worker"]["environment"]["REDIS_URL"] == "redis://:x@redis:6379/0"
    assert "requirepass $REDISCLI_AUTH" in services["redis"]["command"][-1]
