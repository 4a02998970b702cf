"""The whole service as it runs in production, each part a process that can be killed by its pid,
and started again at once as systemd would.
"""

import logging
import os
import queue
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import psycopg
from psycopg.rows import namedtuple_row

from api.admin import create_key
from api.db.session import Database
from tests.chaos.nursery import Nursery, Order
from tests.chaos.stores import Stores
from tests.conftest import BASE
from tests.factories import data_set
from tunery.cli.embedded import free_port

log = logging.getLogger("chaos")

HOST = "127.0.0.1"
LEASE_SECONDS = 2.0
PARTS = ("celery main", "celery child", "engine")
ROWS, VALID_ROWS, BATCH_ROWS = 48, 6, 4
EPOCH_STEPS = ROWS // BATCH_ROWS


@dataclass(frozen=True)
class Kind:
    """A job by its seed; the same kind gives the same adapter."""

    epochs: int
    validated: bool = False


# About 1 s, 1 s, 5 s and 9 s on a warm engine that has a core to itself.
KINDS = {
    1: Kind(2),
    2: Kind(2, validated=True),
    3: Kind(12),
    4: Kind(24),
}
SHORT, LONG, LONGEST = (1, 2), 3, 4


class Role:
    """A part of the service: when it dies it is forked again, unless it is `held`."""

    def __init__(self, name: str, order: Order) -> None:
        self.name = name
        self.order = order
        self.pid = 0
        self.held = False
        self.ended = threading.Event()


