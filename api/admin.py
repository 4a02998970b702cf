"""`python -m api.admin`: the operator's commands on the database.

migrate                           bring the database to this version
create-login                      print a URL of the database for the API and the janitor, with a
                                  role that owns nothing; once more: with another password
create-key --scopes read,write    print a new API key, shown this once
list-keys                         the keys of a project, without their secrets
rotate-key KEY                    print a new key in place of one, which ends after --grace-seconds
revoke-key KEY                    end a key
forget-storage                    take the storage folder as it is at the next start, though it has
                                  another mark, or none: after its bytes were lost for good

storage move --to PLACE           copy what is stored to a folder or to s3://BUCKET/PREFIX, and have
                                  the database know that as its storage; safe to call again

KEY is a key's id, or its first 18 characters.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from alembic import command
from alembic.runtime.migration import MigrationContext
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError

from api.db import logins
from api.db.revision import alembic_config, refuse_unknown, require_current
from api.db.session import Database
from api.settings import DatabaseSettings, Settings, storage_place
from api.storage import moving
from api.tables import StorageFolder
from api.tenants import audit, keys, projects
from tunery.errors import TuneryError
from tunery.settings import read

DEFAULT_PROJECT = "default"
MIGRATION_LOCK = 0x74756E65


def migrate(db: Database) -> None:
    """To the newest version; two at once take turns. A database that is there already is left.
    Raises `WrongSchema` for one that a newer version has migrated.
    """
    config = alembic_config()
    with db.engine.begin() as connection:
        # A migration may wait and work for longer than a request.
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        if found := MigrationContext.configure(connection).get_current_revision():
            refuse_unknown(found)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def create_key(
    db: Database,
    project: str,
    scopes: Sequence[str],
    *,
    name: str | None = None,
    expires_days: float | None = None,
) -> str:
    with db.as_control() as tx:
        owner = projects.ensure_project(tx, project)
        row, key = keys.create(tx, owner, scopes, name=name, expires_days=expires_days)
        audit.record(tx, None, "key.create", row.id, project_id=owner.id)
    return key


def list_keys(db: Database, project: str) -> str:
    """One key on a line, newest first."""
    with db.as_control() as tx:
        rows = keys.list_all(tx, projects.named(tx, project).id)
    lines = []
    for row in rows:
        ends = [("revoked", row.revoked_at), ("expires", row.expires_at)]
        end = next((f"{word} {time:%Y-%m-%d %H:%M}" for word, time in ends if time), "")
        used = f"used {row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never used"
        told = (row.id, row.prefix, ",".join(row.scopes), row.name or "-", used, end)
        lines.append("  ".join(told).rstrip() + "\n")
    return "".join(lines)


def rotate_key(db: Database, named: str, grace_seconds: float) -> str:
    with db.as_control() as tx:
        old = keys.find(tx, named)
        row, key = keys.rotate(tx, old, grace_seconds=grace_seconds)
        audit.record(tx, None, "key.rotate", old.id, project_id=old.project_id)
        audit.record(tx, None, "key.create", row.id, project_id=old.project_id)
    return key


def revoke_key(db: Database, named: str) -> None:
    with db.as_control() as tx:
        key = keys.find(tx, named)
        keys.revoke(tx, key)
        audit.record(tx, None, "key.revoke", key.id, project_id=key.project_id)


def forget_storage(db: Database) -> None:
    with db.as_control() as tx:
        tx.execute(delete(StorageFolder))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m api.admin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate")
    commands.add_parser("create-login").add_argument("--name", default=logins.LOGIN)
    create = commands.add_parser("create-key")
    create.add_argument("--project", default=DEFAULT_PROJECT)
    create.add_argument("--scopes", default="read,write", help=", ".join(projects.SCOPES))
    create.add_argument("--name", help="what it is for")
    create.add_argument("--expires-days", type=float)
    listed = commands.add_parser("list-keys")
    listed.add_argument("--project", default=DEFAULT_PROJECT)
    rotate = commands.add_parser("rotate-key")
    rotate.add_argument("key")
    rotate.add_argument("--grace-seconds", type=float, default=0)
    commands.add_parser("revoke-key").add_argument("key")
    commands.add_parser("forget-storage")
    storage = commands.add_parser("storage").add_subparsers(dest="verb", required=True)
    storage.add_parser("move").add_argument("--to", required=True, type=storage_place)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.basicConfig(level=logging.WARNING)
    settings = read(DatabaseSettings)
    db = Database(settings.database_url.get_secret_value())
    try:
        if args.command != "migrate":
            require_current(db)
        if args.command == "migrate":
            migrate(db)
        elif args.command == "create-login":
            password = settings.login_password
            url = logins.create(db, args.name, password.get_secret_value() if password else None)
            sys.stdout.write(url + "\n")
        elif args.command == "create-key":
            scopes, days = args.scopes.split(","), args.expires_days
            key = create_key(db, args.project, scopes, name=args.name, expires_days=days)
            sys.stdout.write(key + "\n")
        elif args.command == "list-keys":
            sys.stdout.write(list_keys(db, args.project))
        elif args.command == "rotate-key":
            sys.stdout.write(rotate_key(db, args.key, args.grace_seconds) + "\n")
        elif args.command == "storage":
            moving.move(read(Settings), db, args.to, print)
        elif args.command == "forget-storage":
            forget_storage(db)
            sys.stdout.write("Restart the API and the janitor now.\n")
        else:
            revoke_key(db, args.key)
    except TuneryError as error:
        sys.exit(error.message)
    except OperationalError as error:
        sys.exit(f"The database at DATABASE_URL does not answer: {error.orig}")
    finally:
        db.close()


if __name__ == "__main__":
    main()
