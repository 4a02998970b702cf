"""`python -m worker --check`: whether this machine can be a worker, from its GPU to the API. It
prints a finding a line, as JSON, changes nothing, and may run beside a worker.
"""

import email.utils
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import redis

from tunery.findings import Finding, ok, warn, wrong
from tunery.messages import OLDEST_PROTOCOL, PROTOCOL, Service
from worker.settings import Settings, engine_environment

API_SECONDS, REDIS_SECONDS, ENGINE_SECONDS = 10.0, 3.0, 300.0
# The API refuses nothing for a worker's clock, but logs and traces do not fit together any more.
APART_SECONDS = 5.0
LITTLE_BYTES, TOO_LITTLE_BYTES = 50 * 10**9, 2 * 10**9
# What Celery, downloads and the engine's shards may need at once.
FEWEST_FILES = 1_024
NVIDIA = Path("/dev/nvidiactl")


def look(settings: Settings) -> Iterator[Finding]:
    yield from api(settings)
    yield from broker(settings)
    yield from work_dir(settings)
    yield from open_files()
    yield from engine()


def api(settings: Settings) -> Iterator[Finding]:
    url, key = settings.api_url, settings.worker_key.get_secret_value()
    try:
        answer = httpx.get(
            f"{url}/worker/v1/service",
            headers={"authorization": f"Bearer {key}"},
            timeout=API_SECONDS,
        )
    except httpx.HTTPError as error:
        yield wrong(
            "api",
            f"{url} cannot be reached: {error or type(error).__name__}.",
            "Is TUNERY_API_URL right, and does a firewall or proxy stand between?",
        )
        return
    yield ok("api", f"{url} answers.")
    yield from clock(answer)
    match answer.status_code:
        case 200:
            yield from protocol(Service.model_validate_json(answer.content))
        case 401:
            yield wrong(
                "key",
                "The API does not know TUNERY_WORKER_KEY, or it was revoked.",
                "Make one: python -m api.admin create-key --scopes worker.",
            )
        case 403:
            yield wrong(
                "key",
                "TUNERY_WORKER_KEY lacks the scope worker.",
                "Make one that has it: python -m api.admin create-key --scopes worker.",
            )
        case status:
            yield wrong(
                "key",
                f"The API answered {status} where a worker asks what it is.",
                "Is it Tunery's API, of this version, and well? `tunery doctor` says.",
            )


def protocol(service: Service) -> Iterator[Finding]:
    yield ok("key", "TUNERY_WORKER_KEY is a worker's.")
    if service.oldest_protocol <= PROTOCOL and service.protocol >= OLDEST_PROTOCOL:
        yield ok("protocol", f"API {service.version} and this worker understand each other.")
    else:
        yield wrong(
            "protocol",
            f"This worker speaks protocol {PROTOCOL}, API {service.version} speaks "
            f"{service.oldest_protocol} to {service.protocol}.",
            "Upgrade the older of the two.",
        )


def clock(answer: httpx.Response) -> Iterator[Finding]:
    """By what the answer says; to a second, and the time that it took."""
    try:
        said = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return
    apart = abs(time.time() - answer.elapsed.total_seconds() / 2 - said)
    if apart > APART_SECONDS:
        yield warn(
            "clock",
            f"The clocks of this machine and of the API are {apart:.0f} s apart.",
            "Have both set their clocks by NTP.",
        )
    else:
        yield ok("clock", "The clocks of this machine and of the API agree.")


def broker(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        yield ok("redis", "No REDIS_URL: this worker asks the API for work (--poll).")
        return
    url = settings.redis_url.get_secret_value()
    limits = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
    try:
        with redis.Redis.from_url(url, **limits) as asked:
            asked.ping()
    except (redis.RedisError, ValueError) as error:
        yield wrong(
            "redis",
            f"Redis cannot be used: {error}",
            "Start it, or correct REDIS_URL. A worker that polls (--poll) needs none.",
        )
    else:
        yield ok("redis", "Redis answers.")


def work_dir(settings: Settings) -> Iterator[Finding]:
    folder = settings.work_dir
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        yield wrong(
            "work folder",
            f"TUNERY_WORK_DIR {folder} cannot be written: {error.strerror}.",
            "Give the user that the worker runs as the right to, or name another folder.",
        )
        return
    told = f"{free / 1e9:,.1f} GB are free in {folder}."
    if free < LITTLE_BYTES:
        state = wrong if free < TOO_LITTLE_BYTES else warn
        yield state(
            "work folder",
            told,
            "Data sets, checkpoints and fetched base models need room: use a larger disk, or lower "
            "TUNERY_FETCHED_BYTES.",
        )
    else:
        yield ok("work folder", told)


def open_files() -> Iterator[Finding]:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < FEWEST_FILES:
        yield warn(
            "open files",
            f"This user may open {most} files at once.",
            f"Raise it to {FEWEST_FILES} or more (ulimit -n, LimitNOFILE= under systemd).",
        )
    else:
        yield ok("open files", f"{most} at once.")


def engine() -> Iterator[Finding]:
    """In a process as an engine is: this one loads no torch."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "worker.engine.check", *(["--nvidia"] if has_nvidia() else [])],
            env=engine_environment(),
            capture_output=True,
            text=True,
            timeout=ENGINE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield wrong(
            "engine",
            f"PyTorch did not come up within {ENGINE_SECONDS:.0f} s.",
            "The driver or the disk hangs: look at dmesg, and at nvidia-smi.",
        )
        return
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    yield from (Finding.model_validate_json(line) for line in lines)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        yield wrong(
            "engine",
            f"The training libraries cannot be loaded (exit code {done.returncode}): {last}",
            'Install them as they were tested: pip install -c constraints.txt ".[worker]".',
        )


def has_nvidia() -> bool:
    return NVIDIA.exists() or shutil.which("nvidia-smi") is not None


def run(settings: Settings) -> None:
    """Prints them as they are found."""
    for finding in look(settings):
        sys.stdout.write(json.dumps(finding.model_dump()) + "\n")
        sys.stdout.flush()
