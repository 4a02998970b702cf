"""How results get to the API while the worker is at its next job."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.conftest import Served
from tests.factories import create_job, worker_facts
from tests.worker.conftest import MakeWork, Work, poll, retrieve, wait_for
from tunery import messages
from worker import delivery
from worker.client import ApiRefused, Client
from worker.heart import Heart
from worker.spool import Outcome


class HeldBack:
    """Jobs whose results are sent when they may be."""

    def __init__(self) -> None:
        self.jobs: dict[str, threading.Event] = {}

    def hold(self, *jobs: FineTuningJob) -> None:
        self.jobs |= {job.id: threading.Event() for job in jobs}

    def let_go(self, *jobs: str) -> None:
        for job_id in jobs or self.jobs:
            self.jobs[job_id].set()


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> HeldBack:
    held_back = HeldBack()
    send = delivery.send_results

    def wait_and_send(
        client: Client, outcome: Outcome, result: Any
    ) -> messages.Succeeded | messages.Exported | messages.Failed:
        if event := held_back.jobs.get(outcome.lease.job_id):
            assert event.wait(300)
        return send(client, outcome, result)

    monkeypatch.setattr(delivery, "send_results", wait_and_send)
    return held_back


@contextmanager
def running(worker: Work, results: HeldBack) -> Iterator[None]:
    with worker.running():
        try:
            yield
        finally:
            results.let_go()
            worker.agent.deliveries.wait()


def noted(worker: Work, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """When it asks for a job, and when the API has heard an end, in their order."""
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
    return done


def test_the_next_job_is_trained_while_results_are_sent_and_pays_for_the_device(
    server: Served, work: MakeWork, results: HeldBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = [create_job(server.client) for _ in range(3)]
    results.hold(first, second)
    worker = work("finish")
    claimed = noted(worker, monkeypatch)
    with running(worker, results):
        wait_for(lambda: len(worker.agent.deliveries.under_way()) == 2)
        held = worker.agent.heart.held
        assert {(one.lease.job_id, one.step) for one in held} == {(first.id, 4), (second.id, 4)}
        assert [str(retrieve(server, job).status) for job in (first, second)] == ["running"] * 2
        time.sleep(1)
        assert claimed == ["claim"] * 2, "a disk holds the files of two attempts at most"
        results.let_go(second.id)
        wait_for(lambda: retrieve(server, third).status == "succeeded")
        assert retrieve(server, first).status == "running"
    assert retrieve(server, first).status == "succeeded"
    http = server.http()
    (attempt,), (next_one,) = (
        http.get(f"/v1/fine_tuning/jobs/{job.id}/attempts").json()["data"]
        for job in (first, second)
    )
    assert attempt["seconds"] <= next_one["started_at"] + 1 - attempt["started_at"]
    assert attempt["ended_at"] > next_one["started_at"]


def test_neither_a_cancel_nor_a_job_given_back_waits_for_another_jobs_results(
    server: Served, work: MakeWork, results: HeldBack
) -> None:
    first = create_job(server.client)
    early, worker = work("wait"), work("wait")
    with early.running():
        wait_for(lambda: retrieve(server, first).trained_tokens == 30)
        early.draining.set()
    results.hold(first)
    with running(worker, results):
        wait_for(lambda: bool(worker.agent.deliveries.under_way()))
        second, third = create_job(server.client), create_job(server.client)
        wait_for(lambda: retrieve(server, second).trained_tokens == 30)
        server.client.fine_tuning.jobs.cancel(second.id)
        wait_for(lambda: retrieve(server, second).status == "cancelled")
        wait_for(lambda: retrieve(server, third).trained_tokens == 30)
        worker.draining.set()
        wait_for(lambda: retrieve(server, third).status == "queued")
        assert retrieve(server, first).status == "running"
    assert retrieve(server, first).status == "succeeded"


def test_a_worker_sends_its_results_before_it_ends(
    server: Served, work: MakeWork, results: HeldBack
) -> None:
    job = create_job(server.client)
    results.hold(job)
    worker = work("finish")
    with running(worker, results):
        wait_for(lambda: bool(worker.agent.deliveries.under_way()))
        worker.draining.set()
        leaving = threading.Thread(target=worker.agent.leave, daemon=True)
        leaving.start()
        leaving.join(1)
        assert leaving.is_alive()
        assert retrieve(server, job).status == "running"
        results.let_go()
        leaving.join(300)
    assert retrieve(server, job).status == "succeeded"
    (gone,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert gone["state"] == "offline", "it has said that it ends"


def test_a_polling_worker_that_is_refused_sends_its_results_before_it_ends(
    server: Served, work: MakeWork, results: HeldBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    results.hold(job)
    worker = work("finish")
    claim = worker.client.claim

    def claim_once(*given: Any, **named: Any) -> messages.Lease | None:
        if worker.agent.deliveries.under_way():
            threading.Timer(1, results.let_go).start()
            raise ApiRefused("HTTP 401: no such key")
        return claim(*given, **named)

    monkeypatch.setattr(worker.client, "claim", claim_once)
    with pytest.raises(SystemExit, match="no such key"):
        poll(server, worker, monkeypatch)
    assert retrieve(server, job).status == "succeeded"


def test_a_worker_is_idle_from_when_its_results_are_sent(
    server: Served, work: MakeWork, results: HeldBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.hold(create_job(server.client))
    threading.Timer(4, results.let_go).start()
    began = time.monotonic()
    poll(server, work("finish"), monkeypatch, "--idle-exit", "2")
    assert time.monotonic() - began > 5.9


def test_a_failure_is_told_before_the_next_job_is_asked_for(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        create_job(server.client)
    worker = work("broke")
    done = noted(worker, monkeypatch)
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
