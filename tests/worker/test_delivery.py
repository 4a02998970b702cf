"""How results get to the API while the worker is at its next job."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import Served
from tests.factories import create_job, worker_facts
from tests.worker.conftest import MakeWork, Work, retrieve, wait_for
from tunery import messages
from worker import delivery
from worker.client import Client
from worker.heart import Heart
from worker.spool import Outcome


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], threading.Event]]:
    """Of a job: its results are sent when the event is set."""
    waits: dict[str, threading.Event] = {}
    send = delivery.send_results

    def wait_and_send(
        client: Client, outcome: Outcome, result: Any
    ) -> messages.Succeeded | messages.Exported | messages.Failed:
        if outcome.lease.job_id in waits:
            assert waits[outcome.lease.job_id].wait(300)
        return send(client, outcome, result)

    def hold_back(job_id: str) -> threading.Event:
        waits[job_id] = threading.Event()
        return waits[job_id]

    monkeypatch.setattr(delivery, "send_results", wait_and_send)
    yield hold_back
    for event in waits.values():
        event.set()


@contextmanager
def leaving(worker: Work) -> Iterator[threading.Thread]:
    worker.draining.set()
    thread = threading.Thread(target=worker.agent.leave, daemon=True)
    thread.start()
    yield thread
    thread.join(300)


def test_the_next_job_is_trained_while_results_are_sent_and_pays_for_the_device(
    server: Served, work: MakeWork, held_back: Callable[[str], threading.Event]
) -> None:
    first, second, third = [create_job(server.client) for _ in range(3)]
    sending, sending_too = held_back(first.id), held_back(second.id)
    worker = work("finish")
    with worker.running():
        wait_for(lambda: retrieve(server, second).trained_tokens == 40)
        assert retrieve(server, first).status == "running"
        wait_for((worker.folder / "attempts" / f"{second.id}-1" / "outcome.json").exists)
        assert f"training {third.id}" not in worker.engine.log_file.read_text(), (
            "a disk holds the files of two attempts at most"
        )
        sending.set()
        wait_for(lambda: retrieve(server, third).trained_tokens == 40)
        sending_too.set()
    assert [str(retrieve(server, job).status) for job in (first, second, third)] == (
        ["succeeded"] * 3
    )
    http = server.http()
    (attempt,), (next_one,) = (
        http.get(f"/v1/fine_tuning/jobs/{job.id}/attempts").json()["data"]
        for job in (first, second)
    )
    assert attempt["seconds"] <= next_one["started_at"] + 1 - attempt["started_at"]
    assert attempt["ended_at"] >= next_one["started_at"]


def test_a_worker_sends_its_results_before_it_ends(
    server: Served, work: MakeWork, held_back: Callable[[str], threading.Event]
) -> None:
    job = create_job(server.client)
    sending = held_back(job.id)
    worker = work("finish")
    with worker.running():
        wait_for(lambda: bool(worker.agent.deliveries.under_way()))
        with leaving(worker) as thread:
            thread.join(1)
            assert thread.is_alive()
            assert retrieve(server, job).status == "running"
            sending.set()
    assert retrieve(server, job).status == "succeeded"
    (gone,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert gone["state"] == "offline", "it has said that it ends"


def test_a_failure_is_told_before_the_next_job_is_asked_for(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        create_job(server.client)
    worker = work("broke")
    claim, finish = worker.client.claim, worker.client.finish
    done: list[str] = []

    def claimed(*given: Any, **named: Any) -> messages.Lease | None:
        done.append("claim")
        return claim(*given, **named)

    def finished(*given: Any, **named: Any) -> None:
        finish(*given, **named)
        done.append("finish")

    monkeypatch.setattr(worker.client, "claim", claimed)
    monkeypatch.setattr(worker.client, "finish", finished)
    worker.run()
    assert done == ["claim", "finish", "claim", "finish", "claim"]


def test_leases_that_are_taken_and_let_go_at_once_are_all_held(
    server: Served, worker: Client
) -> None:
    create_job(server.client)
    lease = worker.claim(worker_facts("w1"))
    assert lease
    heart = Heart(worker, lambda: worker_facts("w1"))
    switching = sys.getswitchinterval()
    lost: list[str] = []

    def hold() -> None:
        for _ in range(300):
            with heart.holding(lease) as held:
                if not any(other is held for other in heart.held):
                    lost.append("while it was held")

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=hold) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
    finally:
        sys.setswitchinterval(switching)
    assert not lost
    assert not heart.held
