"""`tunery doctor` against a real service, whole and broken."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text

from api.db.session import Database, driver_url
from api.janitor import Janitor
from api.settings import Settings
from api.upkeep.checks import of_workers
from tests.api.tenants.test_usage import POOLS
from tests.conftest import Served
from tests.factories import create_job, worker_facts
from tests.stores import Stores
from tunery.cli import doctor
from tunery.cli.embedded import free_port
from tunery.findings import Finding
from worker import check
from worker.client import Client
from worker.settings import Settings as WorkerSettings

Doctor = Callable[..., tuple[int, dict[str, Finding]]]


@pytest.fixture
def run_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """(exit code, what was found by what was looked at)"""

    def run(url: str, key: str) -> tuple[int, dict[str, Finding]]:
        monkeypatch.setenv("TUNERY_URL", url)
        monkeypatch.setenv("TUNERY_ADMIN_KEY", key)
        code = 0
        try:
            doctor.run(worker=False, as_json=True)
        except SystemExit as ended:
            code = int(ended.code or 0)
        found = [Finding.model_validate(one) for one in json.loads(capsys.readouterr().out)]
        # The worst of each.
        worst = sorted(found, key=lambda one: ["ok", "warn", "wrong"].index(one.state))
        return code, {one.check: one for one in worst}

    return run


@pytest.fixture
def stores_owner(stores: Stores) -> Iterator[Engine]:
    """Of all databases, from another one."""
    engine = create_engine(driver_url(stores.postgres_url), isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


def sweep_with(settings: Settings, **changed: object) -> None:
    """Twice, as a janitor tells of Redis when it has met it."""
    janitor = Janitor(settings.model_copy(update=changed))
    for _ in range(2):
        janitor.sweep()
        time.sleep(settings.sweep_seconds)
    janitor.db.close()


def test_a_whole_installation_is_found_well_and_each_fault_is_named_with_its_mend(
    server: Served, db: Database, worker: Client, run_doctor: Doctor, tmp_path: Path
) -> None:
    code, found = run_doctor(server.url, server.admin_key)
    assert code == 1
    assert {name for name, one in found.items() if one.state == "wrong"} == {"janitor", "workers"}
    assert "No janitor" in found["janitor"].message
    with db.as_control() as tx:
        (none_yet,) = of_workers(tx, server.settings.model_copy(update={"pools": POOLS}))
    assert none_yet.state == "warn", "those of a pool are started on demand"
    assert "python -m api.janitor" in (found["janitor"].mend or "")

    worker.heartbeat(worker_facts(), [])
    sweep_with(server.settings)
    code, found = run_doctor(server.url, server.admin_key)
    assert code == 0, found
    # As the database's own superuser logs in here.
    assert {name for name, one in found.items() if one.state != "ok"} == {"login"}
    assert found.keys() >= {"database", "schema", "clock", "rows", "redis", "storage", "secret"}

    create_job(server.client)
    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET event_count = 9"))
        tx.execute(text("UPDATE base_model SET broken = 'its weights are cut off'"))
        tx.execute(text("UPDATE worker SET lacks = jsonb_build_object('gemma', '/srv/gemma')"))
    sweep_with(server.settings, redis_url=SecretStr(f"redis://127.0.0.1:{free_port()}"))
    storage = server.settings.folder
    storage.rename(tmp_path / "elsewhere")
    code, found = run_doctor(server.url, server.admin_key)
    assert code == 1
    for name, words in {
        "rows": "events_with_a_gap (1)",
        "base models": "its weights are cut off",
        "redis": "cannot wake workers",
        "storage": "cannot reach its storage",
        "api": "is not ready",
    }.items():
        assert found[name].state == "wrong"
        assert words in found[name].message
        assert found[name].mend
    assert "gemma" in found["bases of workers"].message


def test_a_database_that_is_gone_is_told_by_the_command(
    server: Served, owner: Engine, stores_owner: Engine, run_doctor: Doctor
) -> None:
    name = owner.url.database
    with stores_owner.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = :n"
            ),
            {"n": name},
        )
    code, found = run_doctor(server.url, server.admin_key)
    assert code == 1
    assert "database" in found["api"].message
    assert found["checks"].state == "wrong"


def test_a_wrong_key_and_a_service_that_is_not_there_are_told_apart(
    shared_server: Served, run_doctor: Doctor
) -> None:
    code, found = run_doctor(shared_server.url, "sk-tunery-" + "x" * 43)
    assert (code, found["key"].state) == (1, "wrong")
    code, found = run_doctor(shared_server.url, shared_server.key)
    assert "lacks the scope 'admin'" in found["key"].message
    code, found = run_doctor(f"http://127.0.0.1:{free_port()}", shared_server.admin_key)
    assert (code, list(found)) == (1, ["api"])
    assert "Nothing answers" in found["api"].message


def test_a_worker_is_told_what_stands_between_it_and_the_service(
    shared_server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(**changed: object) -> dict[str, Finding]:
        given = {
            "api_url": shared_server.url,
            "worker_key": shared_server.worker_key,
            "work_dir": tmp_path / "work",
            "redis_url": shared_server.settings.redis_url,
        }
        settings = WorkerSettings.model_validate(given | changed)
        return {one.check: one for one in check.look(settings)}

    # tests/engine has it.
    monkeypatch.setattr(check, "engine", lambda: iter(()))
    assert {one.state for one in found().values()} <= {"ok", "warn"}
    assert not (tmp_path / "work").exists()
    for changed, name, words in (
        ({"worker_key": "sk-tunery-" + "x" * 43}, "key", "does not know"),
        ({"worker_key": shared_server.key}, "key", "lacks the scope worker"),
        ({"api_url": f"http://127.0.0.1:{free_port()}"}, "api", "cannot be reached"),
        ({"redis_url": f"redis://127.0.0.1:{free_port()}"}, "redis", "cannot be used"),
        ({"work_dir": "/proc/tunery"}, "work folder", "cannot be written"),
    ):
        fault = found(**changed)[name]
        assert (fault.state, words in fault.message) == ("wrong", True), fault
    monkeypatch.setattr("worker.check.time", SimpleNamespace(time=lambda: time.time() - 90))
    assert found()["clock"].state == "warn"


def test_a_worker_without_settings_is_told_which(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        doctor.run(worker=True, as_json=False)
    told = capsys.readouterr().out
    assert told.startswith("wrong  settings")
    assert "TUNERY_API_URL is not set." in told
