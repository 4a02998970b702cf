"""What docker-compose.yml says of every container, as no engine runs here."""

from pathlib import Path
from typing import Any

import pytest
import yaml

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
