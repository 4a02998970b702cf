"""An agent with an engine that follows a script."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.conftest import ROOT, Served
from tests.factories import worker_facts
from worker import __main__ as polling
from worker.agent import Agent
from worker.bases.bases import Bases, Hub
from worker.client import Client
from worker.warm_engine import Child, WarmEngine

TINY = ROOT / "models" / "tiny"
SCRIPTED = Path(__file__).with_name("scripted_engine.py")
MakeWork = Callable[..., "Work"]


class Work:
    """An agent with a scripted engine, run in this process or in a thread."""

    def __init__(
        self,
        server: Served,
        folder: Path,
        script: str,
        *,
        bases: dict[str, Any] | None = None,
        **limits: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.draining = threading.Event()
        self.client = Client(server.url, server.worker_key)
        self.engine = WarmEngine(
            [sys.executable, str(SCRIPTED), script], {"PATH": os.defpath}, folder / "engine.log"
        )
        self.agent = Agent(
            facts=worker_facts("w1"),
            work_dir=folder,
            client=self.client,
            engine=self.engine,
            draining=self.draining.is_set,
            bases=Bases(
                folder / "fetched",
                api_url=server.url,
                **{"most_bytes": 1 << 30, "on": Hub(), **(bases or {})},
            ),
            **limits,
        )
        self.agent.start()
        self.folder = folder

    def run(self) -> None:
        self.agent.run_until_idle()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join(300)
            assert not thread.is_alive()

    def close(self) -> None:
        self.agent.heart.stop()
        self.engine.kill()
        self.agent.answerer.stop()
        self.client.http.close()


@pytest.fixture
def work(server: Served, tmp_path: Path) -> Iterator[MakeWork]:
    made: list[Work] = []

    def make(script: str, folder: str = "", **limits: Any) -> Work:
        made.append(Work(server, tmp_path / (folder or f"work{len(made)}"), script, **limits))
        return made[-1]

    yield make
    for one in made:
        one.close()


def poll(server: Served, worker: Work, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """As `python -m worker --poll` with this worker's agent, to its end."""
    settings = {"API_URL": server.url, "WORKER_KEY": server.worker_key, "WORK_DIR": "unused"}
    for name, value in settings.items():
        monkeypatch.setenv(f"TUNERY_{name}", value)
    monkeypatch.setattr(polling, "build_agent", lambda *_: worker.agent)
    monkeypatch.setattr(polling, "WAIT_SECONDS", 0.1)
    # What it sets is the process's, and other tests look at its log.
    monkeypatch.setattr("tunery.log_lines.configure", lambda *_, **__: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["worker", "--poll", *options])
    polling.main()


def engine_of(worker: Work) -> Child:
    worker.engine.start()
    assert worker.engine.child
    return worker.engine.child


def retrieve(server: Served, job: FineTuningJob) -> FineTuningJob:
    return server.client.fine_tuning.jobs.retrieve(job.id)


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 300
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def said(server: Served, job: FineTuningJob) -> list[str]:
    events = list(server.client.fine_tuning.jobs.list_events(job.id))
    return [event.message for event in reversed(events)]


def attempts(server: Served, job: FineTuningJob) -> int:
    return int((retrieve(server, job).model_extra or {})["tunery"]["attempts"])
