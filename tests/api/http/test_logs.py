"""The engine's log of an attempt, as users read it."""

import threading

import pytest
from sqlalchemy import select, update

from api.admin import create_key
from api.db.session import Database
from api.http import dependencies
from api.jobs.live import logs
from api.settings import Settings
from api.storage.folder import Folder
from api.tables import NOW, ApiKey, Job, LogPart, from_now
from api.tenants.keys import hash_of
from api.upkeep import leftovers
from tests.conftest import Served
from tests.factories import create_job, lose_workers, worker_facts
from tunery import messages
from tunery.errors import LeaseLost
from tunery.states import FailureClass
from worker.client import Client


def part(start: int, words: str) -> messages.LogPart:
    return messages.LogPart(start=start, bytes=len(words.encode()), text=words)


def claim(worker: Client) -> messages.Lease:
    lease = worker.claim(worker_facts())
    assert lease
    return lease


def test_a_log_is_read_by_attempt_by_its_last_lines_and_as_it_grows(
    server: Served, worker: Client, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dependencies, "KEY_CACHE_SECONDS", 0.1)
    http, job = server.http(), create_job(server.client)
    path = f"/v1/fine_tuning/jobs/{job.id}/logs"
    early = http.get(path)
    assert (early.status_code, early.json()["error"]["param"]) == (404, "attempt")
    lost = claim(worker)
    for _ in range(2):
        worker.add_log(lost, part(0, "imports\nloads é\n"))
    worker.add_log(lost, part(50, "trains\n"))
    first = "imports\nloads é\n[33 bytes are left out here]\ntrains\n"
    assert http.get(path).text == first
    assert http.get(path, params={"tail": 2}).text == "".join(first.splitlines(True)[-2:])

    lose_workers(db, server.settings)
    lease = claim(worker)
    with pytest.raises(LeaseLost):
        worker.add_log(lost, part(99, "too late"))
    assert http.get(path).text == ""
    assert http.get(path, params={"attempt": 1}).text == first
    worker.add_log(lease, part(0, "one\ntwo\n"))
    key = create_key(db, "default", ["read"])
    with server.http(key).stream("GET", path, params={"follow": "true"}) as answer:
        lines = answer.iter_lines()
        assert [next(lines), next(lines)] == ["one", "two"]
        with db.as_control() as tx:
            tx.execute(update(ApiKey).where(ApiKey.hash == hash_of(key)).values(revoked_at=NOW))
        assert list(lines) == []
    failed = messages.Failed(failure_class=FailureClass.USER, code="c", message="m")
    with http.stream("GET", path, params={"follow": "true", "tail": "1"}) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "two"
        worker.add_log(lease, part(8, "three\n"))
        assert next(lines) == "three"

        def end() -> None:
            worker.add_log(lease, part(14, "the end\n"))
            worker.finish(lease, messages.FinishRequest(result=failed), patience=0)

        threading.Timer(0.1, end).start()
        assert list(lines) == ["the end"]
    missing = http.get(path, params={"attempt": 3})
    assert missing.status_code == 404
    assert "has had 2" in missing.json()["error"]["message"]


def test_of_a_long_log_the_beginning_and_the_latest_are_kept_until_days_after_the_end(
    server: Served,
    worker: Client,
    db: Database,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "HEAD_BYTES", 20)
    monkeypatch.setattr(logs, "LATEST_BYTES", 30)
    job = create_job(server.client)
    lease = claim(worker)
    for number in range(20):
        worker.add_log(lease, part(10 * number, f"line {number:04}\n"))
    kept = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/logs").text.splitlines()
    assert kept == [
        "line 0000",
        "line 0001",
        "[150 bytes are left out here]",
        "line 0017",
        "line 0018",
        "line 0019",
    ]
    server.client.fine_tuning.jobs.cancel(job.id)
    worker.finish(lease, messages.FinishRequest(result=messages.Released()), patience=0)
    storage = Folder(settings.folder, settings.secret.get_secret_value())
    for days, parts in ((6, 5), (8, 0)):
        with db.as_control() as tx:
            tx.execute(update(Job).values(finished_at=from_now(-days * 24 * 3600)))
        leftovers.clear(db, storage)
        with db.as_control() as tx:
            assert len(tx.scalars(select(LogPart)).all()) == parts
