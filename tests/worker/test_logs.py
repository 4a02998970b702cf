"""The log of an engine: kept short, told to the API, and never another job's."""

import io
import json
import logging
from typing import Any

import pytest

from tests.conftest import BASE, Served
from tests.factories import create_job
from tests.worker.conftest import MakeWork, retrieve, said
from tunery import log_lines
from tunery.messages import Lease, LogPart
from worker import log_sender, warm_engine
from worker.client import ApiAway, ApiRefused
from worker.log_sender import LogSender


def test_the_log_of_one_job_is_never_another_jobs(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_job(server.client)
    worker = work("finish")
    worker.run()
    job = create_job(server.client)

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker.client, "download", disk_full)
    worker.run()
    assert "No space left on device" in said(server, job)[-1]
    events = server.client.fine_tuning.jobs.list_events(job.id)
    assert not any((event.model_extra or {})["tunery"] for event in events)


def test_an_engines_chatter_does_not_fill_the_disk(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_engine, "LOG_LIMIT_BYTES", 1000)
    create_job(server.client)
    worker = work("chatter")
    worker.run()
    assert worker.engine.log_file.stat().st_size <= 1000


def test_the_engines_log_reaches_the_api_and_an_api_without_a_place_for_it_harms_nothing(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_sender, "PART_BYTES", 5_000)
    jobs = [create_job(server.client) for _ in range(2)]
    worker = work("chatter")
    sent, add_log = [], worker.client.add_log

    def once_twice(lease: Lease, part: LogPart) -> None:
        """The first part arrives, but not the answer."""
        add_log(lease, part)
        sent.append(part)
        if len(sent) == 1:
            raise ApiAway("no answer")

    monkeypatch.setattr(worker.client, "add_log", once_twice)
    worker.run()
    for job in jobs:
        log = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/logs").text
        where = f"{BASE} has config.json\n"  # and not in which folder
        assert log == f"training {job.id}\n" + where + "nothing new\n" * 1000
    assert sent[0] == sent[1]
    assert 4_900 < max(part.bytes for part in sent) <= 5_000

    def refuse(_: Lease, part: LogPart) -> None:
        sent.append(part)
        raise ApiRefused("HTTP 404: no such route")

    monkeypatch.setattr(worker.client, "add_log", refuse)
    sent.clear()
    third = create_job(server.client)
    worker.run()
    assert retrieve(server, third).status == "succeeded"
    assert len(sent) == 1


def test_the_log_seldom_waits_for_an_api_that_hangs(
    work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, tries = work("finish"), []
    monkeypatch.setattr(log_sender, "SEND_SECONDS", 0)

    def add_log(_: Lease, part: LogPart) -> None:
        tries.append(part)
        if len(tries) > 1:
            raise ApiAway("no answer")

    monkeypatch.setattr(worker.client, "add_log", add_log)
    lease: Any = None
    sender = LogSender(worker.client, lease, worker.engine)
    for line in range(5):
        with worker.engine.log_file.open("a") as file:
            file.write(f"{line}\n")
        sender.send_if_due()
    assert [part.text for part in tries] == ["0\n", "1\n"]


def test_a_log_that_is_emptied_or_grows_too_fast_goes_on_at_a_later_position(
    work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = work("finish").engine
    monkeypatch.setattr(warm_engine, "LOG_LIMIT_BYTES", 10)
    engine.log_file.write_text("another's\n")
    engine.begin_log()

    def log(words: str) -> None:
        with engine.log_file.open("a") as file:
            file.write(words)

    log("abcdef")
    assert engine.log_since(2, most=3, behind=100) == (2, b"cde")
    assert engine.log_since(0, most=9, behind=2) == (4, b"ef")
    engine.cap_log()
    log("gh")
    assert engine.log_since(5, most=9, behind=100) == (6, b"gh")
    assert engine.log_tail() == "gh"


def test_the_engines_lines_are_among_the_workers_own_and_all_say_whose_they_are(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are logged as JSON; else they are in the engine's own file alone."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(log_lines.Json())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    monkeypatch.setattr(log_lines.OF_ENGINE, "disabled", False)
    job = create_job(server.client)
    work("chatter").run()
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    whose = {"job": job.id, "attempt": 1, "project": job.organization_id}
    for message, logger in (("nothing new", "engine"), ("the attempt begins", "worker.agent")):
        (line, *_) = [line for line in told if line["message"] == message]
        assert line.items() >= (whose | {"logger": logger}).items()
    claims = [line for line in told if line.get("route") == "/worker/v1/claim"]
    assert claims[0].items() >= whose.items()
    created = [line for line in told if line.get("route") == "/v1/fine_tuning/jobs"]
    assert created[0]["job"] == job.id
