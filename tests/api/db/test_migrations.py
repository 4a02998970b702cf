import hashlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, inspect, text

from api.db import migrating
from api.db.migrating import migrate
from api.db.revision import alembic_config, revisions
from api.db.session import Database
from api.settings import Settings
from api.tables import Table
from tests.answering_worker import LOCKS_WAITED_FOR
from tests.conftest import ROOT, Served, make_database
from tests.factories import create_job, worker_facts
from tests.stores import Stores
from tunery.errors import Busy
from worker.client import ApiAway, Client


def test_the_migrations_make_the_tables_of_the_code_and_take_them_back(stores: Stores) -> None:
    db = Database(make_database(stores.postgres_url, "up_and_down"))
    migrate(db)
    migrate(db)
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Table.metadata) == []
    config = alembic_config()
    with db.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert inspect(db.engine).get_table_names() == ["alembic_version"]
    migrate(db)
    db.close()


def test_a_move_that_no_job_makes_is_refused(db: Database) -> None:
    from api.jobs import state
    from tunery.states import JobState

    with db.as_control() as tx, pytest.raises(ValueError, match="no job goes from succeeded"):
        state.move(tx, "any", expected={JobState.SUCCEEDED}, to=JobState.QUEUED, message="never")


@pytest.mark.parametrize(
    ("revision", "words"), [("newer", "newer version has migrated"), (None, "api.admin migrate")]
)
def test_a_database_of_another_version_is_refused_in_words(
    server: Served, owner: Engine, revision: str | None, words: str
) -> None:
    stamp(owner, revision, oldest="newer")
    unready = server.http().get("/readyz")
    assert unready.status_code == 503
    assert words in unready.json()["error"]["message"]


def stamp(owner: Engine, revision: str | None, *, oldest: str) -> None:
    """As if a version had migrated the database that lets those from `oldest` on run there."""
    with owner.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        connection.execute(text(f"COMMENT ON TABLE alembic_version IS 'from {oldest}'"))
        if revision:
            connection.execute(text("INSERT INTO alembic_version VALUES (:it)"), {"it": revision})


def test_a_newer_version_lets_this_one_run_and_this_one_leaves_its_schema_alone(
    server: Served, db: Database, owner: Engine
) -> None:
    stamp(owner, "newer", oldest=revisions()[-1])
    assert server.http().get("/readyz").status_code == 200
    migrate(db)
    with owner.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "newer"


def test_what_only_the_newer_version_can_read_is_left_to_it(
    server: Served, worker: Client, owner: Engine
) -> None:
    job = create_job(server.client)
    with owner.begin() as connection:
        connection.execute(text("UPDATE job SET spec = spec || '{\"newer\": 1}'"))
    stamp(owner, "newer", oldest=revisions()[-1])
    with pytest.raises(ApiAway, match="the newer one answers"):
        worker.claim(worker_facts())
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    stamp(owner, revisions()[-1], oldest=revisions()[-1])
    assert worker.claim(worker_facts()) is None
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "failed"


def test_no_part_starts_on_a_database_of_another_version(settings: Settings, owner: Engine) -> None:
    stamp(owner, "newer", oldest="newer")
    env = {
        "PATH": os.defpath,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "TUNERY_STORAGE": str(settings.folder),
        "TUNERY_SECRET": settings.secret.get_secret_value(),
    }
    uvicorn = ["uvicorn", "--factory", "api.main:create_app", "--port", "0"]
    for argv in (["api.janitor"], uvicorn, ["api.admin", "list-keys"], ["api.admin", "migrate"]):
        ended = subprocess.run(
            [sys.executable, "-m", *argv], env=env, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 1
        assert "newer version has migrated" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_migration_steps_back_where_a_table_is_in_use(db: Database, owner: Engine) -> None:
    """Whoever waits for a table's lock holds up all who come after."""
    config = alembic_config()
    with owner.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0015")  # the next one changes tables
    with owner.begin() as connection:
        used = ", ".join(set(inspect(owner).get_table_names()) - {"alembic_version"})
        connection.execute(text(f"LOCK {used} IN ROW EXCLUSIVE MODE"))
        with pytest.raises(Busy, match="pg_stat_activity"):
            migrate(db, patience=0)
    migrate(db)


# How soon the migration's own connection looks for a deadlock, and how long it works on: with the
# second, the other connection looks while the migration would still wait.
@pytest.mark.parametrize(("looks", "works"), [("10ms", 0), ("1s", 0.7)])
def test_a_migration_gives_way_to_whom_it_is_deadlocked_with(
    looks: str,
    works: float,
    db: Database,
    owner: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = alembic_config()
    with owner.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0015")  # the next one changes tables
    reads, changes = threading.Event(), threading.Event()

    def wait_for_it(connection: Connection) -> None:
        """At the beginning of the migration's transaction: it lets nobody write to one table any
        more, before it wants another for itself.
        """
        note_begin(connection)
        if not changes.is_set():
            connection.exec_driver_sql(f"SET LOCAL deadlock_timeout = '{looks}'")
            connection.exec_driver_sql("LOCK file IN SHARE ROW EXCLUSIVE MODE")
            changes.set()
            while not connection.exec_driver_sql(LOCKS_WAITED_FOR).scalar():
                pass
            time.sleep(works)

    def work() -> None:
        with owner.begin() as connection:
            connection.execute(text("SELECT count(*) FROM project"))
            reads.set()
            changes.wait(60)
            connection.execute(text("LOCK file IN ROW EXCLUSIVE MODE"))

    note_begin = migrating.note_begin
    monkeypatch.setattr(migrating, "note_begin", wait_for_it)
    with ThreadPoolExecutor(1) as thread:
        working = thread.submit(work)
        reads.wait(60)
        migrate(db)
        working.result()
    assert "the migration tries again" in caplog.text


def test_an_index_that_was_half_made_is_made_again(db: Database, owner: Engine) -> None:
    half_made = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST(:it AS regclass)"
    with owner.begin() as connection:
        connection.execute(text(half_made), {"it": "ix_job_judge_at"})
    migrating.drop_half_made_indexes(db)
    assert "ix_job_judge_at" not in [index["name"] for index in inspect(owner).get_indexes("job")]


def test_a_migration_that_has_landed_is_not_edited() -> None:
    """An installation that has run it would lack what was added, and nobody would know."""
    listed = ROOT / "migrations" / "versions.sha256"
    known = {line.split()[1]: line.split()[0] for line in listed.read_text().splitlines()}
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((ROOT / "migrations" / "versions").glob("*.py"))
    }
    assert there == known, (
        "Put the change into a new migration. A new one's line is added with: "
        "cd migrations/versions && sha256sum NAME.py >> ../versions.sha256"
    )
