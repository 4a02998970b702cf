"""Postgres: one pool, and transactions in one of two database roles.

`as_project` sees and touches the rows of one project only, by two means that do not need each
other: each query carries the filter, and the database's row-level security holds it to the project.
`as_control` is for keys, workers and the janitor. Only the two context managers commit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import ORMExecuteState, Session, sessionmaker, with_loader_criteria
from sqlalchemy.pool import ConnectionPoolEntry

from api.tables import OfProject

APP_ROLE = "tunery_app"
CONTROL_ROLE = "tunery_control"
WAKE_CHANNEL = "tunery_wake"
# A trigger tells it the id of each job that gets an event.
JOB_CHANNEL = "tunery_job"

# One connection for each thread that serves requests, so that none waits for another.
THREADS = 32

# For libpq, in seconds and milliseconds: a database that is cut off must not hold a thread.
REACH: dict[str, Any] = {"connect_timeout": 5, "tcp_user_timeout": 10_000}

CONNECTION_LIMITS = (
    "SET statement_timeout = '10s'; SET lock_timeout = '3s'; "
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
            pool_size=THREADS,
            max_overflow=4,
            pool_timeout=5,
            pool_pre_ping=True,
            connect_args=REACH,
            # What users write does not belong into logs.
            hide_parameters=True,
        )
        event.listen(self.engine, "connect", limit_connection)
        self.sessions = sessionmaker(self.engine, expire_on_commit=False)
        event.listen(self.sessions, "do_orm_execute", keep_to_project)

    @contextmanager
    def as_project(self, project_id: str) -> Iterator[Session]:
        """One transaction that reaches this project's rows and no others."""
        with self.sessions.begin() as tx:
            tx.info[OfProject] = with_loader_criteria(
                OfProject, lambda table: table.project_id == project_id, include_aliases=True
            )
            tx.execute(text(f"SET LOCAL ROLE {APP_ROLE}"))
            tx.execute(
                text("SELECT set_config('tunery.project', :project, true)"),
                {"project": project_id},
            )
            yield tx

    @contextmanager
    def as_control(self) -> Iterator[Session]:
        """One transaction over all projects."""
        with self.sessions.begin() as tx:
            tx.execute(text(f"SET LOCAL ROLE {CONTROL_ROLE}"))
            yield tx

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def across_projects(tx: Session) -> Iterator[None]:
    """Within a project's transaction, for what is counted over all projects: lifts the filter and
    the role. Only numbers may come out of the block.
    """
    own = tx.info.pop(OfProject)
    tx.execute(text(f"SET LOCAL ROLE {CONTROL_ROLE}"))
    yield
    tx.execute(text(f"SET LOCAL ROLE {APP_ROLE}"))
    tx.info[OfProject] = own


def keep_to_project(query: ORMExecuteState) -> None:
    """Adds the filter of `as_project`, for whatever of a project's tables the query is about."""
    own = query.session.info.get(OfProject)
    if own is not None and not query.is_insert:
        query.statement = query.statement.options(own)


def limit_connection(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    with connection.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute(CONNECTION_LIMITS)
    connection.commit()
