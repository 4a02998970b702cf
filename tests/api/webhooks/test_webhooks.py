"""Endpoints as the unmodified SDK manages them; events written with what they tell of; deliveries
that arrive, are signed, tried again and replayed.
"""

import hmac
import logging
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
from openai.types.webhooks import WebhookEndpoint as Shown
from sqlalchemy import Engine, inspect, text

from api.admin import create_key
from api.db.session import WAKE_CHANNEL, Database
from api.ids import new_id
from api.janitor import Janitor
from api.jobs import state
from api.storage.folder import Folder
from api.upkeep import leftovers
from api.webhooks import deliveries, endpoints, outbound, outbox
from api.webhooks.courier import MOST_AT_ONCE, Courier, send
from api.webhooks.deliveries import PAUSES
from api.webhooks.outbox import EventType
from tests.api.metrics.test_metrics import scrape
from tests.api.sink import Came, Sink, sink
from tests.api.speaking import ADAPTER, claim, directive, failed, finish, succeeded
from tests.api.speaking import send as upload_files
from tests.api.test_janitor import wait_for
from tests.conftest import Served
from tests.factories import create_job, upload
from tunery import messages
from tunery.measured import Metrics
from tunery.states import FailureClass, JobState
from worker.client import Client

URL = "https://hooks.example.com/tunery"
ALL: list[Any] = list(EventType)


@pytest.fixture
def trial(serve_with: Callable[..., Served]) -> Served:
    """A server that may deliver to this machine. It leaves files unchecked, which saves time: a job
    that waits for its files is cancelled like any other.
    """
    return serve_with(webhooks_to_private_addresses=True, check_at_once_bytes=0)


@pytest.fixture
def receiver() -> Iterator[Sink]:
    with sink() as made:
        yield made


def subscribe(client: openai.OpenAI, url: str = URL, types: list[Any] | None = None) -> Any:
    return client.webhooks.create(name="ours", url=url, event_types=types or ALL)


def deliveries_of(server: Served, endpoint: Any, **query: Any) -> list[dict[str, Any]]:
    """Newest first."""
    answer = server.http().get(f"/v1/webhook_endpoints/{endpoint.id}/deliveries", params=query)
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def replay(server: Served, endpoint: Any, delivery: dict[str, Any]) -> Any:
    path = f"/v1/webhook_endpoints/{endpoint.id}/deliveries/{delivery['id']}/replay"
    return server.http().post(path)


def deliver_due(server: Served, db: Database) -> int:
    """As the janitor does, one after the other."""
    courier, made = Courier(server.settings, db), 0
    while claimed := courier.claim():
        courier.deliver(*claimed)
        made += 1
    return made


def make_due(db: Database) -> None:
    """As if every pause, and every claim of a courier, were over."""
    with db.as_control() as tx:
        tx.execute(text("UPDATE webhook_delivery SET next_at = now() WHERE next_at IS NOT NULL"))
        tx.execute(text("UPDATE webhook_endpoint SET free_at = now()"))


def cancelled(client: openai.OpenAI, jobs: int = 1) -> list[str]:
    """The ids of so many jobs, each told of once."""
    file = upload(client)
    made = [create_job(client, file.id).id for _ in range(jobs)]
    for job_id in made:
        client.fine_tuning.jobs.cancel(job_id)
    return made


def count(db: Database, table: str) -> int:
    with db.as_control() as tx:
        return int(tx.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608


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


# --- Deliveries ---


def test_what_arrives_is_verified_by_the_sdk_and_by_hand(
    trial: Served, db: Database, receiver: Sink
) -> None:
    endpoint = subscribe(trial.client, receiver.url, ["fine_tuning.job.cancelled"])
    job_id = create_job(trial.client).id
    with waking(trial):
        trial.client.fine_tuning.jobs.cancel(job_id)
    assert deliver_due(trial, db) == 1
    assert deliver_due(trial, db) == 0
    (came,) = receiver.came
    secret = endpoint.signing_secret
    event = trial.client.webhooks.unwrap(came.body, came.headers, secret=secret)
    assert event.type == "fine_tuning.job.cancelled"
    assert event.data.id == job_id
    assert event.object == "event"
    assert abs(event.created_at - time.time()) < 60
    assert came.headers["webhook-id"] == event.id
    assert came.headers["content-type"] == "application/json"
    assert signature_by_hand(came, secret) == came.headers["webhook-signature"]
    (delivery,) = deliveries_of(trial, endpoint)
    assert delivery["event"] == event.to_dict()
    assert (delivery["status"], delivery["attempts"], delivery["status_code"]) == (
        "delivered",
        1,
        200,
    )
    assert (delivery["error"], delivery["next_attempt_at"]) == (None, None)
    assert delivery["finished_at"]
    # Forged, or an old one sent again.
    old = came.headers | {"webhook-timestamp": str(int(time.time()) - 301)}
    for body, headers in ((came.body + b" ", came.headers), (came.body, old)):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            trial.client.webhooks.unwrap(body, headers, secret=secret)


@contextmanager
def waking(server: Served) -> Iterator[None]:
    """What is done in here wakes the janitors."""
    url = server.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"LISTEN {WAKE_CHANNEL}")
        yield
        assert list(connection.notifies(timeout=60, stop_after=1))


