"""A Postgres and a Redis of the suite's own, to be killed, frozen and started again by pid."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

from api.db.migrating import migrate
from api.db.session import Database
from api.models import bases
from tests.chaos.nursery import ROOT
from tests.conftest import BASE, make_database
from tunery.base_model import describe
from tunery.cli import embedded
from tunery.cli.supervisor import Service, die_with_parent

# The machine stays up, so what Postgres has written survives its death without fsync. A killed
# process can leave half a page behind, so whole pages go into its log.
SURVIVES_A_KILL = {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "on"}
TEMPLATE = "migrated"


class Store:
    """One server program. Start it from the main thread only: it dies with the thread."""

    def __init__(self, service: Service, url: str) -> None:
        self.service = service
        self.url = url
        self.start()

    def start(self) -> None:
        """Returns when it answers. A Postgres whose last one was killed refuses to start until that
        one's processes have noticed; it is asked again.
        """
        until = time.monotonic() + 60
        self.launch()
        while not self.service.ready():
            if self.child.poll() is not None:
                time.sleep(0.05)
                self.launch()
            if time.monotonic() > until:
                raise RuntimeError(f"{self.service.name} did not start: see {self.service.log}")
            time.sleep(0.02)

    def launch(self) -> None:
        parent = os.getpid()

        def prepare() -> None:
            if self.service.child_setup:
                self.service.child_setup()
            die_with_parent(parent, signal.SIGKILL)

        assert self.service.log
        with self.service.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.service.argv,
                env=dict(self.service.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - a few system calls, before any lock is taken
            )

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def freeze(self) -> None:
        self.child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.child.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.thaw()
            self.child.send_signal(self.service.stop_signal)
        self.child.wait()


@dataclass
class Stores:
    postgres: Store
    redis: Store
    databases: int = 0

    def new_database(self) -> str:
        """The URL of a fresh, migrated database that knows the tiny base model."""
        self.databases += 1
        return make_database(self.postgres.url, f"chaos_{self.databases}", template=TEMPLATE)

    def drop_database(self, url: str) -> None:
        name = url.rpartition("/")[2]
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def empty_redis(self) -> None:
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushall()


@contextmanager
def start_stores(folder: Path) -> Iterator[Stores]:
    postgres = embedded.postgres(folder, log_dir=folder, version=16, settings=SURVIVES_A_KILL)
    cache = embedded.redis(log_dir=folder)
    if cache is None:
        raise RuntimeError("The chaos suite needs a Redis: put redis-server on the PATH.")
    stores = Stores(Store(postgres.service, postgres.url), Store(cache.service, cache.url))
    try:
        db = Database(make_database(postgres.url, TEMPLATE))
        migrate(db)
        with db.as_control() as tx:
            bases.register(tx, describe(ROOT / "models" / "tiny", id_=BASE, licence="Apache-2.0"))
        db.close()
        yield stores
    finally:
        stores.redis.stop()
        stores.postgres.stop()
