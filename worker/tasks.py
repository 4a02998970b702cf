"""The one task: look for work."""

import os
import signal
import threading
from typing import Any

from celery import signals

from tunery import traces
from tunery.messages import WAKE_TASK
from worker.agent import Agent
from worker.app import app, draining, settings
from worker.build import build_agent

agents: list[Agent] = []
terminated = threading.Event()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def warm_up(**_: Any) -> None:  # noqa: ANN401
    """The child that runs tasks keeps one agent, and with it one warm engine."""
    agents.append(build_agent(settings, lambda: terminated.is_set() or bool(draining.value)))


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def leave(**_: Any) -> None:  # noqa: ANN401
    for agent in agents:
        agent.leave()
    traces.end()


@app.task(name=WAKE_TASK)  # type: ignore[untyped-decorator]
def wake() -> None:
    # Only now: Celery sets its own reaction after the child has warmed up.
    signal.signal(signal.SIGTERM, terminate)
    agents[0].run_until_idle()


def terminate(*_: object) -> None:
    """Celery's own reaction would break the task off at once, and systemd may signal the whole
    group. The second time it is meant so.
    """
    if terminated.is_set():
        os._exit(1)
    terminated.set()
