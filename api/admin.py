"""`python -m api.admin`: the operator's commands on the database.

migrate                           bring the database to this version
create-login                      print a URL of the database for the API and the janitor, with a
                                  role that owns nothing; once more: with another password
create-key --scopes read,write    print a new API key, shown this once
list-keys                         the keys of a project, without their secrets
rotate-key KEY                    print a new key in place of one, which ends after --grace-seconds
revoke-key KEY                    end a key
backup FOLDER                     copy the whole service there, while it runs; once more into the
                                  same folder: what is new
check-backup FOLDER               read a backup, and say whether it is whole; needs no database
restore FOLDER                    make it anew of a backup, in an empty database and storage
forget-storage                    take storage as it is at the next start, though it has another
                                  mark, or none: after its bytes were lost for good

storage move --to PLACE           copy what is stored to a folder or to s3://BUCKET/PREFIX, and have
                                  the database know that as its storage; safe to call again

KEY is a key's id, or its first 18 characters.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import delete
from sqlalchemy.exc import OperationalError

from api.backup import backing_up, checking, restoring
from api.backup.manifest import MANIFEST
from api.db import logins
from api.db.migrating import migrate
from api.db.revision import require_current
from api.db.session import Database
from api.settings import DatabaseSettings, Settings, storage_place
from api.storage import moving
from api.storage.opened import open_storage
from api.storage.storage import FORGOTTEN
from api.tables import StorageFolder
from api.tenants import audit, keys, projects
from tunery.errors import TuneryError
from tunery.settings import read

DEFAULT_PROJECT = "default"


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
        tx.add(StorageFolder(id=1, mark=FORGOTTEN))


def back_up(db: Database, folder: Path) -> None:
    """Ends the process with 1 where storage lacks bytes that rows lead to."""
    settings = read(Settings)
    secret = settings.secret.get_secret_value()
    made = backing_up.back_up(db, open_storage(settings, db), secret, folder)
    sys.stdout.write(
        f"{folder} has the database and {made.files:,} files of {made.bytes:,} bytes. Keep "
        "TUNERY_SECRET apart from it.\n"
    )
    if made.lost:
        sys.exit(
            f"{len(made.lost)} files are not in it: storage has lost their bytes. "
            f"{folder / MANIFEST} lists them under `lost`."
        )


def check_backup(folder: Path) -> None:
    """Ends the process with 1 if something is wrong."""
    made, faults = checking.check(folder)
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    if made.lost:
        sys.stderr.write(
            f"{len(made.lost)} files were lost before it was made: {folder / MANIFEST}, `lost`.\n"
        )
    if faults:
        sys.exit(
            f"{folder} is damaged. Delete what is named, and back up into it again: that copies "
            "what is missing."
        )
    sys.stdout.write(
        f"{folder} is whole: the database of {made.made_at}, version {made.version}, and "
        f"{made.files:,} files of {made.bytes:,} bytes.\n"
    )


def restore(db: Database, folder: Path, *, other_secret: bool) -> None:
    settings = read(Settings)
    secret = settings.secret.get_secret_value()
    # The database does not know its mark yet.
    storage = open_storage(settings, None)
    made = restoring.restore(db, storage, secret, folder, other_secret=other_secret)
    sys.stdout.write(
        f"The service is as it was at {made.made_at}, with {made.files:,} files of "
        f"{made.bytes:,} bytes, each as it was. Run `python -m api.admin create-login` if API and "
        "janitor log in by its role, then start them. Jobs that were running go on from their last "
        "checkpoints.\n"
    )
    if made.lost:
        sys.stderr.write(
            f"The backup lacked {len(made.lost)} files: {folder / MANIFEST}, `lost`.\n"
        )


def read_arguments() -> argparse.Namespace:
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
    commands.add_parser("backup").add_argument("folder", type=Path)
    commands.add_parser("check-backup").add_argument("folder", type=Path)
    restored = commands.add_parser("restore")
    restored.add_argument("folder", type=Path)
    restored.add_argument(
        "--other-secret", action="store_true", help="under another TUNERY_SECRET than the backup's"
    )
    commands.add_parser("forget-storage")
    storage = commands.add_parser("storage").add_subparsers(dest="verb", required=True)
    storage.add_parser("move").add_argument("--to", required=True, type=storage_place)
    return parser.parse_args()


def carry_out(args: argparse.Namespace, settings: DatabaseSettings, db: Database) -> None:
    if args.command not in {"migrate", "restore"}:
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
    elif args.command == "backup":
        back_up(db, args.folder)
    elif args.command == "restore":
        restore(db, args.folder, other_secret=args.other_secret)
    elif args.command == "storage":
        moving.move(read(Settings), db, args.to, print)
    elif args.command == "forget-storage":
        forget_storage(db)
        sys.stdout.write("Restart the API and the janitor now.\n")
    else:
        revoke_key(db, args.key)


def main() -> None:
    args = read_arguments()
    logging.basicConfig(level=logging.WARNING)
    try:
        if args.command == "check-backup":
            check_backup(args.folder)
        else:
            with_database(args)
    except TuneryError as error:
        sys.exit(error.message)


def with_database(args: argparse.Namespace) -> None:
    settings = read(DatabaseSettings)
    db = Database(settings.database_url.get_secret_value())
    try:
        carry_out(args, settings, db)
    except OperationalError as error:
        sys.exit(f"The database at DATABASE_URL does not answer: {error.orig}")
    finally:
        db.close()


if __name__ == "__main__":
    main()
