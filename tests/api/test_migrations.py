import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect

from api.admin import ROOT, main, migrate
from api.db import Database
from api.tables import Table
from tests.conftest import make_database
from tests.stores import Stores


def test_the_migrations_make_the_tables_of_the_code_and_take_them_back(stores: Stores) -> None:
    db = Database(make_database(stores.postgres_url, "up_and_down"))
    migrate(db)
    migrate(db)
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Table.metadata) == []
    config = Config(toml_file=ROOT / "pyproject.toml")
    with db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert inspect(db.engine).get_table_names() == ["alembic_version"]
    migrate(db)
    db.close()


def test_a_database_of_a_newer_version_is_refused_in_words(
    owner: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owner.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'later'")
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setattr("sys.argv", ["admin", "migrate"])
    with pytest.raises(SystemExit, match="made by another version of Tunery"):
        main()


def test_a_move_that_no_job_makes_is_refused(db: Database) -> None:
    from api import jobs
    from tunery.states import JobState

    with db.as_control() as tx, pytest.raises(ValueError, match="no job goes from succeeded"):
        jobs.move(tx, "any", expected={JobState.SUCCEEDED}, to=JobState.QUEUED, message="never")
