"""An agent from its settings; the same for Celery and for polling."""

import logging
from collections.abc import Callable

from worker.agent import Agent
from worker.client import Client
from worker.settings import Settings, engine_environment
from worker.warm_engine import real_engine


def build_agent(settings: Settings, draining: Callable[[], bool]) -> Agent:
    """The agent, its engine already warming up."""
    # httpx tells every URL it asks for, and some of ours are signed.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    engine = real_engine(engine_environment(), settings.work_dir / "engine.log")
    engine.start()
    return Agent(
        name=settings.worker_name,
        work_dir=settings.work_dir,
        client=Client(settings.api_url, settings.worker_key.get_secret_value()),
        engine=engine,
        draining=draining,
    )
