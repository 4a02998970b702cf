"""A service under load is upgraded from the release before to this one, a process at a time, as
docs/upgrade.md says it: migration, API, janitor, worker.
"""

import itertools
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.proxy import Proxy
from tests.conftest import BASE, ROOT, make_database
from tests.factories import data_set
from tests.stores import start_stores
from tests.upgrade import previous
from tests.upgrade.load import ROWS, Follower, Load
from tunery.base_model import describe
from tunery.cli.access import Access
from tunery.cli.embedded import free_port
from tunery.cli.register import register

HOST = "127.0.0.1"
LONG_EPOCHS = 50
PATIENCE_SECONDS = 300
SETTINGS = {
    "TUNERY_LEASE_SECONDS": "10",
    "TUNERY_SWEEP_SECONDS": "0.5",
    "TUNERY_REQUESTS_PER_MINUTE": "0",
    "TUNERY_CHECKPOINT_SECONDS": "2",
    "HF_HUB_OFFLINE": "1",
}


class Balancer(Proxy):
    """Gives each connection to the next of `ports`."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__(HOST, 0, random.Random(0))
        self.ports = ports
        self.turns = itertools.count()

    def chosen(self) -> tuple[str, int]:
        ports = list(self.ports)
        return HOST, ports[next(self.turns) % len(ports)]


class Service:
    """Its parts are processes of the code of `code`: the release before, until it is changed."""

    def __init__(self, stack: ExitStack, folder: Path, stores_url: str, code: Path) -> None:
        self.stack, self.folder, self.code = stack, folder, code
        self.server = {
            "DATABASE_URL": make_database(stores_url, "rolling"),
            "TUNERY_STORAGE": str(folder / "storage"),
            "TUNERY_SECRET": secrets.token_urlsafe(32),
        }

    def environment(self) -> dict[str, str]:
        return previous.environment(self.code) | SETTINGS | {"HOME": str(self.folder)}

    def admin(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "api.admin", *arguments]
        env = self.environment() | self.server
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    def start(self, name: str, *command: str, **env: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            part = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.environment() | (env or self.server),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.stack.callback(end, part)
        return part

    def api(self, port: int) -> subprocess.Popen[bytes]:
        part = self.start(f"api-{port}", "api", "--host", HOST, "--port", str(port))
        until_true("the API is ready", lambda: is_ready(port))
        return part

    def worker(self, name: str, url: str, key: str) -> subprocess.Popen[bytes]:
        env = {"TUNERY_API_URL": url, "TUNERY_WORKER_KEY": key, "TUNERY_WORKER_NAME": name}
        folder = str(self.folder / name)
        return self.start(name, "worker", "--poll", **env, TUNERY_WORK_DIR=folder)


def roll(folder: Path, code: Path) -> str:
    """What came of it, in words. Ends the process where something failed."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        stores = stack.enter_context(start_stores(folder))
        service = Service(stack, folder, stores.postgres_url, code)
        service.admin("migrate")
        key = service.admin("create-key", "--scopes", "read,write,admin")
        worker_key = service.admin("create-key", "--scopes", "worker")
        ports = [free_port(), free_port()]
        apis = [service.api(port) for port in ports]
        balancer = stack.enter_context(Balancer(list(ports)))
        url = f"http://{HOST}:{balancer.port}"
        janitor = service.start("janitor", "api.janitor")
        old_worker = service.worker("old", url, worker_key)
        with Access(f"{url}/v1", key).client() as client:
            register(client, describe(ROOT / "models" / "tiny", id_=BASE, licence="Apache-2.0"))
            file = client.files.create(file=("data.jsonl", data_set(ROWS)), purpose="fine-tune")
        load = Load(url, key, BASE, file.id)
        followed = load.train(epochs=1)
        load.ask("POST", f"/fine_tuning/jobs/{followed}/pause")
        follower = Follower(load, followed)
        load.start()
        stack.callback(load.stop)
        until_true("the old worker trains", lambda: load.kept and has_ended(load, load.kept[0]))
        service.code = ROOT
        service.admin("migrate")
        time.sleep(1)
        for port, api in zip(ports, apis, strict=True):
            balancer.ports.remove(port)
            end(api)
            service.api(port)
            balancer.ports.append(port)
            time.sleep(1)
        end(janitor)
        service.start("janitor", "api.janitor")
        since = len(load.kept)
        until_true("a job of the new API", lambda: len(load.kept) > since)
        until_true("the old worker trains it", lambda: has_ended(load, load.kept[since]))
        long = load.train(epochs=LONG_EPOCHS)
        until_true("the old worker trains", lambda: status(load, long) == "running")
        service.worker("new", url, worker_key)
        until_true("the new worker is there", lambda: len(workers(load)) > 1)
        end(old_worker)
        until_true("the new worker goes on", lambda: trained_by(load, long) == ["old", "new"])
        load.ask("POST", f"/fine_tuning/jobs/{followed}/resume")
        for job in (long, followed, *load.kept):
            until_true(f"{job} succeeds", partial(has_ended, load, job))
        load.stop()
        follower.thread.join(PATIENCE_SECONDS)
        listed = load.ask("GET", f"/fine_tuning/jobs/{followed}/events?limit=100").json()["data"]
    return verdict(load, follower, [event["id"] for event in reversed(listed)], warnings_in(folder))


def verdict(load: Load, follower: Follower, events: list[str], warnings: list[str]) -> str:
    if load.failed:
        failed = f"{len(load.failed)} requests failed:\n" + "\n".join(load.failed)
        sys.exit(f"{failed}\nWhat the API warned of:\n" + "\n".join(warnings))
    if follower.seen != events:
        sys.exit(f"the stream told {follower.seen} of the events {events}")
    by_old = sum(trained == ["old"] for trained in load.trained.values())
    return (
        f"{sum(load.sent.values()):,} requests, 0 failed; {len(load.trained)} jobs trained, "
        f"{by_old} of them by the old worker and one begun by it and ended by the new one; a "
        f"stream of {len(events)} events was opened {follower.connected} times, and missed none"
    )


def warnings_in(folder: Path) -> list[str]:
    logs = sorted(folder.glob("api-*.log"))
    return [line for log in logs for line in log.read_text().splitlines() if "WARNING" in line]


def end(part: subprocess.Popen[bytes]) -> None:
    """As an operator does: SIGTERM, and its time."""
    if part.poll() is None:
        part.terminate()
        part.wait(120)


def until_true(what: str, is_so: Callable[[], Any]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > until:
            sys.exit(f"not in {PATIENCE_SECONDS} s: {what}")
        time.sleep(0.2)


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://{HOST}:{port}/readyz", timeout=5).is_success
    except httpx.HTTPError:
        return False


def status(load: Load, job: str) -> str:
    found: str = load.ask("GET", f"/fine_tuning/jobs/{job}").json()["status"]
    if found in {"failed", "cancelled"}:
        sys.exit(f"{job} is {found}: {load.ask('GET', f'/fine_tuning/jobs/{job}').text}")
    return found


def has_ended(load: Load, job: str) -> bool:
    """Notes who trained it."""
    if status(load, job) != "succeeded":
        return False
    load.trained[job] = trained_by(load, job)
    return True


def workers(load: Load) -> list[str]:
    return [one["name"] for one in load.ask("GET", "/admin/workers").json()["data"]]


def trained_by(load: Load, job: str) -> list[str]:
    listed = load.ask("GET", f"/fine_tuning/jobs/{job}/attempts").json()["data"]
    return sorted((one["worker"] for one in listed), key=["old", "new"].index)
