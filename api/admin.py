"""`python -m api.admin`: the operator's commands on the database.

migrate                           bring the database to this version
create-key --scopes read,write    print a new API key, shown this once
revoke-key KEY                    end a key; its first 18 characters are enough
"""

import argparse
import logging
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import ProgrammingError

from api import projects
from api.db import Database
from api.settings import DatabaseSettings
from tunery.errors import TuneryError

ROOT = Path(__file__).parents[1]
DEFAULT_PROJECT = "default"
MIGRATION_LOCK = 0x74756E65


def migrate(db: Database) -> None:
    """To the newest version; two at once take turns. A database that is there already is left."""
    config = Config(toml_file=ROOT / "pyproject.toml")
    with db.engine.begin() as connection:
        # A migration may wait and work for longer than a request.
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def create_key(db: Database, project: str, scopes: list[projects.Scope]) -> str:
    with db.as_control() as tx:
        return projects.create_key(tx, projects.ensure_project(tx, project), scopes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api.admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate")
    create = commands.add_parser("create-key")
    create.add_argument("--project", default=DEFAULT_PROJECT)
    create.add_argument("--scopes", default="read,write", help=", ".join(projects.SCOPES))
    revoke = commands.add_parser("revoke-key")
    revoke.add_argument("key")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    db = Database(DatabaseSettings().database_url.get_secret_value())
    try:
        if args.command == "migrate":
            migrate(db)
        elif args.command == "create-key":
            sys.stdout.write(create_key(db, args.project, args.scopes.split(",")) + "\n")
        else:
            with db.as_control() as tx:
                projects.revoke_key(tx, args.key)
    except TuneryError as error:
        sys.exit(error.message)
    except ProgrammingError as error:
        sys.exit(f"{error.orig}Is the database migrated? Run `python -m api.admin migrate` first.")
    finally:
        db.close()


if __name__ == "__main__":
    main()
