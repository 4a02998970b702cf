"""Connections that the server has closed, or that nobody has used for long."""

from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from api.db import session as database
from api.db.session import Database


def end_connections(owner: Engine) -> None:
    """And waits until they are gone."""
    with owner.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


def lose(db: Database, owner: Engine) -> None:
    with db.as_control() as tx:
        end_connections(owner)
        tx.scalar(text("SELECT 1"))


def insert_and_fail(db: Database) -> None:
    with db.as_control() as tx:
        tx.execute(text("INSERT INTO project (id, name) VALUES ('proj_x', 'x')"))
        raise ZeroDivisionError


@pytest.mark.parametrize("idle", [False, True])
def test_a_connection_that_is_gone_is_replaced_before_it_is_used(
    db: Database, owner: Engine, monkeypatch: pytest.MonkeyPatch, idle: bool
) -> None:
    for _ in range(2):
        if idle:
            monkeypatch.setattr(database, "IDLE_SECONDS", -1)
        with db.as_control() as tx:
            assert tx.scalar(text("SELECT current_user")) == "tunery_control"
        end_connections(owner)
    with pytest.raises(OperationalError):
        lose(db, owner)
    with db.as_project("proj_'x") as tx:
        found = text("SELECT current_user, current_setting('tunery.project')")
        assert tx.execute(found).one() == ("tunery_app", "proj_'x")


def test_what_is_not_committed_is_taken_back(db: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        insert_and_fail(db)
    with db.engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM project WHERE id = 'proj_x'")) == 0
        assert connection.scalar(text("SELECT current_user")) != "tunery_control"
        connection.execute(text("INSERT INTO project (id, name) VALUES ('proj_x', 'x')"))
        connection.rollback()
    with db.as_control() as tx:
        assert tx.scalar(text("SELECT count(*) FROM project WHERE id = 'proj_x'")) == 0


def test_a_database_that_is_closed_meanwhile_leaves_no_connection_open(db: Database) -> None:
    with db.as_control() as tx:
        working: Any = tx.connection().connection.driver_connection
        db.close()
        tx.scalar(text("SELECT 1"))
    assert working.closed
    with db.as_control() as tx:
        kept: Any = tx.connection().connection.driver_connection
    assert not kept.closed, "it is kept for the next transaction"
