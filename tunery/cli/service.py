"""The whole service on one machine, under one supervisor: Postgres, Redis, API, janitor, worker.

`DATABASE_URL` and `REDIS_URL`, where set, are used instead of the embedded ones.
"""

import fcntl
import importlib.util
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openai import ConflictError, OpenAI

from tunery import privileges
from tunery.base_model import describe
from tunery.cli import embedded, gpus
from tunery.cli.access import Access
from tunery.cli.console import sign_in_link
from tunery.cli.env_files import read_env, write_env
from tunery.cli.gpus import Gpu
from tunery.cli.register import register
from tunery.cli.supervisor import Service, ServiceError, Supervisor

# Where the server and the worker are: in the wheel, else in the checkout.
BUNDLED = Path(__file__).parents[1] / "bundled"
ROOT = BUNDLED if BUNDLED.is_dir() else Path(__file__).parents[2]
# One of each extra that they need.
NEEDED = ("fastapi", "torch")
HOST = "127.0.0.1"
MARK = "x-tunery-start"
DEMO_MODEL = "tunery-demo"
DEMO_FOLDER = ROOT / "models" / "demo"

Say = Callable[[str], None]


class ServiceFault(Exception):
    """The service cannot run here; the message says how to fix it."""


@dataclass(frozen=True)
class Running:
    """A service that answers. `supervisor.wait()` keeps it until Ctrl-C."""

    supervisor: Supervisor
    base_url: str
    api_key: str
    admin_key: str

    def client(self) -> OpenAI:
        return Access(self.base_url, self.api_key).client()

    def console_link(self) -> str:
        """Opens the console once, as the operator."""
        with Access(self.base_url, self.admin_key).client() as client:
            return sign_in_link(client)


@contextmanager
def running(
    data_dir: Path,
    port: int,
    say: Say,
    *,
    on: Sequence[Gpu] | None = None,
    with_workers: bool = True,
) -> Iterator[Running]:
    """Starts everything, and stops it when the block ends. What is in `data_dir` is found again.
    There is a worker on each of these GPUs, on the CPU if they are none; if nothing is said, one
    on whatever CUDA puts first; or there is none, and all are elsewhere.
    """
    if not all(map(importlib.util.find_spec, NEEDED if with_workers else NEEDED[:1])):
        raise ServiceFault(
            "`tunery up` and `tunery demo` run a server and a worker, whose packages are not "
            'installed here. Run: pip install "tunery[all]"'
        )
    data_dir = data_dir.resolve()
    logs = data_dir / "logs"
    try:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "lock").touch()
    except OSError as error:
        raise ServiceFault(
            f"{data_dir} cannot hold the service's data ({error.strerror}): name another --data-dir"
        ) from error
    embedded.free_port(port, "another --port")
    avoid_proxies()
    # It knows every secret, and the engine runs as the same user.
    privileges.shut()
    with alone_in(data_dir), Supervisor(say) as supervisor:
        stores = start_stores(supervisor, data_dir, logs, say)
        server = server_environment(data_dir) | stores
        admin(["migrate"], server)
        if "DATABASE_URL" not in os.environ:  # noqa: TID251
            # The embedded server's superuser is for migrations alone.
            server["DATABASE_URL"] = admin(["create-login"], server)
        keys = keep_keys(data_dir, server)
        url = f"http://{HOST}:{port}"
        worker = own_environment() | {
            "TUNERY_API_URL": url,
            "TUNERY_WORKER_KEY": keys["TUNERY_WORKER_KEY"],
            "TUNERY_WORK_DIR": str(data_dir / "work"),
        }
        worker |= {name: stores[name] for name in ("REDIS_URL",) if name in stores}
        janitor = Service(
            name="janitor",
            argv=(sys.executable, "-m", "api.janitor"),
            env=server,
            ready=lambda: True,
            log=logs / "janitor.log",
        )
        try:
            envs = {"": worker} if on is None else gpus.environments(worker, list(on))
            workers = [worker_service(env, logs, label) for label, env in envs.items()]
            supervisor.start(
                api(server, logs, url, port), janitor, *(workers if with_workers else [])
            )
        except ServiceError as error:
            if str(error).startswith("api ended"):
                # Another program may have taken the port meanwhile: then that is what to say.
                embedded.free_port(port, "another --port")
            raise
        base_url, key = f"{url}/v1", keys["OPENAI_API_KEY"]
        register_demo_model(base_url, keys["TUNERY_ADMIN_KEY"], say)
        # For OpenAI's SDK, and for the `tunery` command.
        client = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": key}
        write_env(data_dir / "client.env", client | {"TUNERY_URL": base_url, "TUNERY_KEY": key})
        yield Running(supervisor, base_url, key, keys["TUNERY_ADMIN_KEY"])


