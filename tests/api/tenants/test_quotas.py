import http.client
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.admin import create_key
from api.db.session import Database
from api.http.rates import duration
from api.settings import Settings
from api.storage.incoming import Incoming
from api.tenants import arrivals, projects, quotas
from tests.answering_worker import LOCKS_WAITED_FOR
from tests.api.jobs.queue.test_turns import queue
from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.conftest import Served
from tests.factories import (
    create_job,
    data_set,
    end_by_hand,
    run_by_hand,
    upload,
    worker_facts,
)
from tunery.errors import QuotaReached
from tunery.messages import PROTOCOL
from tunery.states import AttemptEnd
from worker.client import Client


def limit(server: Served, **limits: int | None) -> dict[str, Any]:
    project = server.http().get("/v1/project").json()
    answer = server.http(server.admin_key).post(
        f"/v1/admin/projects/{project['id']}", json={"limits": limits}
    )
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_files_over_the_quota_are_refused_in_words_and_room_is_made_by_deleting(
    server: Served,
) -> None:
    limit(server, files=1)
    first = upload(server.client)
    with pytest.raises(openai.RateLimitError, match="has 1 of at most 1 files") as refused:
        upload(server.client)
    body: Any = refused.value.body
    assert "ask the operator" in body["message"]
    assert (body["type"], body["code"]) == ("insufficient_quota", "insufficient_quota")
    assert refused.value.response.headers["x-should-retry"] == "false"
    server.client.files.delete(first.id)
    second = upload(server.client)
    limit(server, files=None, stored_bytes=second.bytes * 2 - 1)
    with pytest.raises(openai.RateLimitError, match=f"this one has {second.bytes:,}"):
        upload(server.client)
    announced = http.client.HTTPConnection(urlsplit(server.url).netloc)
    announced.putrequest("POST", "/v1/files")
    announced.putheader("authorization", f"Bearer {server.key}")
    announced.putheader("content-length", str(1 << 30))
    announced.endheaders()
    assert announced.getresponse().status == 429, "before its bytes came"
    announced.close()


def test_jobs_over_the_quota_are_refused_and_a_repeat_is_not_one_more(server: Served) -> None:
    limit(server, unfinished_jobs=1)
    file = upload(server.client)
    key = {"Idempotency-Key": "a"}
    job = create_job(server.client, file.id, extra_headers=key)
    assert create_job(server.client, file.id, extra_headers=key).id == job.id
    with pytest.raises(openai.RateLimitError, match="1 of at most 1 unfinished"):
        create_job(server.client, file.id)
    server.client.fine_tuning.jobs.cancel(job.id)
    create_job(server.client, file.id)


@pytest.mark.parametrize("thing", ["file", "job"])
def test_two_at_once_do_not_pass_a_limit_that_leaves_room_for_one(
    db: Database, settings: Settings, thing: str
) -> None:
    def require(tx: Session) -> None:
        if thing == "file":
            quotas.require_file(tx, settings, project_id, 1)
        else:
            quotas.require_job(tx, settings, project_id)

    with db.as_control() as tx:
        project = projects.create(tx, "p")
        project_id, project.most_files, project.most_unfinished_jobs = project.id, 1, 1
    refused = []

    def come_second() -> None:
        with db.as_control() as tx, pytest.raises(QuotaReached):
            require(tx)
        refused.append(thing)

    with db.as_control() as tx:
        require(tx)
        rival = threading.Thread(target=come_second)
        rival.start()
        # Not longer: it waits half a second for the lock.
        while not (waits := tx.scalar(text(LOCKS_WAITED_FOR))) and rival.is_alive():
            pass
        assert waits, "it waits to see whether there is room"
        queue(tx, "p")
    rival.join()
    assert refused == [thing]


