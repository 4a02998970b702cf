"""The role that API and janitor log in as. It owns nothing and inherits nothing: all it may do is
take on the two roles they work in.
"""

import logging
import secrets

import psycopg
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.db.session import APP_ROLE, CONTROL_ROLE, Database

log = logging.getLogger(__name__)

LOGIN = "tunery_server"


def create(db: Database, name: str = LOGIN, password: str | None = None) -> str:
    """A URL to log in with. A role that is there already gets the new password. For the owner of
    the database, who has CREATEROLE.
    """
    password = password or secrets.token_hex(24)
    role = sql.Identifier(name)
    memberships = sql.SQL("GRANT {}, {} TO {} WITH INHERIT FALSE, SET TRUE").format(
        sql.Identifier(APP_ROLE), sql.Identifier(CONTROL_ROLE), role
    )
    with db.engine.begin() as owner:
        connection = owner.connection.driver_connection
        assert isinstance(connection, psycopg.Connection)  # noqa: S101
        # So the password itself is in no log of the server's.
        sealed = connection.pgconn.encrypt_password(
            password.encode(), name.encode(), b"scram-sha-256"
        ).decode()
        there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
        begin = sql.SQL("ALTER ROLE {}" if there else "CREATE ROLE {}").format(role)
        connection.execute(
            begin + sql.SQL(" LOGIN NOINHERIT PASSWORD {}").format(sql.Literal(sealed))
        )
        connection.execute(memberships)
    url = db.engine.url.set(drivername="postgresql", username=name, password=password)
    return url.render_as_string(hide_password=False)


def warn_of_rights(db: Database) -> None:
    """In the log, if who has logged in could do more than the two roles may."""
    with db.as_control() as tx:
        found = has_too_many_rights(tx)
    if found:
        log.warning(
            "DATABASE_URL logs in as a superuser or as the owner of the tables. What "
            "`python -m api.admin create-login` prints is enough for API and janitor."
        )


def has_too_many_rights(tx: Session) -> bool:
    found = tx.scalar(
        text("""
            SELECT rolsuper OR EXISTS (
                SELECT FROM pg_class WHERE relname = 'job' AND relowner = pg_roles.oid
            ) FROM pg_roles WHERE rolname = session_user
        """)
    )
    return bool(found)