def avoid_proxies() -> None:
    """The parts of the service reach each other directly, whatever proxy the shell names."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))  # noqa: TID251


@contextmanager
def alone_in(data_dir: Path) -> Iterator[None]:
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServiceFault(
                f"A service already runs on {data_dir}. Use it, stop it, or name another "
                "--data-dir."
            ) from error
        yield


def own_environment() -> dict[str, str]:
    """The command's own, less what each part of the service is given or denied."""
    kept = dict(os.environ)  # noqa: TID251
    for name in ("DATABASE_URL", "REDIS_URL"):
        kept.pop(name, None)
    # SAFEPATH: `python -m` would otherwise import what lies in the folder it was started in.
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def server_environment(data_dir: Path) -> dict[str, str]:
    """What the API, the janitor and the admin get. The signing secret is made once and kept."""
    path = data_dir / "server.env"
    kept = read_env(path)
    if "TUNERY_SECRET" not in kept:
        kept["TUNERY_SECRET"] = secrets.token_urlsafe(32)
        write_env(path, kept)
    # One person's own machine: a job may name any model of the hub.
    usual = {
        "TUNERY_HUB_MODELS": "*/*",
        "TUNERY_STORAGE": str(data_dir / "storage"),
        "TUNERY_STORAGE_CACHE": str(data_dir / "storage-cache"),
    }
    return usual | own_environment() | {"TUNERY_SECRET": kept["TUNERY_SECRET"]}


def start_stores(supervisor: Supervisor, data_dir: Path, logs: Path, say: Say) -> dict[str, str]:
    """Postgres and Redis, embedded unless their URLs are given."""
    given = {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL") if name in os.environ}  # noqa: TID251
    services = []
    if "DATABASE_URL" not in given:
        postgres = embedded.postgres(data_dir, log_dir=logs)
        services.append(postgres.service)
        given["DATABASE_URL"] = postgres.url
        for note in postgres.notes:
            say(note)
    if "REDIS_URL" not in given:
        redis = embedded.redis(log_dir=logs)
        if redis is None:
            say(
                "No Redis here: the worker asks the API for work instead (set REDIS_URL to use one)"
            )
        else:
            services.append(redis.service)
            given["REDIS_URL"] = redis.url
    supervisor.start(*services)
    return given


def admin(arguments: list[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "api.admin", *arguments],
        env=dict(env),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceFault(f"`api.admin {arguments[0]}` failed:\n{done.stderr.strip()}")
    return done.stdout.strip()


def keep_keys(data_dir: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The service's three keys: a client's, the operator's, the worker's. Made once."""
    server, client = data_dir / "server.env", data_dir / "client.env"
    kept = read_env(server) | read_env(client)
    wanted = {
        "OPENAI_API_KEY": "read,write",
        "TUNERY_ADMIN_KEY": "read,write,admin",
        "TUNERY_WORKER_KEY": "worker",
    }
    for name, scopes in wanted.items():
        if name not in kept:
            kept[name] = admin(["create-key", "--scopes", scopes], env)
    write_env(server, {name: kept[name] for name in sorted({"TUNERY_SECRET", *wanted})})
    return kept


def api(env: Mapping[str, str], logs: Path, url: str, port: int) -> Service:
    """Ready once it answers with the mark of this very start: another program may have the port."""
    mark = secrets.token_hex(8)
    return Service(
        name="api",
        argv=(
            *(sys.executable, "-m", "api", "--host", HOST, "--port", str(port)),
            *("--header", f"{MARK}:{mark}"),
        ),
        env=env,
        ready=lambda: answers(f"{url}/readyz", mark),
        log=logs / "api.log",
        at=url,
    )


def worker_service(env: Mapping[str, str], logs: Path, label: str) -> Service:
    """By Celery, or polling where there is no Redis. It warms up while others are served."""
    celery = ("celery", "-q", "-A", "worker.app", "worker", "--concurrency", "1")
    quiet = ("--without-mingle", "--without-gossip", "-n", f"{label or 'worker'}@%h")
    program = (*celery, *quiet) if "REDIS_URL" in env else ("worker", "--poll")
    return Service(
        name=label or "worker",
        argv=(sys.executable, "-m", *program),
        env=env,
        ready=lambda: True,
        log=logs / f"worker{'-' * bool(label)}{label}.log",
        grace_s=40,  # its own grace is 30
        group="workers",
    )


def answers(url: str, mark: str | None = None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:  # noqa: S310
            marked = mark is None or response.headers.get(MARK) == mark
            return bool(response.status == 200 and marked)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def register_demo_model(base_url: str, key: str, say: Say) -> None:
    facts = describe(DEMO_FOLDER, id_=DEMO_MODEL, licence="Apache-2.0")
    with Access(base_url, key).client() as client:
        try:
            register(client, facts)
        except ConflictError:
            say(f"{DEMO_MODEL} is kept here in another version than the one here; jobs on it")
            say("need a new --data-dir")
