"""Deliveries that arrive, are signed, tried again and replayed; and what is left of them."""

import hmac
import logging
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import openai
import psycopg
import pytest
from sqlalchemy import Engine, inspect, text

from api.admin import create_key
from api.db.session import WAKE_CHANNEL, Database
from api.janitor import Janitor
from api.storage.folder import Folder
from api.upkeep import leftovers
from api.webhooks import deliveries, outbound
from api.webhooks.courier import MOST_AT_ONCE, Courier, send
from api.webhooks.deliveries import PAUSES
from tests.api.metrics.test_metrics import scrape
from tests.api.sink import Came, Sink
from tests.api.test_janitor import wait_for
from tests.api.webhooks.hooks import (
    cancelled,
    count,
    deliver_due,
    deliveries_of,
    is_enabled,
    make_due,
    pending,
    replay,
    subscribe,
)
from tests.conftest import Served
from tests.factories import create_job


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
