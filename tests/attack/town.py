"""A running service with two tenants, and what an attacker does to it."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from api.admin import create_key
from api.db.session import Database
from tests.chaos.cluster import HOST, Cluster
from tests.chaos.nursery import Nursery
from tests.chaos.stores import Stores, start_stores
from tests.conftest import BASE

# Nobody who attacks waits longer for an answer.
PATIENCE_SECONDS = 60.0


class Tenant:
    """A project with an ordinary key (read, write), as its user calls the service."""

    def __init__(self, url: str, key: str) -> None:
        self.key = key
        self.http = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE_SECONDS
        )

    def upload(self, content: bytes, name: str = "data.jsonl") -> httpx.Response:
        return self.http.post(
            "/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"}
        )

    def checked(self, file_id: str, seconds: float = 120) -> dict[str, Any]:
        """The file once it has been checked, or as it is after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            file: dict[str, Any] = self.http.get(f"/v1/files/{file_id}").json()
            if file["status"] != "uploaded" or time.monotonic() > until:
                return file
            time.sleep(0.1)

    def create(self, file_id: str, *, epochs: int = 1, **more: Any) -> httpx.Response:
        body = {
            "model": BASE,
            "training_file": file_id,
            "hyperparameters": {"n_epochs": epochs, "batch_size": 4},
            **more,
        }
        return self.http.post("/v1/fine_tuning/jobs", json=body)

    def job(self, job_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        return answer

    def settled(self, job_id: str, seconds: float = 120) -> dict[str, Any]:
        """The job once it has ended, or as it is after so many seconds."""
        until = time.monotonic() + seconds
        while (job := self.job(job_id))["finished_at"] is None and time.monotonic() < until:
            time.sleep(0.1)
        return job


class House(Cluster):
    """The whole service, each part a process of its own, and two projects in it: `a` attacks, `b`
    is a neighbour. `self.http` is the operator's client.
    """

    def __init__(
        self, nursery: Nursery, stores: Stores, folder: Path, *, workers: int, **settings: Any
    ) -> None:
        super().__init__(nursery, stores, folder, workers=workers, **settings)
        db = Database(self.database_url)
        keys = [create_key(db, f"tenant-{name}", ["read", "write"]) for name in "ab"]
        db.close()
        self.a, self.b = (Tenant(self.url, key) for key in keys)

    def stop(self) -> None:
        self.a.http.close()
        self.b.http.close()
        super().stop()

    def log_size(self, name: str = "api") -> int:
        return (self.folder / f"{name}.log").stat().st_size


@dataclass
class Town:
    """Where the houses stand. Starting one takes about two seconds."""

    nursery: Nursery
    stores: Stores
    folder: Path
    numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def house(self, *, workers: int = 1, **settings: object) -> Iterator[House]:
        """`settings` as in `.env.example`, without the prefix and in small letters."""
        folder = self.folder / f"house-{next(self.numbers)}"
        made = House(self.nursery, self.stores, folder, workers=workers, **settings)
        try:
            made.start()
            yield made
        finally:
            made.stop()


@contextmanager
def found(folder: Path) -> Iterator[Town]:
    with ExitStack() as stack:
        nursery = stack.enter_context(Nursery())
        yield Town(nursery, stack.enter_context(start_stores(folder)), folder)


class Connection:
    """One keep-alive connection. It is opened again when it was closed."""

    def __init__(self, house: House, key: str) -> None:
        self.port = house.port
        self.head = f"Host: {HOST}\r\nAuthorization: Bearer {key}\r\n"
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, verb: str, path: str, body: bytes = b"") -> int:
        """The status of the answer. Raises TimeoutError and ConnectionError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
            try:
                return await self.exchange(verb, path, body)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                self.close()
                raise ConnectionError from error
            except BaseException:
                self.close()
                raise

    async def exchange(self, verb: str, path: str, body: bytes) -> int:
        assert self.writer
        json = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self.writer.write(f"{verb} {path} HTTP/1.1\r\n{self.head}{json}\r\n".encode() + body)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin1").lower()
        _, _, rest = head.partition("content-length:")
        if rest:
            await self.reader.readexactly(int(rest.partition("\r\n")[0]))
        return int(head[9:12])

    def close(self) -> None:
        if self.writer:
            self.writer.close()
        self.writer = None


async def storm(
    house: House, key: str, connections: int, until: float, *asked: Any
) -> Counter[int | str]:
    """As many connections at once, each sending the same request over and over until that
    monotonic time. Counts the answers by status, or by the name of what went wrong.
    """
    answers: Counter[int | str] = Counter()

    async def rage() -> None:
        connection = Connection(house, key)
        while time.monotonic() < until:
            try:
                answers[await connection.ask(*asked)] += 1
            except (ConnectionError, TimeoutError, OSError) as error:
                answers[type(error).__name__] += 1
                await asyncio.sleep(0.05)
        connection.close()

    await asyncio.gather(*(rage() for _ in range(connections)))
    return answers


async def latencies(
    house: House, key: str, path: str, seconds: float, *, pollers: int = 5, pause: float = 0.1
) -> tuple[list[float], Counter[int | str]]:
    """Seconds that each GET took, of a few pollers, and the answers by status. A request that got
    no answer counts as `PATIENCE_SECONDS`.
    """
    took: list[float] = []
    answers: Counter[int | str] = Counter()
    until = time.monotonic() + seconds

    async def poll() -> None:
        connection = Connection(house, key)
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                answers[await connection.ask("GET", path)] += 1
                took.append(time.monotonic() - began)
            except (ConnectionError, TimeoutError, OSError) as error:
                answers[type(error).__name__] += 1
                took.append(PATIENCE_SECONDS)
            await asyncio.sleep(pause)
        connection.close()

    await asyncio.gather(*(poll() for _ in range(pollers)))
    return took, answers
