"""Real parts for every test: one Postgres and one Redis for the run, a fresh database and a fresh
server for each test that asks.
"""

import functools
import gc
import itertools
import os
import secrets
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
import uvicorn
from openai import OpenAI
from sqlalchemy import Engine, create_engine

from api.admin import create_key
from api.db.migrating import migrate
from api.db.session import Database, driver_url
from api.files import files, tokens
from api.files import routes as file_routes
from api.http.connection import Connection
from api.main import create_app
from api.models import bases
from api.settings import Settings
from tests import forks, s3
from tests.stores import Stores, start_stores
from tunery.base_model import describe
from tunery.data import ollama
from worker import client as worker_client
from worker.client import Client

if TYPE_CHECKING:
    from tests.chaos import stores as mortal
    from tests.chaos.nursery import Nursery

TESTS = Path(__file__).parent
ROOT = TESTS.parent
BASE = "tunery-tiny"
NUMBERS = itertools.count()
ROOM_BYTES = 6 << 30
# Long ones, which `make storage` runs.
ON_OBJECT_STORAGE = ("test_s3.py", "test_moving.py", "test_object_storage.py")
SMALL_BYTES = 64 << 10
# Each file is one process's, from its first test to its last. The longest begin first; else one
# process would still be at them when the others have nothing left to do.
FIRST = ("chaos", "e2e", "attack", "fuzz", "engine")


def pytest_configure(config: pytest.Config) -> None:
    """Files of tests lie in memory where there is room: nothing waits for a disk. A database of its
    own for each test is made ten times as fast.
    """
    memory = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of our own in it
    if memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))  # noqa: TID251
    if config.getoption("--forks"):
        # PyTorch finds a GPU without CUDA, which does not survive a fork.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # noqa: TID251


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folders = {folder: place for place, folder in enumerate(FIRST)}
    items.sort(key=lambda item: folders.get(item.path.relative_to(TESTS).parts[0], len(FIRST)))


