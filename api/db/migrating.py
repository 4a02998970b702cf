"""Brings a database to this version's schema while others use it (decision 0018)."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from psycopg import Cursor
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.db.revision import NOTE_OLDEST, alembic_config, refuse_too_new, schema_of
from api.db.session import Database
from api.tables import Table
from tunery.errors import Busy

log = logging.getLogger(__name__)

MIGRATION_LOCK = 0x74756E65
# Whoever waits for a lock on a table holds up all that come after: no longer than this, then they
# go first. It is less than Postgres' `deadlock_timeout` (1 s), after which a client that waits for
# a table of the migration's would be ended if the migration still waited for one of the client's.
LOCK_MILLISECONDS = 500
SHORTEST_LOCK_MILLISECONDS = 10
BEGUN = "begun"
PAUSE_SECONDS = 1.0
PATIENCE_SECONDS = 600.0

# As a transaction has a shorter wait of its own. What is done outside of one, as an index is made
# concurrently, holds up nobody.
NO_LIMITS = (
    "SET lock_timeout = 0; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
)
HALF_MADE = text("""
    SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE NOT indisvalid AND relname = ANY(:ours) AND pg_table_is_visible(indrelid)
""")


def migrate(db: Database, *, patience: float = PATIENCE_SECONDS) -> None:
    """To the newest version; two at once take turns. A database that is there already is left, and
    so is one that a newer version has migrated and lets this one run on. Each migration is a
    transaction. If one is broken off, the next call goes on with it.

    Raises:
        WrongSchema: a newer version has migrated the database, and this one is too old for it.
        Busy: others had a table for all of `patience` seconds.

    """
    config = alembic_config()
    with without_limits(db) as connection:
        take_turn(connection)
        found = schema_of(Session(connection))
        connection.rollback()
        if found:
            refuse_too_new(found)
            if found.is_newer:
                return
            # Before anything changes that a version before the oldest does not know.
            note_oldest(connection)
        event.listen(connection, "begin", note_begin)
        event.listen(connection, "before_cursor_execute", limit_wait)
        config.attributes["connection"] = connection
        until = time.monotonic() + patience
        while True:
            drop_half_made_indexes(db)
            try:
                command.upgrade(config, "head")
                break
            except OperationalError as error:
                connection.rollback()
                # The database ends a deadlock at once, and may choose the migration.
                if not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                    raise
                if time.monotonic() > until:
                    raise Busy(
                        f"A table that the migration changes was in use for {patience:.0f} s "
                        "without a break. Look in pg_stat_activity for a transaction that has "
                        "been open for long, such as a dump's, and migrate after its end. "
                        "Migrations that are through stay."
                    ) from error
                log.warning("a table is in use; the migration tries again")
                time.sleep(PAUSE_SECONDS)
        note_oldest(connection)


@contextmanager
def without_limits(db: Database) -> Iterator[Connection]:
    """A connection that is closed in the end: its settings and locks are no other's."""
    with db.engine.connect() as connection:
        try:
            connection.exec_driver_sql(NO_LIMITS)
            connection.commit()
            yield connection
        finally:
            connection.invalidate()


def take_turn(connection: Connection) -> None:
    """Asks again and again: to wait for it in the database would be a transaction, for whose end an
    index that the other one makes concurrently would wait in turn.
    """
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({MIGRATION_LOCK})").scalar():
        connection.rollback()
        time.sleep(PAUSE_SECONDS / 2)
    connection.rollback()


def note_oldest(connection: Connection) -> None:
    connection.exec_driver_sql(NOTE_OLDEST)
    connection.commit()


def note_begin(connection: Connection) -> None:
    connection.info[BEGUN] = time.monotonic()


def limit_wait(connection: Connection, cursor: Cursor, *_: object) -> None:
    """Before each statement: a transaction's waits end at one time, however many locks it needs."""
    if cursor.connection.autocommit:
        return
    waited = round((time.monotonic() - connection.info[BEGUN]) * 1000)
    left = max(SHORTEST_LOCK_MILLISECONDS, LOCK_MILLISECONDS - waited)
    with cursor.connection.cursor() as own:
        own.execute(f"SET LOCAL lock_timeout = {left}".encode())


def drop_half_made_indexes(db: Database) -> None:
    """Those of ours that were being made concurrently when that was broken off: no query uses them,
    and they keep their names.
    """
    ours = [index.name for table in Table.metadata.tables.values() for index in table.indexes]
    with without_limits(db) as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for name in connection.scalars(HALF_MADE, {"ours": ours}).all():
            connection.exec_driver_sql(f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"')
