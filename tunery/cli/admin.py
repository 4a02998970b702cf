"""`tunery admin`: the operator's commands on the database itself (`python -m api.admin`). They need
no key, and may be run while the service runs or while it does not.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunery.cli import embedded
from tunery.cli.service import ServiceFault, alone_in, own_environment, server_environment
from tunery.cli.supervisor import ServiceError, Supervisor

# What may begin in an empty data folder.
BEGINS = {"restore"}
HELP = {"-h", "--help"}
# What asks no database.
ALONE = "check-backup"


def run(data_dir: Path, arguments: Sequence[str]) -> None:
    """Ends the process with the exit status of the command."""
    if not importlib.util.find_spec("fastapi"):
        sys.exit(
            'tunery: `tunery admin` needs the server\'s packages. Run: pip install "tunery[api]"'
        )
    data_dir = data_dir.resolve()
    try:
        if HELP & set(arguments) or arguments[0] == ALONE:
            sys.exit(admin(arguments, own_environment()))
        if url := os.environ.get("DATABASE_URL"):  # noqa: TID251
            env = own_environment()
            if "TUNERY_SECRET" not in env and (data_dir / "server.env").exists():
                env = server_environment(data_dir)
            sys.exit(admin(arguments, env | {"DATABASE_URL": url}))
        if not (data_dir / "postgres").exists() and arguments[0] not in BEGINS:
            sys.exit(
                f"tunery: there is no service's data in {data_dir}. Name its folder with "
                "--data-dir before the command, or set DATABASE_URL."
            )
        with database(data_dir) as url:
            sys.exit(admin(arguments, server_environment(data_dir) | {"DATABASE_URL": url}))
    except (ServiceFault, ServiceError) as error:
        sys.exit(f"tunery: {error}")


def admin(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    return subprocess.run(
        [sys.executable, "-m", "api.admin", *arguments], env=dict(env), check=False
    ).returncode


@contextmanager
def database(data_dir: Path) -> Iterator[str]:
    """The embedded Postgres's URL: of the running service's, or of one that is started for this."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "lock").touch()
    except OSError as error:
        raise ServiceFault(f"{data_dir} cannot be used ({error.strerror})") from error
    if url := embedded.running_url(data_dir):
        yield url
        return
    with alone_in(data_dir), Supervisor(lambda _: None) as supervisor:
        postgres = embedded.postgres(data_dir, log_dir=data_dir / "logs")
        supervisor.start(postgres.service)
        yield postgres.url
