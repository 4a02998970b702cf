"""The Postgres and the Redis that the tests run against: the oldest Postgres we support."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunery.cli import embedded
from tunery.cli.supervisor import Supervisor

# A test's data need not outlive a power cut.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class Stores:
    postgres_url: str
    redis_url: str


@contextmanager
def start_stores(folder: Path) -> Iterator[Stores]:
    postgres = embedded.postgres(folder, log_dir=folder, version=16, settings=FAST)
    redis = embedded.redis(log_dir=folder)
    if redis is None:
        raise RuntimeError("The tests need a Redis: put redis-server or valkey-server on the PATH.")
    with Supervisor(lambda _: None) as supervisor:
        supervisor.start(postgres.service, redis.service)
        yield Stores(postgres.url, redis.url)