def test_a_project_sees_its_limits_and_what_it_uses_of_them(server: Served, db: Database) -> None:
    job = create_job(server.client)
    create_job(server.client, job.training_file)
    with db.as_control() as tx:
        run_by_hand(tx, job.id)
    server.client.files.delete(upload(server.client).id)
    own = limit(server, running_jobs=7)
    admin, path = server.http(server.admin_key), f"/v1/admin/projects/{own['id']}"
    assert admin.post(path, json={"limits": {"files": True}}).status_code == 400
    assert own == server.http().get("/v1/project").json()
    assert own["own_limits"] == {
        "files": None, "stored_bytes": None, "unfinished_jobs": None, "running_jobs": 7,
        "device_hours": None, "cost": None,
    }  # fmt: skip
    assert own["limits"] == {
        "files": server.settings.project_files,
        "stored_bytes": server.settings.project_stored_bytes,
        "unfinished_jobs": server.settings.project_unfinished_jobs,
        "running_jobs": 7,
        "device_hours": None,
        "cost": None,
    }
    assert own["usage"].pop("device_hours") < 0.1
    assert own["usage"] == {
        "files": 1, "stored_bytes": len(data_set()), "unfinished_jobs": 2, "running_jobs": 1,
        "cost": 0,
    }  # fmt: skip
    with db.as_control() as tx:
        end_by_hand(tx, job.id, AttemptEnd.CANCELLED)
        tx.execute(text("DELETE FROM job"))
        tx.execute(text("DELETE FROM file"))
    usage = server.http().get("/v1/project").json()["usage"]
    assert set(usage.values()) == {0}


def form(content: bytes, chunks: int) -> Iterator[bytes]:
    part = 'Content-Disposition: form-data; name="{}"\r\n\r\n{}\r\n--B'
    yield ("--B\r\n" + part.format("purpose", "fine-tune")).encode()
    yield b'\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    yield from itertools.repeat(content, chunks)
    yield b"\r\n--B--\r\n"


