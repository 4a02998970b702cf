"""Runs migrations over `DATABASE_URL`, or over a connection handed in by `api.admin`."""

from alembic import context
from sqlalchemy import Connection, create_engine

from api.db.session import driver_url
from api.settings import DatabaseSettings
from api.tables import Table


def migrate(connection: Connection) -> None:
    # A lock is held for one migration's time, not for that of all.
    context.configure(
        connection=connection, target_metadata=Table.metadata, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    engine = create_engine(driver_url(DatabaseSettings().database_url.get_secret_value()))
    with engine.connect() as own:
        migrate(own)
