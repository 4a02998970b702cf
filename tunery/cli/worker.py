"""`tunery worker`: one worker for each GPU of this machine, or for each few, in the foreground."""

import importlib.util
import os
import sys
from collections.abc import Mapping

import typer

from tunery import privileges
from tunery.cli import gpus
from tunery.cli.service import own_environment
from tunery.cli.supervisor import Service, ServiceError, Supervisor

NEEDED = ("TUNERY_API_URL", "TUNERY_WORKER_KEY", "TUNERY_WORK_DIR")
# What a worker has from SIGTERM to its end, and a little more.
GRACE_SECONDS, SPARE_SECONDS = 30.0, 10.0


def run(asked: str, per_job: int | None, idle_exit: float | None) -> None:
    """Until SIGTERM or Ctrl-C, or until every worker has ended by itself."""
    environment = os.environ  # noqa: TID251
    if not importlib.util.find_spec("torch"):
        sys.exit('tunery: a worker needs PyTorch. Run: pip install "tunery[worker]"')
    if missing := [name for name in NEEDED if not environment.get(name)]:
        sys.exit(f"tunery: {', '.join(missing)} must be set. .env.example says what each is for.")
    try:
        chosen = gpus.chosen(asked, environment)
        own = {**own_environment(), **({gpus.PER_JOB: str(per_job)} if per_job else {})}
        found = gpus.environments(own, chosen)
    except gpus.NoSuchGpu as error:
        sys.exit(f"tunery: {error}")
    privileges.shut()
    polling = ["--poll", *(["--idle-exit", f"{idle_exit:g}"] if idle_exit is not None else [])]
    services = [worker(label, its_own, polling) for label, its_own in found.items()]
    try:
        with Supervisor(lambda line: typer.echo(line, err=True)) as supervisor:
            supervisor.start(*services)
            supervisor.wait()
    except ServiceError as error:
        sys.exit(f"tunery: {error}")


def worker(label: str, environment: Mapping[str, str], arguments: list[str]) -> Service:
    grace = float(environment.get("TUNERY_GRACE_SECONDS") or GRACE_SECONDS)
    return Service(
        name=label,
        argv=(sys.executable, "-m", "worker", *arguments),
        env=environment,
        ready=lambda: True,
        log=None,
        at=f"worker {environment['TUNERY_WORKER_NAME']}",
        grace_s=grace + SPARE_SECONDS,
        group="workers",
        # Else one that has ended was told to by somebody, and its GPU is to go on.
        may_end="--idle-exit" in arguments,
    )