def signature_by_hand(came: Came, secret: str) -> str:
    signed = f"{came.headers['webhook-id']}.{came.headers['webhook-timestamp']}.".encode()
    key = b64decode(secret.removeprefix("whsec_"))
    return "v1," + b64encode(hmac.digest(key, signed + came.body, "sha256")).decode()


def test_after_a_rotation_the_old_secret_is_good_for_a_day_if_asked_for(
    trial: Served, db: Database, receiver: Sink
) -> None:
    client = trial.client
    endpoint = subscribe(client, receiver.url)
    secrets = [endpoint.signing_secret]

    def good() -> list[bool]:
        """Which of the secrets so far verify what is sent now."""
        client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
        came = receiver.came[-1]
        signed = came.headers["webhook-signature"].split()
        return [signature_by_hand(came, secret) in signed for secret in secrets]

    keep = client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True)
    secrets.append(keep.signing_secret)
    assert good() == [True, True]
    with db.as_control() as tx:
        day = "UPDATE webhook_endpoint SET old_secret_until = old_secret_until - interval '24 h'"
        tx.execute(text(day))
    assert good() == [False, True]
    secrets.append(client.webhooks.rotate_secret(endpoint.id).signing_secret)
    assert good() == [False, False, True]


def test_a_delivery_in_vain_is_tried_again_until_it_has_failed(
    trial: Served, db: Database, receiver: Sink
) -> None:
    endpoint = subscribe(trial.client, receiver.url)
    cancelled(trial.client)
    receiver.answers = [500, 302, *[503] * 8]
    for attempt, pause in enumerate(PAUSES, start=1):
        asked = time.time()
        assert deliver_due(trial, db) == 1
        (delivery,) = deliveries_of(trial, endpoint)
        assert (delivery["status"], delivery["attempts"]) == ("pending", attempt)
        waits = delivery["next_attempt_at"] - asked
        assert pause * 0.8 - 2 <= waits <= pause * 1.2 + 10
        make_due(db)
        if attempt == 2:
            assert (delivery["status_code"], delivery["error"]) == (
                302,
                "Redirects are not followed.",
            )
    assert deliver_due(trial, db) == 1
    (delivery,) = deliveries_of(trial, endpoint)
    assert (delivery["status"], delivery["attempts"]) == ("failed", 10)
    assert delivery["next_attempt_at"] is None
    assert {came.path for came in receiver.came} == {"/hook"}
    assert len({came.body for came in receiver.came}) == 1
    assert len({came.headers["webhook-id"] for came in receiver.came}) == 1

    shown = trial.client.webhooks.retrieve(endpoint.id).to_dict()
    assert shown["tunery"] == {
        "enabled": False,
        "disabled_at": pytest.approx(delivery["finished_at"], abs=20),
        "disabled_because": "Nothing reached it for three days.",
    }
    cancelled(trial.client)
    assert len(deliveries_of(trial, endpoint)) == 1, "nothing more is written for it"
    refused = replay(trial, endpoint, delivery)
    assert refused.status_code == 409
    assert "Enable it first" in refused.json()["error"]["message"]
    enabled = trial.client.webhooks.update(endpoint.id, extra_body={"enabled": True}).to_dict()
    assert enabled["tunery"] == {"enabled": True, "disabled_at": None, "disabled_because": None}
    with waking(trial):
        assert replay(trial, endpoint, delivery).json()["status"] == "pending"
    assert deliver_due(trial, db) == 1
    (delivery,) = deliveries_of(trial, endpoint)
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 11)
    assert receiver.came[-1].body == receiver.came[0].body
    assert scrape(trial)["ft_webhook_deliveries_total"] == {
        ("delivered",): 1,
        ("refused",): 10,
        ("unreachable",): 0,
        ("blocked",): 0,
    }


