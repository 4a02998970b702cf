import hashlib
import os
import subprocess
import sys

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from api.admin import migrate
from api.db.revision import alembic_config
from api.db.session import Database
from api.settings import Settings
from api.tables import Table
from tests.conftest import ROOT, Served, make_database
from tests.stores import Stores


def test_the_migrations_make_the_tables_of_the_code_and_take_them_back(stores: Stores) -> None:
    db = Database(make_database(stores.postgres_url, "up_and_down"))
    migrate(db)
    migrate(db)
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Table.metadata) == []
    config = alembic_config()
    with db.engine.begin() as connection:
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
    ("revision", "words"), [("0000", "newer version has migrated"), (None, "api.admin migrate")]
)
def test_a_database_of_another_version_is_refused_in_words(
    server: Served, owner: Engine, revision: str | None, words: str
) -> None:
    stamp(owner, revision)
    unready = server.http().get("/readyz")
    assert unready.status_code == 503
    assert words in unready.json()["error"]["message"]


def stamp(owner: Engine, revision: str | None) -> None:
    with owner.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        if revision:
            connection.execute(text("INSERT INTO alembic_version VALUES (:it)"), {"it": revision})


def test_no_part_starts_on_a_database_of_another_version(settings: Settings, owner: Engine) -> None:
    stamp(owner, "0000")
    env = {
        "PATH": os.defpath,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "TUNERY_STORAGE": str(settings.folder),
        "TUNERY_SECRET": settings.secret.get_secret_value(),
    }
    uvicorn = ["uvicorn", "--factory", "api.main:create_app", "--port", "0"]
    for argv in (["api.janitor"], uvicorn, ["api.admin", "list-keys"]):
        ended = subprocess.run(
            [sys.executable, "-m", *argv], env=env, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 1
        assert "newer version has migrated" in ended.stderr
        assert "Traceback" not in ended.stderr


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
