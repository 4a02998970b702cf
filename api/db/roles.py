"""The two roles that the service works in. A dump of one database has none, and the first migration
makes them for a new one.
"""

from sqlalchemy import Connection, text

from api.db.session import APP_ROLE, CONTROL_ROLE


def create_roles(connection: Connection) -> None:
    """Idempotent. Whoever calls it may take on both, and needs CREATEROLE."""
    for role in (APP_ROLE, CONTROL_ROLE):
        there = text("SELECT 1 FROM pg_roles WHERE rolname = :role")
        if not connection.scalar(there, {"role": role}):
            connection.exec_driver_sql(f"CREATE ROLE {role} NOLOGIN")
        connection.exec_driver_sql(f"GRANT {role} TO CURRENT_USER")
