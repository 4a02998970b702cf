"""Which version of the schema the database is at, and whether it is this code's."""

from functools import cache
from pathlib import Path

import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from api.db.session import Database
from tunery.errors import WrongSchema

ROOT = Path(__file__).parents[2]


def alembic_config() -> Config:
    return Config(toml_file=ROOT / "pyproject.toml")


@cache
def revisions() -> tuple[str, ...]:
    """Those that this code knows, oldest first."""
    script = ScriptDirectory.from_config(alembic_config())
    return tuple(reversed([one.revision for one in script.walk_revisions()]))


def require_current(db: Database) -> None:
    """Raises `WrongSchema`, which says what to do."""
    try:
        with db.as_control() as tx:
            found = tx.scalar(text("SELECT version_num FROM alembic_version"))
    except (ProgrammingError, psycopg.ProgrammingError, psycopg.DataError) as error:
        cause = getattr(error, "orig", error)
        # Without a migration there is neither the role nor the table.
        if not isinstance(
            cause, psycopg.errors.UndefinedTable | psycopg.errors.InvalidParameterValue
        ):
            raise
        found = None
    newest = revisions()[-1]
    if found is None:
        raise WrongSchema(
            "The database has no tables of Tunery. Run `python -m api.admin migrate` on it first."
        )
    refuse_unknown(found)
    if found != newest:
        raise WrongSchema(
            f"The database is at schema {found}, and this version needs {newest}. Run `python -m "
            "api.admin migrate`, then start again."
        )


def refuse_unknown(found: str) -> None:
    """Raises `WrongSchema` for what a newer version made of the database."""
    if found not in revisions():
        raise WrongSchema(
            f"The database is at schema {found}, which this version does not know (it ends at "
            f"{revisions()[-1]}). A newer version has migrated the database: run that one."
        )
