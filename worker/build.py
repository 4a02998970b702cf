"""An agent from its settings; the same for Celery and for polling."""

import fcntl
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from worker.agent import Agent
from worker.client import Client
from worker.settings import Settings, engine_environment
from worker.warm_engine import real_engine


def build_agent(settings: Settings, draining: Callable[[], bool]) -> Agent:
    """The agent, its engine already warming up."""
    # httpx tells every URL it asks for, and some of ours are signed.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Data sets and adapters pass through here; other users of the machine have no business with it.
    settings.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep_to_oneself(settings.work_dir)
    engine = real_engine(engine_environment(), settings.work_dir / "engine.log")
    engine.start()
    return Agent(
        name=settings.worker_name,
        work_dir=settings.work_dir,
        client=Client(settings.api_url, settings.worker_key.get_secret_value()),
        engine=engine,
        draining=draining,
    )


def keep_to_oneself(work_dir: Path) -> None:
    """Two workers in one folder would delete each other's attempts. The lock ends with the process
    that runs the agent, however it ends.
    """
    lock = os.open(work_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"Another worker uses {work_dir}. Give each its own TUNERY_WORK_DIR.")
