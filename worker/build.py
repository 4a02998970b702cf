"""An agent from its settings; the same for Celery and for polling."""

import fcntl
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from tunery import traces
from tunery.messages import PROTOCOL, WorkerFacts
from worker.agent import Agent
from worker.bases.bases import Bases, Hub
from worker.client import Client
from worker.settings import Settings, engine_environment
from worker.warm_engine import real_engine

log = logging.getLogger(__name__)

NAP_SECONDS = 0.2
LAST_SECONDS = 3.0


def build_agent(settings: Settings, draining: Callable[[], bool]) -> Agent:
    """The agent, its engine already warming up."""
    # Data sets and adapters pass through here; other users of the machine have no business with it.
    traces.begin(settings.otel_endpoint, "tunery-worker")
    settings.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep_to_oneself(settings.work_dir)
    engine = real_engine(
        engine_environment(),
        settings.work_dir / "engine.log",
        answer_share=settings.answer_share,
        kernels=settings.kernels,
    )
    engine.start()
    agent = Agent(
        facts=WorkerFacts(
            protocol=PROTOCOL,
            worker=settings.worker_name,
            id=own_id(settings.work_dir),
            # A family may be known to another transformers.
            build=f"{version('tunery')} (transformers {version('transformers')})",
            pool=settings.pool,
            gpus=settings.gpus_per_job,
        ),
        work_dir=settings.work_dir,
        client=Client(settings.api_url, settings.worker_key.get_secret_value()),
        engine=engine,
        draining=draining,
        bases=Bases(
            settings.work_dir / "fetched",
            api_url=settings.api_url,
            most_bytes=settings.fetched_bytes,
            on=Hub(
                endpoint=settings.hf_endpoint,
                token=settings.hf_token.get_secret_value() if settings.hf_token else None,
                offline=settings.hf_hub_offline,
            ),
        ),
        checkpoint_seconds=settings.checkpoint_seconds,
        grace_seconds=settings.grace_seconds,
        hang_seconds=settings.hang_seconds,
        answer_room=settings.answer_room,
    )
    agent.start()
    threading.Thread(target=leave_in_time, args=(agent,), name="exit", daemon=True).start()
    return agent


def leave_in_time(agent: Agent) -> NoReturn:
    """Once the worker drains, it is gone within its grace, whatever it is at. What it had no time
    for, its lease and its spool make good.
    """
    while not agent.draining():
        time.sleep(NAP_SECONDS)
    left = agent.grace_seconds - LAST_SECONDS
    agent.client.deadline = time.monotonic() + left
    time.sleep(left + LAST_SECONDS / 2)
    log.error("out of time")
    # The engine ends with the process that started it.
    os._exit(1)


def own_id(work_dir: Path) -> str:
    """The worker's id, made once: it outlives restarts, and no other folder has it."""
    path = work_dir / "id"
    if not path.exists():
        new = path.with_suffix(".new")
        new.write_text(f"worker-{secrets.token_hex(8)}")
        new.rename(path)
    return path.read_text()


def keep_to_oneself(work_dir: Path) -> None:
    """Two workers in one folder would delete each other's attempts. The lock ends with the process
    that runs the agent, however it ends.
    """
    lock = os.open(work_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"Another worker uses {work_dir}. Give each its own TUNERY_WORK_DIR.")