def test_one_that_hears_others_stays_enabled_until_it_is_gone(
    trial: Served, db: Database, receiver: Sink
) -> None:
    endpoint = subscribe(trial.client, receiver.url)
    cancelled(trial.client, 2)
    with db.as_control() as tx:
        spent = "UPDATE webhook_delivery SET attempts = 9 WHERE sequence = :first"
        first = tx.execute(text("SELECT min(sequence) FROM webhook_delivery")).scalar_one()
        tx.execute(text(spent), {"first": first})
        later = "UPDATE webhook_delivery SET next_at = now() + interval '1 h' WHERE sequence = :id"
        tx.execute(text(later), {"id": first})
    assert deliver_due(trial, db) == 1
    make_due(db)
    receiver.answers = [500]
    assert deliver_due(trial, db) == 1
    assert [one["status"] for one in deliveries_of(trial, endpoint)] == ["delivered", "failed"]
    assert is_enabled(trial.client.webhooks.retrieve(endpoint.id))

    cancelled(trial.client, 2)
    receiver.answers = [410]
    assert deliver_due(trial, db) == 1
    after_it, gone, *_ = deliveries_of(trial, endpoint)
    assert (gone["status"], gone["status_code"]) == ("failed", 410)
    assert (after_it["status"], after_it["attempts"]) == ("failed", 0)
    assert after_it["error"] == "The endpoint was disabled. It answered 410 (Gone)."
    assert not is_enabled(trial.client.webhooks.retrieve(endpoint.id))


def is_enabled(endpoint: Shown) -> bool:
    return bool(endpoint.to_dict()["tunery"]["enabled"])  # type: ignore[index]


def test_an_attempt_cut_off_before_it_was_recorded_is_made_again_under_the_same_id(
    trial: Served, db: Database, receiver: Sink
) -> None:
    import asyncio

    endpoint = subscribe(trial.client, receiver.url)
    cancelled(trial.client)
    courier = Courier(trial.settings, db)
    with db.as_control() as tx:
        tx.execute(text("UPDATE webhook_delivery SET next_at = now() - interval '50 s'"))
        tx.execute(text("UPDATE webhook_endpoint SET free_at = now() - interval '50 s'"))
    assert scrape(trial)["ft_outbox_lag_seconds"][()] == pytest.approx(50, abs=20)
    claimed = courier.claim()
    assert claimed
    assert scrape(trial)["ft_outbox_lag_seconds"] == {(): 0}, "somebody is at it"
    stalled, parcel = claimed
    outcome = asyncio.run(send(trial.settings, parcel))
    assert deliver_due(trial, db) == 0, "it may still be under way"
    make_due(db)
    receiver.answers = [500]
    assert deliver_due(trial, db) == 1
    assert [came.headers["webhook-id"] for came in receiver.came] == [parcel.event_id] * 2
    assert receiver.came[0].body == receiver.came[1].body
    with db.as_control() as tx:
        deliveries.record(tx, stalled, outcome)
    (delivery,) = deliveries_of(trial, endpoint)
    assert (delivery["status"], delivery["attempts"]) == ("pending", 2), "the stalled one is over"


