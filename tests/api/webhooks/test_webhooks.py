"""Endpoints as the unmodified SDK manages them; events written with what they tell of."""

import threading
import time
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import text

from api.admin import create_key
from api.db.session import Database
from api.ids import new_id
from api.jobs import state
from api.webhooks import endpoints, outbox
from tests.api.speaking import ADAPTER, claim, directive, failed, finish, succeeded
from tests.api.speaking import send as upload_files
from tests.api.webhooks.hooks import (
    ALL,
    URL,
    cancelled,
    count,
    deliveries_of,
    is_enabled,
    pending,
    subscribe,
)
from tests.conftest import Served
from tests.factories import create_job
from tunery import messages
from tunery.measured import Metrics
from tunery.states import FailureClass, JobState
from worker.client import Client

# --- Endpoints ---


def test_endpoints_are_managed_as_the_sdk_does(
    server: Served, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.client
    types: list[Any] = ["fine_tuning.job.failed", "fine_tuning.job.succeeded"]
    made = client.webhooks.create(name="ours", url=URL, event_types=[*types, types[0]])
    key = b64decode(made.signing_secret.removeprefix("whsec_"), validate=True)
    assert made.signing_secret.startswith("whsec_")
    assert len(key) == 32
    kept = client.webhooks.retrieve(made.id)
    assert (kept.object, kept.name, kept.url, kept.event_types) == (
        "webhook_endpoint",
        "ours",
        URL,
        types,
    )
    assert kept.created_at == kept.updated_at
    assert kept.signing_secret_hint == f"whsec_...{made.signing_secret[-4:]}"
    assert made.signing_secret not in kept.to_json()

    with db.as_control() as tx:
        tx.execute(text("UPDATE webhook_endpoint SET updated_at = now() - interval '1 h'"))
    same = client.webhooks.update(made.id, name="ours", event_types=types)
    assert same == client.webhooks.update(made.id)
    assert (same.updated_at or 0) < kept.created_at
    changed = client.webhooks.update(made.id, name="new", url=f"{URL}/2", event_types=types[:1])
    assert (changed.name, changed.url, changed.event_types) == ("new", f"{URL}/2", types[:1])
    assert (changed.updated_at or 0) >= kept.created_at
    rotated = client.webhooks.rotate_secret(made.id)
    assert rotated.signing_secret != made.signing_secret

    others = [subscribe(client).id for _ in range(7)]
    assert [one.id for one in client.webhooks.list(limit=3)] == [*reversed(others), made.id]
    page = client.webhooks.list(limit=3)
    assert (len(page.data), page.has_more) == (3, True)

    def slow_id(prefix: str) -> str:
        """Time enough for all to be counted before one is there."""
        time.sleep(0.2)
        return new_id(prefix)

    monkeypatch.setattr(endpoints, "new_id", slow_id)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(subscribe, client) for _ in range(4)]
    refused = [one.exception() for one in asked if one.exception()]
    assert len(refused) == 2, "there may be ten"
    assert all(isinstance(error, openai.ConflictError) for error in refused)
    assert "10 webhook endpoints, which is the most" in str(refused[0])
    gone = client.webhooks.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "webhook_endpoint.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(made.id)
    assert client.webhooks.event_types.list().data == ALL