def test_bytes_that_nobody_announced_are_refused_while_they_come(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once, into a quota that one would break: together a few steps reach the disk."""
    limit(server, stored_bytes=2_000_000)
    most = [0]
    written = Incoming.write

    def watched(self: Incoming, chunk: bytes | memoryview) -> None:
        written(self, chunk)
        most[0] = max(most[0], sum(one.stat().st_size for one in self.path.parent.iterdir()))

    monkeypatch.setattr(Incoming, "write", watched)

    def stream(chunks: int, content: bytes = b"x" * 1_000_000) -> httpx.Response:
        kind = {"content-type": "multipart/form-data; boundary=B"}
        return server.http().post("/v1/files", content=form(content, chunks), headers=kind)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(stream, (60, 60)))
    for answer in answers:
        assert (answer.status_code, "bytes in storage" in answer.text) == (429, True)
    assert most[0] < 2_000_000 + 4 * arrivals.STEP_BYTES
    assert stream(1, data_set()).status_code == 200, "there is room again"
    announced = {"filename": "a", "purpose": "fine-tune", "bytes": 900, "mime_type": "a"}
    upload_id = server.http().post("/v1/uploads", json=announced).json()["id"]
    path = f"/v1/uploads/{upload_id}/parts"
    large = server.http().post(path, files={"data": ("p", b"x" * 5_000_000)})
    assert large.status_code == 400, "before its bytes came"
    assert server.http().post(path, files={"data": ("p", b"x" * 901)}).status_code == 413
    for _ in range(3):
        assert server.http().post(path, files={"data": ("p", b"x" * 800)}).status_code == 200
    usage = server.http().get("/v1/project").json()["usage"]
    assert usage["stored_bytes"] == len(data_set()) + 2_400
    assert server.http().post(path, files={"data": ("p", b"x" * 800)}).status_code == 400


def test_a_project_full_of_results_begins_nothing_and_its_running_jobs_publish(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    job = create_job(server.client)
    lease = claim(worker)
    limit(server, stored_bytes=len(data_set()))
    assert lease
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    with pytest.raises(openai.RateLimitError, match="no room for what would come of this"):
        create_job(server.client, job.training_file)
    exports = f"/v1/fine_tuning/jobs/{job.id}/exports"
    assert server.http().post(exports, json={"format": "peft"}).status_code == 429
    server.http().delete(f"/v1/fine_tuning/jobs/{job.id}")
    limit(server, stored_bytes=None, unfinished_jobs=3)
    asked = {"exports": ["gguf", "peft", "gguf"]}
    create_job(server.client, job.training_file, extra_body=asked)
    assert server.http().get("/v1/project").json()["usage"]["unfinished_jobs"] == 3
    with pytest.raises(openai.RateLimitError, match="3 of at most 3 unfinished jobs"):
        create_job(server.client, job.training_file)


def test_a_project_without_device_hours_waits_for_the_next_month(
    server: Served, worker: Client, db: Database
) -> None:
    first, second = create_job(server.client), create_job(server.client)
    with db.as_control() as tx:
        run_by_hand(tx, first.id, began=7_200)
        end_by_hand(tx, first.id, AttemptEnd.CANCELLED)
        # The month may be younger than that.
        # In the second half of its time it only sent its results.
        began = "greatest(date_trunc('month', now()), ended_at - interval '4 hours')"
        tx.execute(text(f"UPDATE attempt SET started_at = {began}"))  # noqa: S608
        freed = "ended_at - (ended_at - started_at) / 2"
        used = f"UPDATE attempt SET freed_at = {freed} RETURNING freed_at - started_at"  # noqa: S608
        hours = tx.execute(text(used)).scalar_one().total_seconds() / 3600
    limit(server, device_hours=int(hours) + 1)
    usage = server.http().get("/v1/project").json()["usage"]
    assert usage["device_hours"] == pytest.approx(hours, abs=0.02)
    create_job(server.client, second.training_file)
    limit(server, device_hours=int(hours))
    with pytest.raises(openai.RateLimitError, match="device hours of this month"):
        create_job(server.client, second.training_file)
    worker.heartbeat(worker_facts(), [])
    assert claim(worker) is None
    waits = server.http().get(f"/v1/fine_tuning/jobs/{second.id}").json()["tunery"]["queue"]
    assert waits["waits_for"] == "own_quota"
    assert "used up its" in waits["reason"]
    limit(server, device_hours=None)
    lease = claim(worker)
    assert lease
    assert lease.job_id == second.id


def test_a_project_that_asks_too_fast_is_told_when_to_come_back(
    serve_with: Any, db: Database
) -> None:
    server: Served = serve_with(requests_per_minute=2)
    asked = [server.http().get("/v1/files"), server.http().get("/v1/files/file-x")]
    asked.append(server.http().get("/v1/files"))
    assert [answer.status_code for answer in asked] == [200, 404, 429]
    told = "x-ratelimit-{}-requests"
    assert [answer.headers[told.format("limit")] for answer in asked] == ["2"] * 3
    assert [answer.headers[told.format("remaining")] for answer in asked] == ["1", "0", "0"]
    assert asked[0].headers[told.format("reset")] == "30s"
    assert 1 <= int(asked[2].headers["retry-after"]) <= 60
    assert "x-should-retry" not in asked[2].headers
    assert asked[2].json()["error"]["code"] == "rate_limit_exceeded"
    facts = {"protocol": PROTOCOL, "worker": "w"}
    for _ in range(3):
        claim = server.http(server.worker_key).post("/worker/v1/claim", json=facts)
        assert claim.status_code == 204
        assert httpx.get(f"{server.url}/healthz", timeout=60).status_code == 200
    other = create_key(db, "other", ["read"])
    assert server.http(other).get("/v1/files").status_code == 200


def test_durations_are_written_as_openai_does() -> None:
    assert [duration(seconds) for seconds in (0, 0.0051, 1, 59.5, 90)] == [
        "0ms", "6ms", "1s", "1m0s", "1m30s",
    ]  # fmt: skip