class Cluster:
    def __init__(
        self,
        nursery: Nursery,
        stores: Stores,
        folder: Path,
        *,
        workers: int,
        environment: dict[str, str] | None = None,
        **settings: object,
    ) -> None:
        folder.mkdir(parents=True)
        self.nursery = nursery
        self.stores = stores
        self.folder = folder
        self.failpoints = folder / "failpoints"
        self.failpoints.mkdir()
        self.database_url = stores.new_database()
        db = Database(self.database_url)
        self.key = create_key(db, "default", ["read", "write", "admin"])
        self.worker_key = create_key(db, "default", ["worker"])
        db.close()
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.settings = {
            "TUNERY_LEASE_SECONDS": str(LEASE_SECONDS),
            "TUNERY_SWEEP_SECONDS": "0.2",
            "TUNERY_REQUESTS_PER_MINUTE": "0",
            "TUNERY_RETRY_SECONDS": "0.1",
            "TUNERY_QUARANTINE_SECONDS": "0",
            "TUNERY_CHECKPOINT_SECONDS": "0.2",
        } | {f"TUNERY_{name.upper()}": str(value) for name, value in settings.items()}
        self.settings |= environment or {}
        self.secret = secrets.token_urlsafe(32)
        self.stopped = threading.Event()
        self.roles: dict[str, Role] = {}
        self.changing = threading.RLock()
        self.supervisor = threading.Thread(target=self.supervise, daemon=True)
        self.http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {self.key}"},
            timeout=60,
            follow_redirects=True,
        )
        self.training = self.validation = ""
        self.accepted: set[str] = set()
        self.connection: psycopg.Connection[Any] | None = None
        self.workers = [f"w{number}" for number in range(1, workers + 1)]

    def start(self) -> None:
        self.stores.empty_redis()
        self.supervisor.start()
        server = {"TUNERY_STORAGE": str(self.folder / "storage")} | self.environment()
        server |= {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.stores.redis.url,
            "TUNERY_SECRET": self.secret,
        }
        self.add("api", "api", server)
        self.add("janitor", "janitor", server)
        for name in self.workers:
            self.add_worker(name, self.url)
        self.await_api()
        self.training = self.upload(data_set(ROWS))
        self.validation = self.upload(data_set(VALID_ROWS))

    def add_worker(self, name: str, api_url: str) -> None:
        worker = self.environment() | {
            "REDIS_URL": self.stores.redis.url,
            "TUNERY_API_URL": api_url,
            "TUNERY_WORKER_KEY": self.worker_key,
            "TUNERY_WORKER_NAME": name,
            "TUNERY_WORK_DIR": str(self.folder / name),
        }
        self.add(name, "worker", worker)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "HOME": str(self.folder), **self.settings}

    def add(self, name: str, role: str, env: dict[str, str]) -> None:
        log_file, failpoints = str(self.folder / f"{name}.log"), str(self.failpoints)
        order = Order(role=role, env=env, log=log_file, failpoints=failpoints, port=self.port)
        self.roles[name] = Role(name, order)
        self.launch(name)

    def launch(self, name: str) -> None:
        with self.changing:
            role = self.roles[name]
            role.held = False
            role.ended.clear()
            role.pid = self.nursery.fork(role.order)

    def supervise(self) -> None:
        while not self.stopped.is_set():
            try:
                pid, status = self.nursery.exits.get(timeout=0.1)
            except queue.Empty:
                continue
            with self.changing:
                role = next((role for role in self.roles.values() if role.pid == pid), None)
                if role is None:
                    continue
                log.info("%s ended with %d", role.name, status)
                role.pid = 0
                role.ended.set()
                if not role.held:
                    self.launch(role.name)

    def stop(self) -> None:
        """Ends every process of the service, without ceremony."""
        with self.changing:
            for role in self.roles.values():
                role.held = True
        for role in self.roles.values():
            self.kill_tree(role.name)
        for role in self.roles.values():
            if role.pid and not role.ended.wait(10):
                raise RuntimeError(f"{role.name} does not end")
        self.stopped.set()
        self.supervisor.join()
        self.http.close()
        if self.connection:
            self.connection.close()
        self.stores.drop_database(self.database_url)

    # Processes

    def pids(self, worker: str) -> dict[str, int]:
        """The living processes of a worker, by `PARTS`."""
        found = {}
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.roles[worker].pid)
            found["celery main"] = process.pid
            for part in PARTS[1:]:
                for process in process.children()[:1]:  # noqa: B020 - its only child
                    found[part] = process.pid
        return found

    def signal(self, pid: int, number: int) -> bool:
        """False if the process has ended by itself."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def kill_tree(self, name: str) -> None:
        """A node's death: every process of the role at once."""
        with self.changing:
            pid = self.roles[name].pid
        if not pid:
            return
        with suppress(psutil.NoSuchProcess):
            tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            for process in tree:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def hold(self, name: str) -> None:
        """From here on the role is not started again when it ends."""
        with self.changing:
            self.roles[name].held = True

    def await_api(self) -> None:
        wait_for(self.api_answers, 120, "the API to answer")

    def api_answers(self) -> bool:
        try:
            return self.http.get("/readyz", timeout=10).is_success
        except httpx.TransportError:
            return False

    # Jobs

    def request(self, verb: str, path: str, **more: Any) -> httpx.Response:
        """An answer, however long it takes: the API may be down at any moment."""
        until = time.monotonic() + 120
        while True:
            try:
                response = self.http.request(verb, path, **more)
                if response.status_code < 500:
                    return response
                trouble = f"HTTP {response.status_code}: {response.text}"
            except httpx.TransportError as error:
                trouble = repr(error)
            if time.monotonic() > until:
                raise TimeoutError(f"{verb} {path}: {trouble}")
            time.sleep(0.05)

    def upload(self, content: bytes) -> str:
        answer = self.request(
            "POST",
            "/v1/files",
            files={"file": ("data.jsonl", content)},
            data={"purpose": "fine-tune"},
        )
        return str(answer.raise_for_status().json()["id"])

    def create(self, seed: int, *, exports: Sequence[str] = ()) -> str:
        """The id of a new job of this kind. If the API dies in the middle of the request it is sent
        again, and must make one job.
        """
        kind = KINDS[seed]
        body: dict[str, Any] = {
            "model": BASE,
            "training_file": self.training,
            "seed": seed,
            "hyperparameters": {"n_epochs": kind.epochs, "batch_size": BATCH_ROWS},
            "lora": {"dropout": 0.1},
            "training": {"quantization": "nf4"},
            "exports": list(exports),
        }
        if kind.validated:
            body["validation_file"] = self.validation
        key = {"Idempotency-Key": str(uuid4())}
        answer = self.request("POST", "/v1/fine_tuning/jobs", json=body, headers=key)
        if answer.is_error:
            raise RuntimeError(answer.text)
        job_id = str(answer.json()["id"])
        self.accepted.add(job_id)
        return job_id

    def top_up(self, rng: random.Random, in_flight: int) -> None:
        """Creates jobs until so many are in flight."""
        (row,) = self.rows("SELECT count(*) AS open FROM job WHERE finished_at IS NULL")
        for _ in range(row.open, in_flight):
            self.create(rng.choice(SHORT))

    def job(self, job_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.request("GET", f"/v1/fine_tuning/jobs/{job_id}").json()
        return answer

    def refused_writes(self) -> int:
        """How many writes of a worker the API has refused with 409, that is as stale."""
        answers = (self.folder / "api.log").read_text()
        return len(re.findall(r" route=/worker/v1/jobs/\S* status=409 ", answers))

    def rows(self, query: str, *values: object) -> list[Any]:
        """What the database says, read behind the service's back."""
        until = time.monotonic() + 120
        while True:
            try:
                return self.reader().execute(query.encode(), values or None).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def reader(self) -> psycopg.Connection[Any]:
        """One that stays open, as waiting asks often; another when Postgres has been killed."""
        if self.connection is None or self.connection.closed:
            self.connection = psycopg.connect(
                self.database_url, row_factory=namedtuple_row, connect_timeout=5, autocommit=True
            )
        return self.connection

    def execute(self, query: str, *values: object) -> None:
        """Changes the database behind the service's back."""
        with psycopg.connect(self.database_url) as connection:
            connection.execute(query.encode(), values or None)


def wait_for(what: Callable[[], object], seconds: float, name: str) -> float:
    """How long it took. Raises TimeoutError."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"waited {seconds:g} s for {name}")
        time.sleep(0.02)
    return time.monotonic() - began