def test_a_slow_endpoint_holds_up_itself_alone(
    serve_with: Callable[..., Served],
    db: Database,
    receiver: Sink,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The janitors' own way: any number of them, each attempt in a thread."""
    go_on, at_once, most = threading.Event(), [0], [0]
    counting = threading.Lock()

    def hang(path: str) -> None:
        if path == "/slow":
            with counting:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            go_on.wait(50)
            with counting:
                at_once[0] -= 1

    trial = serve_with(webhooks_to_private_addresses=True)
    monkeypatch.setattr(outbound, "SECONDS", 55)
    receiver.before = hang
    subscribe(trial.client, receiver.url.replace("/hook", "/slow"))
    neighbour = trial.client_for(create_key(db, "neighbour", ["read", "write"]))
    subscribe(neighbour, receiver.url)
    cancelled(trial.client, 3)
    janitors = [Janitor(trial.settings) for _ in range(2)]
    for janitor in janitors:
        janitor.sweep()
    cancelled(neighbour, 3)
    began = time.monotonic()
    for janitor in janitors:
        janitor.sweep()
    assert time.monotonic() - began < 30, "a sweep waits for no endpoint"

    def arrived(path: str) -> int:
        return sum(came.path == path for came in receiver.came)

    wait_for(lambda: arrived("/hook") == 3, 45)
    assert arrived("/slow") == 1
    go_on.set()
    wait_for(lambda: arrived("/slow") == 3, 60)
    # Each looks once more before it ends.
    wait_for(lambda: all(one.courier.free._value == MOST_AT_ONCE for one in janitors), 30)
    assert pending(db) == 0
    for janitor in janitors:
        janitor.db.close()
    assert most == [1]
    assert len({came.headers["webhook-id"] for came in receiver.came}) == 6


def pending(db: Database) -> int:
    with db.as_control() as tx:
        waiting = "SELECT count(*) FROM webhook_delivery WHERE state = 'pending'"
        return int(tx.execute(text(waiting)).scalar_one())


def test_a_sample_is_sent_at_once_and_its_answer_shown(trial: Served, receiver: Sink) -> None:
    endpoint = subscribe(trial.client, receiver.url)
    receiver.answers = [204, 503]
    for status in (204, 503):
        tried = trial.client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
        assert (tried.status_code, tried.success, tried.event_type) == (
            status,
            True,
            "fine_tuning.job.failed",
        )
        assert (tried.object, tried.webhook_endpoint_id) == ("webhook_endpoint.test", endpoint.id)
    came = receiver.came[0]
    secret = endpoint.signing_secret
    event = trial.client.webhooks.unwrap(came.body, came.headers, secret=secret)
    assert event.type == "fine_tuning.job.failed"
    # Ours, which the SDK has no class for, verifies too.
    trial.http().post(
        f"/v1/webhook_endpoints/{endpoint.id}/test", json={"event_type": "fine_tuning.job.started"}
    )
    came = receiver.came[-1]
    event = trial.client.webhooks.unwrap(came.body, came.headers, secret=secret)
    assert event.type == "fine_tuning.job.started"  # type: ignore[comparison-overlap]
    assert deliveries_of(trial, endpoint) == []
    trial.client.webhooks.update(endpoint.id, url="http://127.0.0.1:1/")
    with pytest.raises(openai.BadRequestError, match="Nothing was delivered: ConnectError"):
        trial.client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")


def test_an_endpoint_that_turns_out_to_be_inside_is_not_reached(
    trial: Served, server: Served, db: Database, receiver: Sink
) -> None:
    """It was made where this machine may be delivered to, and it may not any more."""
    endpoint = subscribe(trial.client, receiver.url)
    with pytest.raises(openai.BadRequestError, match="must begin with https"):
        server.client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
    cancelled(server.client)
    assert deliver_due(server, db) == 1
    (delivery,) = deliveries_of(server, endpoint)
    assert (delivery["status"], receiver.came) == ("pending", [])
    assert "must begin with https" in delivery["error"]
    assert scrape(server)["ft_webhook_deliveries_total"]["blocked",] == 1


# --- Secrets, figures, leftovers ---


def test_no_signing_secret_is_in_the_database_or_the_logs(
    trial: Served, db: Database, owner: Engine, receiver: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = subscribe(trial.client, receiver.url)
    rotated = trial.client.webhooks.rotate_secret(
        endpoint.id, keep_old_secret_active_for_24_hours=True
    )
    cancelled(trial.client)
    assert deliver_due(trial, db) == 1
    with owner.connect() as connection:
        dump = "".join(
            str(row)
            for table in inspect(owner).get_table_names()
            for row in connection.execute(text(f'SELECT * FROM "{table}"'))  # noqa: S608
        )
    logged = "".join(record.getMessage() for record in caplog.records)
    assert endpoint.id in dump
    assert "delivered" in logged
    for secret in (endpoint.signing_secret, rotated.signing_secret):
        encoded = secret.removeprefix("whsec_")
        for form in (encoded, b64decode(encoded).hex(), str(b64decode(encoded))):
            assert form not in dump
            assert form not in logged


def test_what_was_told_a_month_ago_is_forgotten_unless_it_is_still_to_be_sent(
    trial: Served, db: Database, receiver: Sink
) -> None:
    endpoint = subscribe(trial.client, receiver.url)
    cancelled(trial.client, 3)
    with db.as_control() as tx:
        tx.execute(text("UPDATE webhook_event SET created_at = now() - interval '31 d'"))
    assert deliver_due(trial, db) == 3
    _, again, _ = deliveries_of(trial, endpoint)
    assert replay(trial, endpoint, again).status_code == 200
    (new,) = cancelled(trial.client)
    leftovers.clear(db, Folder(trial.settings.folder, "secret"))
    kept = deliveries_of(trial, endpoint)
    assert [one["event"]["data"]["id"] for one in kept] == [new, again["event"]["data"]["id"]]
    assert count(db, "webhook_event") == 2
