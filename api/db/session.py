"""Postgres: one pool, and transactions in one of two database roles.

`as_project` sees and touches the rows of one project only, by two means that do not need each
other: each query carries the filter, and the database's row-level security holds it to the project.
`as_control` is for keys, workers and the janitor. Only the two context managers commit.
"""

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.orm import ORMExecuteState, Session, sessionmaker, with_loader_criteria
from sqlalchemy.pool import ConnectionPoolEntry

from api.db.waits import TimedPool
from api.tables import OfProject
from tunery.errors import RateLimited

APP_ROLE = "tunery_app"
CONTROL_ROLE = "tunery_control"
WAKE_CHANNEL = "tunery_wake"
# A trigger tells it the id of each job that gets an event.
JOB_CHANNEL = "tunery_job"
# That a completion is free to be claimed.
COMPLETION_CHANNEL = "tunery_completion"
# Requests that a server process has let in, for the others.
RATE_CHANNEL = "tunery_rate"

# What a project's transaction knows of itself: the project's id, and the filter under `OfProject`.
PROJECT = "project"

# One connection for each thread that asks the database, so that none waits for another
# (`api.http.dependencies` says whose threads they are).
CONNECTIONS = 37

# Whoever takes such a lock has it for some milliseconds. More are needed only when other API
# processes are at the same: then the client waits, and not a thread.
LOCK_MILLISECONDS = 500
LONGEST_LOCK_MILLISECONDS = 3_000

LOCK = text(f"""
    SELECT set_config('lock_timeout', '{LOCK_MILLISECONDS}', true),
        pg_advisory_xact_lock(hashtextextended(:name, 0)),
        set_config('lock_timeout', '{LONGEST_LOCK_MILLISECONDS}', true)
""")

# A connection that was used since is taken to be alive.
IDLE_SECONDS = 5

# For libpq, in seconds and milliseconds: a database that is cut off must not hold a thread.
REACH: dict[str, Any] = {"connect_timeout": 5, "tcp_user_timeout": 10_000}

# What row-level security lets through, until the transaction ends.
SET_PROJECT = "SET LOCAL tunery.project = {}"

CONNECTION_LIMITS = (
    f"SET statement_timeout = '10s'; SET lock_timeout = {LONGEST_LOCK_MILLISECONDS}; "
    "SET idle_in_transaction_session_timeout = '30s'; SET jit = off"
)


def driver_url(url: str) -> str:
    """A plain postgresql:// URL, with the driver SQLAlchemy is to use."""
    scheme, rest = url.split("://", 1)
    return f"{'postgresql+psycopg' if scheme in {'postgres', 'postgresql'} else scheme}://{rest}"


class Database:
    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(
            driver_url(url),
            poolclass=TimedPool,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=5,
            connect_args=REACH,
            # What users write does not belong into logs.
            hide_parameters=True,
        )
        event.listen(self.engine, "connect", limit_connection)
        event.listen(self.engine, "checkin", note_use)
        event.listen(self.engine, "checkout", require_alive)
        self.sessions = sessionmaker(self.engine, expire_on_commit=False)
        event.listen(self.sessions, "do_orm_execute", keep_to_project)

    @contextmanager
    def as_project(self, project_id: str) -> Iterator[Session]:
        """One transaction that reaches this project's rows and no others."""
        with self.sessions.begin() as tx:
            tx.info[PROJECT] = project_id
            tx.info[OfProject] = with_loader_criteria(
                OfProject, lambda table: table.project_id == project_id, include_aliases=True
            )
            begin(tx, f"{APP_ROLE}; {sql.SQL(SET_PROJECT).format(project_id).as_string()}")
            yield tx

    @contextmanager
    def as_control(self) -> Iterator[Session]:
        """One transaction over all projects."""
        with self.sessions.begin() as tx:
            begin(tx, CONTROL_ROLE)
            yield tx

    def connections_in_use(self) -> int:
        pool = self.engine.pool
        assert isinstance(pool, TimedPool)  # noqa: S101
        return pool.checkedout()

    def close(self) -> None:
        """Closes all connections; those that are at work when they have done it. May be used again:
        it connects anew then.
        """
        pool = self.engine.pool
        self.engine.dispose()  # the next pool would have the listener too
        event.listen(pool, "checkin", end_connection)
        pool.dispose()  # of those that came back between the two


def end_connection(connection: DBAPIConnection | None, _: ConnectionPoolEntry) -> None:
    if connection is not None:
        connection.close()


def begin(tx: Session, role: str) -> None:
    """Begins the transaction and takes on its role, with one message to the server and not three.
    It ends as any other: psycopg sees by the connection's state that there is one.
    """
    connection = tx.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)  # noqa: S101
    connection.autocommit = True
    connection.execute(f"BEGIN; SET LOCAL ROLE {role}".encode(), prepare=False)


def take_lock(tx: Session, name: str) -> None:
    """Nobody else has the lock of this name until the transaction ends. Raises `RateLimited` when
    others have it for longer than a moment.
    """
    try:
        tx.execute(LOCK, {"name": name})
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        raise RateLimited(
            "Other requests of this project are at the same thing. Try again in a second.",
            retry_after=1,
        ) from error


@contextmanager
def across_projects(tx: Session) -> Iterator[None]:
    """Within a project's transaction, for a question over all projects: lifts the filter and the
    role. Only numbers may come out of the block, and what another project shares with this one.
    """
    own = tx.info.pop(OfProject)
    tx.execute(text(f"SET LOCAL ROLE {CONTROL_ROLE}"))
    try:
        yield
    finally:
        tx.info[OfProject] = own
        # Else the session would answer with them, without asking the database.
        for row in list(tx.identity_map.values()):
            if isinstance(row, OfProject) and row.project_id != tx.info[PROJECT]:
                tx.expunge(row)
    tx.execute(text(f"SET LOCAL ROLE {APP_ROLE}"))


def keep_to_project(query: ORMExecuteState) -> None:
    """Adds the filter of `as_project`, for whatever of a project's tables the query is about."""
    own = query.session.info.get(OfProject)
    if own is not None and not query.is_insert:
        query.statement = query.statement.options(own)


def limit_connection(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    with connection.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute(CONNECTION_LIMITS)
    connection.commit()


def note_use(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    if connection:
        connection.autocommit = False
    record.info["used"] = time.monotonic()


def require_alive(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
    """Raises what makes the pool connect anew. One that the server has closed has something to be
    read, which costs nothing to see; only one that was idle for long is asked.
    """
    now = time.monotonic()
    try:
        closed = select.poll()
        closed.register(connection.fileno(), select.POLLIN)
        if closed.poll(0):
            raise DisconnectionError("the server has closed the connection")
        if record.info.get("used", now) < now - IDLE_SECONDS:
            with connection.cursor() as cursor:  # type: ignore[attr-defined]
                cursor.execute("SELECT 1")
            connection.rollback()
    except psycopg.Error as error:
        raise DisconnectionError from error