def test_what_cannot_work_is_refused_with_its_field(server: Served) -> None:
    endpoint = subscribe(server.client)
    good = {"name": "a", "url": URL, "event_types": ALL}
    for path, body, param in (
        ("", good | {"url": "https://[::ffff:127.0.0.1]/"}, "url"),
        ("", good | {"event_types": ["batch.completed"]}, "event_types.0"),
        ("", good | {"event_types": []}, "event_types"),
        ("", good | {"name": ""}, "name"),
        ("", good | {"name": "a\x00"}, "name"),
        ("", good | {"secret": "mine"}, "secret"),
        ("", {"name": "a", "url": URL}, "event_types"),
        (f"/{endpoint.id}", {"url": "https://2130706433/"}, "url"),
        (f"/{endpoint.id}", {"name": None}, "name"),
        (f"/{endpoint.id}/rotate_secret", {"keep": True}, "keep"),
        (f"/{endpoint.id}/test", {"event_type": "batch.failed"}, "event_type"),
    ):
        answer = server.http().post(f"/v1/webhook_endpoints{path}", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    for path in ("", f"/{endpoint.id}/deliveries"):
        answer = server.http().get(f"/v1/webhook_endpoints{path}?after=no")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")
    assert server.client.webhooks.retrieve(endpoint.id).url == URL


def test_endpoints_and_deliveries_of_another_project_are_as_if_they_were_not(
    server: Served, db: Database
) -> None:
    endpoint = subscribe(server.client)
    cancelled(server.client)
    (delivery,) = deliveries_of(server, endpoint)
    other = create_key(db, "other", ["read", "write"])
    own = subscribe(server.client_for(other))
    ids = {
        "": [endpoint.id, "whe_x"],
        "/deliveries": [endpoint.id, "whe_x"],
        f"/deliveries/{delivery['id']}/replay": [endpoint.id, "whe_x"],
        "/rotate_secret": [endpoint.id, "whe_x"],
    }
    for path, (known, unknown) in ids.items():
        method = "GET" if path in {"", "/deliveries"} else "POST"
        said = []
        for name in (known, unknown):
            answer = server.http(other).request(method, f"/v1/webhook_endpoints/{name}{path}")
            assert answer.status_code == 404
            said.append(answer.json()["error"]["message"].replace(name, "ID"))
        assert said[0] == said[1]
    path = f"/v1/webhook_endpoints/{own.id}/deliveries/{delivery['id']}/replay"
    assert server.http(other).post(path).status_code == 404
    reader = server.client_for(create_key(db, "default", ["read"]))
    assert reader.webhooks.retrieve(endpoint.id).id == endpoint.id
    for refused in (reader.webhooks.delete, reader.webhooks.rotate_secret, reader.webhooks.update):
        with pytest.raises(openai.PermissionDeniedError):
            refused(endpoint.id)


# --- What is written, and when ---


def test_each_change_is_told_once_to_those_who_ask_and_nobody_else(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    cancelled(server.client)
    assert count(db, "webhook_event") == 0, "nobody asked"
    everything = subscribe(server.client)
    ends = subscribe(server.client, types=["fine_tuning.job.succeeded"])
    stranger = server.client_for(create_key(db, "stranger", ["read", "write"]))
    foreign = subscribe(stranger)

    job_id = create_job(server.client).id
    lease = claim(worker)
    assert lease
    files = upload_files(worker, lease, tmp_path, {"state.bin": b"state"})
    written = messages.CheckpointWritten(step=1, epoch=0, metrics=Metrics(step=1), files=files)
    for _ in range(2):
        worker.add_checkpoint(lease, written, patience=0)
    server.client.fine_tuning.jobs.pause(job_id)
    assert directive(worker, lease) == "pause"
    for _ in range(2):
        finish(worker, lease, messages.Released())
    server.client.fine_tuning.jobs.resume(job_id)
    lease = claim(worker)
    assert lease
    result = succeeded(upload_files(worker, lease, tmp_path, ADAPTER))
    for _ in range(2):
        finish(worker, lease, result)
    (dropped,) = cancelled(server.client)
    failing = create_job(server.client, server.client.files.list().data[0].id).id
    lease = claim(worker)
    assert lease
    finish(worker, lease, failed(FailureClass.USER))

    told = [
        (one["event"]["type"].removeprefix("fine_tuning.job."), one["event"]["data"]["id"])
        for one in reversed(deliveries_of(server, everything))
    ]
    assert told == [
        *((what, job_id) for what in ("started", "checkpoint", "paused", "started", "succeeded")),
        ("cancelled", dropped),
        ("started", failing),
        ("failed", failing),
    ]
    (one,) = deliveries_of(server, ends)
    assert one["event"]["data"] == {"id": job_id}
    assert one["event"]["id"] in {each["event"]["id"] for each in deliveries_of(server, everything)}
    with db.as_control() as tx:
        rows = "SELECT count(*) FROM webhook_delivery WHERE endpoint_id = :id"
        assert tx.execute(text(rows), {"id": foreign.id}).scalar_one() == 0
    newest = deliveries_of(server, everything, limit=3)
    older = deliveries_of(server, everything, limit=100, after=newest[-1]["id"])
    assert [one["id"] for one in newest + older] == [
        one["id"] for one in deliveries_of(server, everything)
    ]


def test_what_is_taken_back_was_never_told(server: Served, db: Database) -> None:
    subscribe(server.client)
    job = create_job(server.client)

    def cancel_and_crash() -> None:
        with db.as_control() as tx:
            moved = state.move(
                tx, job.id, expected={JobState.QUEUED}, to=JobState.CANCELLED, message="over"
            )
            assert moved
            assert tx.execute(text("SELECT count(*) FROM webhook_delivery")).scalar_one() == 1
            raise RuntimeError("a crash before the commit")

    with pytest.raises(RuntimeError, match="a crash"):
        cancel_and_crash()
    assert (count(db, "webhook_event"), count(db, "webhook_delivery")) == (0, 0)


def test_nothing_is_written_for_an_endpoint_that_is_being_disabled(
    server: Served, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at who asks and the delivery's row."""
    endpoint = subscribe(server.client)
    disabling = threading.Thread(
        target=server.client.webhooks.update,
        args=(endpoint.id,),
        kwargs={"extra_body": {"enabled": False}},
    )

    def id_and_disable(prefix: str) -> str:
        if prefix == "evt_":
            disabling.start()
            disabling.join(0.3)
        return new_id(prefix)

    monkeypatch.setattr(outbox, "new_id", id_and_disable)
    cancelled(server.client)
    disabling.join()
    assert not is_enabled(server.client.webhooks.retrieve(endpoint.id))
    assert pending(db) == 0
