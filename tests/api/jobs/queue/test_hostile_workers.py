"""What a worker says under its own lease is checked on its way in, and what was stored before that
takes nothing else down.
"""

import hashlib
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from api.db.session import Database
from api.workers import workers
from tests.api.speaking import claim
from tests.conftest import Served
from tests.factories import create_job
from tunery.messages import PROTOCOL
from tunery.wire import LONGEST_TEXT
from worker.client import Client

BIG = 2**63
VIEWS = (
    "",
    "/events?limit=100",
    "/metrics",
    "/metrics?format=csv",
    "/checkpoints",
    "/samples",
    "/attempts",
    "/logs",
    "/artifacts",
)


def event(**said: Any) -> dict[str, Any]:
    return {"first": 0, "events": [{"message": "m", **said}]}


def step(**data: Any) -> dict[str, Any]:
    return event(metrics={"step": 1, "train_loss": 1.0}, data=data)


def progress(**changed: Any) -> dict[str, Any]:
    told = {"step": 1, "total_steps": 10, "trained_tokens": 5, "seconds_left": 1.0}
    return {"first": 0, "events": [], "progress": told | changed}


def checkpoint(**changed: Any) -> dict[str, Any]:
    return {"step": 1, "epoch": 0, "metrics": {"step": 1}, "files": [], **changed}


NO_PLANS: list[Any] = ["x", [1], 0, {}, None]
SAID: list[tuple[str, dict[str, Any], int]] = [
    # Another version's plan is stored with its event, and is not the job's.
    *(("events", event(data={"plan": plan}), 204) for plan in NO_PLANS),
    ("events", event(data={"plan": {"quantization": "x"}}), 204),
    ("events", event(data={"examined": {"way": "<b>"}}), 204),
    ("events", step(total_steps="=cmd"), 400),
    ("events", step(step="zzz", train_loss="=1+1"), 204),
    ("events", step(step=10**30), 204),
    ("events", step(**{"=HYPERLINK(1)": 1.0}), 400),
    ("events", event(data={"a": "x" * 200_000}), 400),
    ("events", event(message="x" * 900_000), 204),
    ("events", event(metrics={"step": -5}), 400),
    ("events", event(metrics={"step": BIG}), 400),
    ("events", {"first": BIG, "events": []}, 400),
    ("events", {"first": 0, "events": [{"message": "m"}] * 2_000}, 400),
    *(("events", progress(seconds_left=value), 400) for value in (-1e308, -1)),
    ("events", progress(seconds_left=1e308), 204),
    *(("events", progress(total_steps=value), 400) for value in (0, -1)),
    *(("events", progress(**{name: BIG}), 400) for name in ("step", "trained_tokens")),
    ("log", {"start": BIG - 1, "bytes": 1, "text": "x"}, 400),
    ("log", {"start": 0, "bytes": 2**62, "text": "x"}, 400),
    ("uploads", {"name": "x", "bytes": 2**70, "sha256": "0" * 64}, 400),
    *(("checkpoints", checkpoint(step=value), 400) for value in (-1, BIG)),
    ("checkpoints", checkpoint(epoch=BIG), 400),
]


def test_whatever_a_worker_says_its_tenant_sees_the_job_and_all_others(
    server: Served, worker: Client, db: Database
) -> None:
    job = create_job(server.client)
    lease = claim(worker)
    assert lease
    http, path = server.http(), f"/v1/fine_tuning/jobs/{job.id}"

    def say(route: str, body: dict[str, Any]) -> httpx.Response:
        return server.http(lease.secret).post(f"/worker/v1/jobs/{job.id}/{route}", json=body)

    for number, (route, body, expected) in enumerate(SAID):
        again = {"first": number} if body.get("first") == 0 else {}
        answer = say(route, body | again)
        assert answer.status_code == expected, (route, str(body)[:200], answer.text)
        with db.as_control() as tx:
            tx.execute(text("UPDATE event SET step = NULL"))
            stored = tx.execute(text("SELECT max(length(message)) FROM event")).scalar_one()
            assert stored <= LONGEST_TEXT
    for view in VIEWS:
        assert http.get(path + view).status_code == 200, view
    shown = http.get("/v1/fine_tuning/jobs").json()["data"]
    assert [one["id"] for one in shown] == [job.id]
    assert shown[0]["tunery"]["plan"] is None

    say("events", {"first": 900, "events": [], "progress": progress()["progress"]})
    facts = put(say, server, "a.csv", b"a")
    for result in (
        {"outcome": "succeeded", "trained_tokens": 1, "files": [facts] * 2, "metrics_csv": "a.csv"},
        {"outcome": "succeeded", "trained_tokens": BIG, "files": [facts], "metrics_csv": "a.csv"},
        {"outcome": "exported", "files": [facts] * 2},
    ):
        assert say("finish", {"result": result}).status_code == 400
    long = {"failure_class": "user", "code": "x", "message": "y" * 900_000}
    word = {"result": {"outcome": "failed", "log_tail": "z" * 90_000, **long}}
    assert say("finish", word).status_code == 204
    ended = server.client.fine_tuning.jobs.retrieve(job.id)
    assert ended.error
    assert len(ended.error.message) == LONGEST_TEXT


def put(say: Any, server: Served, name: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    facts = {"name": name, "bytes": len(content), "sha256": digest}
    target = say("uploads", facts).json()["url"]
    assert httpx.put(server.url + target, content=content).status_code == 204
    return facts


def test_a_row_that_cannot_be_read_takes_no_list_down(server: Served, db: Database) -> None:
    sound, odd = create_job(server.client, metadata={"a": "b"}), create_job(server.client)
    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET plan = '\"x\"' WHERE id = :id"), {"id": odd.id})
    for change in (
        "plan = '[1]'",
        "plan = NULL, progress = '0'",
        "estimate = '{}', progress = NULL",
    ):
        with db.as_control() as tx:
            tx.execute(text(f"UPDATE job SET {change} WHERE id = :id"), {"id": odd.id})  # noqa: S608
        listed = server.client.fine_tuning.jobs.list().data
        assert [job.id for job in listed] == [odd.id, sound.id]
        assert [job.status for job in listed] == ["queued", "queued"]
        assert server.client.fine_tuning.jobs.retrieve(odd.id).status == "queued"
        assert (listed[1].model_extra or {})["tunery"]["training"]
    told = server.http(server.admin_key).get("/metrics").text
    assert 'ft_unreadable_rows_total{kind="job"}' in told


@pytest.mark.parametrize("where", ["worker", "id", "device", "build"])
def test_a_worker_is_called_by_a_plain_name_and_there_are_only_so_many(
    server: Served, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    facts = {"protocol": PROTOCOL, "worker": "gpu box.3", "device": "NVIDIA H100 80GB HBM3 (x2)"}
    asking = server.http(server.worker_key)
    assert asking.post("/worker/v1/claim", json=facts).status_code == 204
    for name in ("e\n2", "<b>x</b>", "\x1b[31m", "x" * 129, "", "a\u2028b"):
        refused = asking.post("/worker/v1/claim", json=facts | {where: name})
        assert refused.status_code == 400, name
    monkeypatch.setattr(workers, "MOST_WORKERS", 1)
    assert asking.post("/worker/v1/claim", json=facts).status_code == 204
    another = asking.post("/worker/v1/claim", json=facts | {"id": "another"})
    assert (another.status_code, "knows 1 workers" in another.text) == (409, True)
