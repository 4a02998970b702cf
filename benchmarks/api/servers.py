"""The API and its floor, each a process of its own beside one Postgres, and what they cost."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tunery.cli import embedded, service
from tunery.cli.supervisor import Supervisor

API_PORT, FLOOR_PORT = 18410, 18411
API, FLOOR = f"http://127.0.0.1:{API_PORT}", f"http://127.0.0.1:{FLOOR_PORT}"


@dataclass
class Cost:
    """CPU seconds (user and system) of a server while something was done, the clock's, and by how
    many bytes its memory grew at most.
    """

    cpu: float = 0.0
    wall: float = 0.0
    grown: int = 0


@dataclass
class Servers:
    """`folder` is where both keep files."""

    folder: Path
    database_url: str
    key: str
    admin_key: str
    api: psutil.Process = field(init=False)
    floor: psutil.Process = field(init=False)

    @property
    def storage(self) -> Path:
        return self.folder / "storage"


@contextmanager
def running(folder: Path) -> Iterator[Servers]:
    """Embedded Postgres, or `DATABASE_URL` where it is set: use an empty database."""
    folder = folder.resolve()
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for port in (API_PORT, FLOOR_PORT):
        embedded.free_port(port, "another one in benchmarks/api/servers.py")
    with Supervisor(print) as supervisor:
        env = service.server_environment(folder) | {"TUNERY_REQUESTS_PER_MINUTE": "0"}
        env |= service.start_stores(supervisor, folder, logs, print)
        service.admin(["migrate"], env)
        key = service.admin(["create-key", "--scopes", "read,write"], env)
        admin_key = service.admin(["create-key", "--scopes", "read,write,admin"], env)
        servers = Servers(folder, env["DATABASE_URL"], key, admin_key)
        where = (str(FLOOR_PORT), str(folder), servers.database_url)
        floor = (sys.executable, "-m", "benchmarks.api.floor", *where)
        api = service.api(env, logs, API, API_PORT).argv
        with (
            process(api, env, logs / "api.log", f"{API}/readyz") as servers.api,
            process(floor, env, logs / "floor.log", f"{FLOOR}/is/there") as servers.floor,
        ):
            yield servers


@contextmanager
def process(
    argv: tuple[str, ...], env: Mapping[str, str], log: Path, ready: str
) -> Iterator[psutil.Process]:
    with (
        log.open("wb") as out,
        subprocess.Popen(argv, env=dict(env), stdout=out, stderr=subprocess.STDOUT) as child,
    ):
        try:
            until = time.monotonic() + 60
            while not service.answers(ready):
                if child.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{argv} does not answer; see {log}")
                time.sleep(0.1)
            yield psutil.Process(child.pid)
        finally:
            child.terminate()


@contextmanager
def cost_of(server: psutil.Process) -> Iterator[Cost]:
    """Known when the block has ended."""
    cost, ended = Cost(), threading.Event()
    at_first = server.memory_info().rss

    def watch() -> None:
        while not ended.wait(0.05):
            cost.grown = max(cost.grown, server.memory_info().rss - at_first)

    watcher = threading.Thread(target=watch)
    watcher.start()
    before, began = server.cpu_times(), time.monotonic()
    yield cost
    after = server.cpu_times()
    cost.wall = time.monotonic() - began
    cost.cpu = after.user + after.system - before.user - before.system
    ended.set()
    watcher.join()
