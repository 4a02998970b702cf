"""A create that is sent twice makes one thing."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import OpenAI
from sqlalchemy import select, text

from api.admin import create_key
from api.db.session import Database
from api.http import idempotency
from api.tables import Creation
from tests.conftest import BASE, Served
from tests.factories import create_job, data_set, upload

JOBS = "/v1/fine_tuning/jobs"
Send = Callable[..., httpx.Response]


@pytest.fixture
def send_job(server: Served) -> Send:
    """Asks for a job on one same file."""
    file_id = upload(server.client).id
    http = server.http()

    def send(headers: dict[str, str], **settings: Any) -> httpx.Response:
        body = {"model": BASE, "training_file": file_id, **settings}
        return http.post(JOBS, json=body, headers=headers)

    return send


def send_file(server: Served, headers: dict[str, str], rows: int = 3) -> httpx.Response:
    parts = {"file": ("a.jsonl", data_set(rows)), "purpose": (None, b"fine-tune")}
    return server.http().post("/v1/files", files=list(parts.items()), headers=headers)


def key(word: str) -> dict[str, str]:
    return {"idempotency-key": word}


def retry(count: int) -> dict[str, str]:
    return {"x-stainless-retry-count": str(count)}


def jobs_of(server: Served) -> list[str]:
    return [job.id for job in server.client.fine_tuning.jobs.list()]


def stored(server: Served) -> list[str]:
    return [path.parent.name for path in server.settings.folder.rglob("[!.]*") if path.is_file()]


def test_a_request_is_known_again_by_numbers_past_64_bits(send_job: Send) -> None:
    shape = {"type": "json_schema", "name": "shape", "schema": {"maximum": 10**25}}
    settings = {"evaluation": {"grader": shape}, "training": {"validation_split": 0.5}}
    first, second = (send_job(key("large"), **settings) for _ in range(2))
    assert (first.status_code, second.json()) == (200, first.json())


def test_the_same_key_and_request_get_the_very_answer_of_the_first(
    server: Served, send_job: Send
) -> None:
    first = send_job(key("k"), suffix="mine")
    server.client.fine_tuning.jobs.cancel(first.json()["id"])
    again = send_job(key("k"), suffix="mine")
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(jobs_of(server)) == 1


def test_a_key_that_comes_again_with_another_request_is_refused(
    server: Served, send_job: Send
) -> None:
    first = send_job(key("k"), suffix="mine")
    for other in (send_job(key("k"), suffix="yours"), send_file(server, key("k"))):
        error = other.json()["error"]
        assert (other.status_code, error["code"]) == (422, "idempotency_key_reused")
        assert "new key" in error["message"]
        assert other.headers["x-should-retry"] == "false"
    assert jobs_of(server) == [first.json()["id"]]
    assert len(stored(server)) == 1


@pytest.mark.parametrize("word", ["", "k" * 256, "tab\there", "\u00fc"])
def test_a_key_that_is_not_1_to_255_printable_characters_is_refused(
    send_job: Send, word: str
) -> None:
    answer = send_job({"idempotency-key": word.encode("latin-1")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_of_many_at_once_under_one_key_one_is_made_and_all_get_its_answer(
    server: Served, send_job: Send
) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send_job(key("k")).json(), range(8)))
    assert jobs_of(server) == [answers[0]["id"]]
    assert all(answer == answers[0] for answer in answers)


class LosesTheFirstAnswer(httpx.HTTPTransport):
    lost = ""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if not self.lost:
            self.lost = answer.read().decode()
            raise httpx.ReadError("the line was cut")
        return answer


def test_the_sdk_that_lost_an_answer_gets_the_job_it_made(server: Served) -> None:
    file = upload(server.client)
    line = LosesTheFirstAnswer()
    http: Any = httpx.Client(transport=line, timeout=30)
    with OpenAI(base_url=f"{server.url}/v1", api_key=server.key, http_client=http) as client:
        job = create_job(client, file.id)
    assert job.id in line.lost
    assert jobs_of(server) == [job.id]


def test_equal_creates_that_are_no_repeats_make_one_job_each(
    server: Served, send_job: Send
) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = {answer.json()["id"] for answer in pool.map(send_job, [retry(0)] * 4)}
    assert len(made) == 4
    assert set(jobs_of(server)) == made


def test_a_repeat_of_another_request_or_of_one_long_ago_makes_a_job(
    server: Served, db: Database, send_job: Send
) -> None:
    send_job({}, suffix="mine")
    send_job(retry(1), suffix="yours")
    with db.as_control() as tx:
        tx.execute(text("UPDATE creation SET created_at = created_at - interval '16 min'"))
    send_job(retry(1), suffix="mine")
    assert len(jobs_of(server)) == 3


def test_a_repeat_is_not_of_a_create_whose_work_was_cancelled_or_deleted(
    server: Served, send_job: Send
) -> None:
    job, file = send_job({}).json(), send_file(server, {}).json()
    server.client.fine_tuning.jobs.cancel(job["id"])
    server.client.files.delete(file["id"])
    assert send_job(retry(1)).json()["status"] == "queued"
    again = send_file(server, retry(1)).json()
    assert server.client.files.retrieve(again["id"]).status == "processed"


def test_a_request_that_its_own_repeat_overtook_gets_the_answer_of_that(server: Served) -> None:
    head = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    )
    rest = data_set(3) + b"\r\n--b--\r\n"
    form = {"content-type": "multipart/form-data; boundary=b"}
    began, overtaken = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield head
        began.set()
        assert overtaken.wait(300)
        yield rest

    http = server.http()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(http.post, "/v1/files", content=slowly(), headers=form | retry(0))
        assert began.wait(300)
        # The server has the request's head by now: this one is answered after it.
        while not any(server.settings.folder.glob("incoming/*")):
            time.sleep(0.01)
        repeat = http.post("/v1/files", content=head + rest, headers=form | retry(1))
        overtaken.set()
        assert first.result().json() == repeat.json()
    assert http.post("/v1/files", content=head + rest, headers=form).json() != repeat.json()
    assert stored(server) == ["files"] * 2


def test_an_upload_that_comes_again_leaves_one_file_and_no_stray_bytes(server: Served) -> None:
    for headers in (key("k"), retry(1)):
        first = send_file(server, headers)
        assert send_file(server, headers).json() == first.json()
    assert len(server.client.files.list().data) == 2
    assert stored(server) == ["files"] * 2


def test_a_key_is_known_in_its_own_project_only(server: Served, db: Database) -> None:
    ours = send_file(server, key("k")).json()
    stranger = server.http(create_key(db, "stranger", ["read", "write"]))
    parts = {"file": ("a.jsonl", data_set(5)), "purpose": (None, b"fine-tune")}
    theirs = stranger.post("/v1/files", files=list(parts.items()), headers=key("k"))
    assert theirs.status_code == 200
    assert theirs.json()["id"] != ours["id"]


def test_a_refused_create_leaves_its_key_free(server: Served, send_job: Send) -> None:
    assert send_job(key("k"), training={"max_length": 10**6}).status_code == 400
    assert send_job(key("k")).status_code == 200
    assert len(jobs_of(server)) == 1


def test_a_crash_at_the_end_of_a_create_leaves_neither_the_job_nor_its_key(
    server: Served, send_job: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("here")

    with monkeypatch.context() as patched:
        patched.setattr("api.http.idempotency.Creation", crash)
        assert send_job(key("k")).status_code == 500
    assert jobs_of(server) == []
    assert send_job(key("k")).status_code == 200


def test_creates_are_forgotten_after_a_day(db: Database, send_job: Send) -> None:
    for word, age in (("old", "25 h"), ("new", "23 h")):
        send_job(key(word))
        with db.as_control() as tx:
            tx.execute(
                text(
                    "UPDATE creation SET created_at = created_at - :age ::interval WHERE key = :key"
                ),
                {"age": age, "key": word},
            )
    with db.as_control() as tx:
        idempotency.sweep(tx)
        kept = tx.scalars(select(Creation.key).where(Creation.key.is_not(None))).all()
    assert kept == ["new"]


def test_a_webhook_endpoint_asked_for_twice_is_one_and_its_secret_lies_nowhere_open(
    server: Served, db: Database
) -> None:
    asked = {
        "name": "mine",
        "url": "https://example.com/hook",
        "event_types": ["fine_tuning.job.succeeded"],
    }
    http = server.http()

    def send() -> dict[str, Any]:
        answer = http.post("/v1/webhook_endpoints", json=asked, headers={"Idempotency-Key": "a"})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    first = send()
    assert send() == first
    assert len(http.get("/v1/webhook_endpoints").json()["data"]) == 1
    with db.as_control() as tx:
        kept = tx.execute(text("SELECT reply::text FROM creation")).scalars().all()
    assert first["signing_secret"] not in str(kept)
    http.delete(f"/v1/webhook_endpoints/{first['id']}")
    assert http.post("/v1/webhook_endpoints", json=asked).json()["id"] != first["id"]