def pytest_collection_finish() -> None:
    """What has been imported stays, and no collection looks at it again: with torch that is a
    second each time an engine drops a base.
    """
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "OpenAI's OpenAPI document, to compare answers with (tests/conformance)"
    parser.addoption("--schema", type=Path, help=words)
    parser.addoption("--fuzz", type=int, help="cases to a route, in a long round (tests/fuzz)")
    parser.addoption("--s3", action="store_true", help="also the long tests on object storage")
    parser.addoption(
        "--helm", type=Path, help="the chart's tools, with which it is tried (tests/chart)"
    )
    parser.addoption("--fuzz-seed", type=int, help="of its random choices; else a new one")
    parser.addoption("--forks", type=int, help="run the files in so many processes (tests/forks)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return (collection_path.name in ON_OBJECT_STORAGE and not config.getoption("--s3")) or None


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    number = session.config.getoption("--forks")
    if not number or session.config.option.collectonly or session.testsfailed:
        return None
    forks.run(session, number)
    return True


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with start_stores(tmp_path_factory.mktemp("stores")) as started:
        yield started


@pytest.fixture(scope="session")
def nursery() -> Iterator["Nursery"]:
    """Forks the parts of a service: for the suites that kill and attack them."""
    from tests.chaos.nursery import Nursery

    with Nursery() as started:
        yield started


@pytest.fixture(scope="session")
def mortal_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator["mortal.Stores"]:
    """A Postgres and a Redis that may be killed and frozen."""
    from tests.chaos import stores as mortal

    with mortal.start_stores(tmp_path_factory.mktemp("mortal")) as started:
        yield started


@dataclass(frozen=True)
class Migrated:
    """A database with the tiny base model and a key for each kind of caller; others copy it."""

    name: str
    key: str
    admin_key: str
    worker_key: str


@pytest.fixture(scope="session")
def migrated(stores: Stores) -> Migrated:
    name = "migrated"
    db = Database(make_database(stores.postgres_url, name))
    migrate(db)
    compile_once(db.engine)
    with db.as_control() as tx:
        bases.register(tx, describe(ROOT / "models" / "tiny", id_=BASE, licence="Apache-2.0"))
    made = Migrated(
        name,
        key=create_key(db, "default", ["read", "write"]),
        admin_key=create_key(db, "default", ["read", "write", "admin"]),
        worker_key=create_key(db, "default", ["worker"]),
    )
    db.close()
    return made


def compile_once(first: Engine) -> None:
    """Each statement, whichever test says it. A fresh `Database` would compile all of them again,
    which takes 60 ms of a test that only creates a job.
    """
    make = Database.__init__

    def share(self: Database, url: str) -> None:
        make(self, url)
        self.engine.dialect = first.dialect
        self.engine._compiled_cache = first._compiled_cache

    Database.__init__ = share  # type: ignore[method-assign]


@pytest.fixture
def database_url(stores: Stores, migrated: Migrated) -> Iterator[str]:
    with fresh_database(stores, migrated.name) as url:
        yield url


@contextmanager
def fresh_database(stores: Stores, template: str) -> Iterator[str]:
    name = f"test_{next(NUMBERS)}"
    yield make_database(stores.postgres_url, name, template)
    with psycopg.connect(stores.postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def make_database(url: str, name: str, template: str = "template1") -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode()
        )
    return f"{url.rpartition('/')[0]}/{name}"


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def owner(database_url: str) -> Iterator[Engine]:
    """As the user who owns the tables, to look behind the roles."""
    engine = create_engine(driver_url(database_url))
    yield engine
    engine.dispose()


@pytest.fixture
def settings(database_url: str, stores: Stores, tmp_path: Path) -> Settings:
    return settings_for(database_url, stores, tmp_path)


def settings_for(database_url: str, stores: Stores, folder: Path) -> Settings:
    return Settings.model_validate(
        {
            "database_url": database_url,
            "redis_url": stores.redis_url,
            "storage": folder / "storage",
            "secret": secrets.token_urlsafe(32),
            "lease_seconds": 2,
            "sweep_seconds": 0.2,
            "requests_per_minute": 0,
            "hf_hub_offline": True,
        }
    )


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    os.environ |= s3.ENVIRONMENT  # noqa: TID251 - where boto3 looks for them
    with s3.start_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def proxy(s3_url: str) -> Iterator[s3.Proxy]:
    with s3.Proxy(s3_url) as started:
        yield started


@pytest.fixture
def in_bucket(settings: Settings, proxy: s3.Proxy, tmp_path: Path) -> Settings:
    """Settings of an installation whose storage is a bucket."""
    return settings.model_copy(
        update={
            "storage": s3.new_bucket(),
            "s3_endpoint": proxy.url,
            "s3_path_style": True,
            "storage_cache": tmp_path / "cache",
        }
    )


class Served:
    """A server on a real socket, with a key for each kind of caller, and clients for it."""

    def __init__(self, settings: Settings, keys: Migrated, url: str, stack: ExitStack) -> None:
        self.settings = settings
        self.url = url
        self.stack = stack
        self.key, self.admin_key, self.worker_key = keys.key, keys.admin_key, keys.worker_key
        self.client = self.client_for(self.key)

    def client_for(self, key: str) -> OpenAI:
        """The unmodified SDK; it does not try again, so that a test sees each answer."""
        client = OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)
        return self.stack.enter_context(client)

    def http(self, key: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {key or self.key}"}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=60)
        return self.stack.enter_context(client)


@pytest.fixture
def serve_with(settings: Settings, migrated: Migrated) -> Iterator[Callable[..., Served]]:
    """Starts a server with some settings changed."""
    with ExitStack() as stack:

        def start(**changed: object) -> Served:
            own = settings.model_copy(update=changed)
            return Served(own, migrated, stack.enter_context(serve(own)), stack)

        yield start


@pytest.fixture
def server(serve_with: Callable[..., Served]) -> Served:
    return serve_with()


@pytest.fixture(scope="module")
def shared_server(
    stores: Stores, migrated: Migrated, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One for all tests of a file that ask and are refused, or look only at what they made."""
    with fresh_database(stores, migrated.name) as url, ExitStack() as stack:
        settings = settings_for(url, stores, tmp_path_factory.mktemp("shared"))
        yield Served(settings, migrated, stack.enter_context(serve(settings)), stack)


@pytest.fixture
def worker(server: Served) -> Iterator[Client]:
    """The worker's own client of the server."""
    client = Client(server.url, server.worker_key)
    yield client
    client.http.close()


class serve:  # noqa: N801
    """Runs the API in a thread, on a free port. At the end, open streams are cut after so many
    `seconds`, if they are given; nothing else would end them there.
    """

    def __init__(self, settings: Settings, port: int = 0, *, seconds: int | None = None) -> None:
        # asyncio answers without delay (TCP_NODELAY) only where the protocol is named.
        self.socket = socket.socket(proto=socket.IPPROTO_TCP)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", port))
        config = uvicorn.Config(
            create_app(settings),
            http=Connection,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=seconds,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))

    def __enter__(self) -> str:
        self.thread.start()
        while not self.server.started:
            if not self.thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture(scope="session", autouse=True)
def _patience_with_a_busy_machine() -> None:
    """For being slow alone, no check is left to the janitor, no count is given up, no template
    refused, and no request of a worker sent again.
    """
    file_routes.CHECK_SECONDS = 120
    tokens.COUNT_SECONDS = 120
    ollama.SECONDS = 120
    worker_client.QUICK_SECONDS = 120


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> None:
    """Reading them takes 20 ms for each client, and a test has several."""
    read = ssl.create_default_context
    known = functools.cache(read)

    def create(*given: Any, **named: Any) -> ssl.SSLContext:
        return known(*given, **named) if "cafile" in named else read(*given, **named)

    ssl.create_default_context = create


@pytest.fixture(scope="session", autouse=True)
def _the_same_small_file_is_checked_once() -> None:
    """Each check is a process of its own, which takes 100 ms to start, and most tests send the same
    twelve rows.
    """
    check = files.check_in_subprocess
    reports: dict[Any, dict[str, Any]] = {}

    def check_once(path: Path, *asked: Any, **limits: Any) -> dict[str, Any] | None:
        if not path.is_file() or path.stat().st_size > SMALL_BYTES:
            return check(path, *asked, **limits)
        key = (path.read_bytes(), repr((asked, limits)))
        if key not in reports:
            if (report := check(path, *asked, **limits)) is None:
                return None
            reports[key] = report
        return deepcopy(reports[key])

    files.check_in_subprocess = check_once


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in list(os.environ):  # noqa: TID251
        if name.startswith(("TUNERY_", "OPENAI_")) or name in {"DATABASE_URL", "REDIS_URL"}:
            del os.environ[name]  # noqa: TID251
    # Nor the login of whoever runs the tests: the folder is each test's own (`_own_profile`), and
    # that of fixtures which live longer.
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))  # noqa: TID251


@pytest.fixture(autouse=True)
def _own_profile(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `tunery up` of another test leaves its profile behind."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-profile"))
    shutil.rmtree(tmp_path_factory.getbasetemp() / "no-profile", ignore_errors=True)
