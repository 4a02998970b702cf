"""What the command shows of a job, against a real API."""

import json
import threading
import time

import pytest
from rich.console import Console

from tests.conftest import Served
from tests.factories import create_job, worker_facts
from tunery import messages
from tunery.cli import logs, status, watch
from tunery.cli.show import plain
from tunery.measured import Metrics
from tunery.states import FailureClass
from worker.client import Client


@pytest.fixture(autouse=True)
def _as_in_client_env(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", server.key)


def claim(worker: Client) -> messages.Lease:
    lease = worker.claim(worker_facts())
    assert lease
    return lease


def test_status_follows_a_job_through_the_queue_to_its_end_and_logs_show_its_log(
    server: Served,
    worker: Client,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "TEND_SECONDS", 0.05)
    job = create_job(server.client)

    told = threading.Event()

    def telling(**given: bool) -> Console:
        console = plain(**given)
        say = console.print

        def tell(*words: str, **how: bool) -> None:
            say(*words, **how)  # type: ignore[arg-type]
            told.set()

        monkeypatch.setattr(console, "print", tell)
        return console

    monkeypatch.setattr(status, "plain", telling)

    def train() -> None:
        assert told.wait(60)
        lease = claim(worker)
        for step in range(1, 21):
            event = messages.JobEvent(
                message="a step",
                metrics=Metrics(step=step, train_loss=1 / step),
                data={"total_steps": 20},
            )
            worker.add_events(lease, messages.EventBatch(first=step, events=[event]))
        worker.add_log(lease, messages.LogPart(start=0, bytes=12, text="one\ntwo\nend\n"))
        failed = messages.Failed(failure_class=FailureClass.USER, code="c", message="bad rows")
        worker.finish(lease, messages.FinishRequest(result=failed), patience=0)

    training = threading.Thread(target=train)
    training.start()
    with pytest.raises(SystemExit, match="bad rows"):
        status.follow_to_end(job.id)
    training.join()
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("queued: No worker has connected yet")
    assert lines[-2:] == ["failed step 20/20 loss 0.050", f"{job.id} failed"]
    assert [line for line in lines if line.startswith("running step")]

    logs.run(job.id, attempt=None, tail=2, follow=True)
    assert capsys.readouterr().out == "two\nend\n"
    logs.run(job.id, attempt=1, tail=1, follow=False, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"job_id": job.id, "log": "end\n"}
    with pytest.raises(SystemExit, match="has no attempt 2"):
        logs.run(job.id, attempt=2, tail=None, follow=False)


def test_a_job_that_waits_shows_from_when_to_when_it_may_end(server: Served) -> None:
    job = create_job(server.client)
    now = time.time()
    extras = {
        "queue": {"reason": "One is ahead.", "expected_start": (now + 60, now + 120)},
        "estimate": {"seconds": (204, 1495)},
    }
    shown = job.model_copy(update={"status": "queued", "tunery": extras})
    assert watch.View(shown).left == "4 to 27 min left"
    fetching = {"bytes": 3_200_000_000, "total_bytes": 16_060_000_000}
    fetches = job.model_copy(update={"status": "running", "tunery": {"fetching": fetching}})
    words = "running: fetching the base model, 10 % of 16.1 GB"
    assert watch.View(fetches).line == words
    late = job.model_copy(update={"status": "running", "estimated_finish": int(now) - 5})
    assert watch.View(late).left == "0 s left"
