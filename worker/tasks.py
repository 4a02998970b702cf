"""The one task: look for work."""

import logging
from typing import Any

from celery import signals

from tunery.messages import WAKE_TASK
from worker.agent import Agent
from worker.app import app, draining, settings
from worker.build import build_agent

agents: list[Agent] = []


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def warm_up(**_: Any) -> None:  # noqa: ANN401
    """The child that runs tasks keeps one agent, and with it one warm engine."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    agents.append(build_agent(settings, draining.is_set))


@app.task(name=WAKE_TASK)  # type: ignore[untyped-decorator]
def wake() -> None:
    agents[0].run_until_idle()
