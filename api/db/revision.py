"""Which version of the schema the database is at, and which versions of the code may run on it.

A migration only adds (decision 0018), so the release before runs on the database, too, while one is
upgraded to the other. Whoever migrates notes the oldest that may, as the comment of Alembic's
table: every dump takes it along.
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from api.db.session import Database
from tunery.errors import MadeByNewer, WrongSchema

ROOT = Path(__file__).parents[2]
PREVIOUS = tomllib.loads((ROOT / "migrations" / "previous_release.toml").read_text())

NOTE_OLDEST = (
    "COMMENT ON TABLE alembic_version IS "
    f"'The oldest version of Tunery that may run here is that of schema {PREVIOUS['revision']}'"
)
FIND = text("""
    SELECT version_num,
        substring(obj_description('alembic_version'::regclass, 'pg_class') FROM '\\w+$')
    FROM alembic_version
""")


class Schema(NamedTuple):
    """`revision` is where the database is at, `oldest` that of the oldest version that may run."""

    revision: str
    oldest: str | None

    @property
    def is_newer(self) -> bool:
        """Whether a newer version than this one has migrated the database."""
        return self.revision not in revisions()


def alembic_config() -> Config:
    return Config(toml_file=ROOT / "pyproject.toml")


@cache
def revisions() -> tuple[str, ...]:
    """Those that this code knows, oldest first."""
    script = ScriptDirectory.from_config(alembic_config())
    return tuple(reversed([one.revision for one in script.walk_revisions()]))


def schema_of(tx: Session) -> Schema | None:
    """None: the database has never been migrated. Then the transaction is over."""
    try:
        row = tx.execute(FIND).one_or_none()
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.UndefinedTable):
            raise
        return None
    return Schema(*row) if row else None


def require_current(db: Database) -> None:
    """Raises `WrongSchema`, which says what to do."""
    try:
        with db.as_control() as tx:
            found = schema_of(tx)
    except psycopg.errors.InvalidParameterValue:
        found = None  # without a migration there is not even the role
    newest = revisions()[-1]
    if found is None:
        raise WrongSchema(
            "The database has no tables of Tunery. Run `python -m api.admin migrate` on it first."
        )
    refuse_too_new(found)
    if found.revision != newest and not found.is_newer:
        raise WrongSchema(
            f"The database is at schema {found.revision}, and this version needs {newest}. Run "
            "`python -m api.admin migrate`, then start again."
        )


def refuse_too_new(found: Schema) -> None:
    """Raises `WrongSchema` for what a newer version made of the database, unless that lets this one
    run beside it.
    """
    if found.is_newer and found.oldest not in revisions():
        lets = f", and lets versions from schema {found.oldest} on run" if found.oldest else ""
        raise WrongSchema(
            f"The database is at schema {found.revision}, which this version does not know (it "
            f"ends at {revisions()[-1]}). A newer version has migrated the database{lets}: run "
            "that one."
        )


def leave_to_newer(tx: Session, what: str) -> None:
    """For what this version cannot read. Raises `MadeByNewer` if there is a newer one, which can:
    nothing of the transaction stays.
    """
    found = schema_of(tx)
    if found and found.is_newer:
        raise MadeByNewer(
            f"This version cannot read {what}, which a newer one has stored. Try again: the newer "
            "one answers."
        )
