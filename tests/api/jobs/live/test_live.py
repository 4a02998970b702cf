"""What can be followed while a job waits and runs."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI
from openai import Stream
from openai.types.fine_tuning import FineTuningJobEvent
from sqlalchemy import Engine, text

from api.admin import create_key
from api.db.session import Database
from api.http.edge import Edge
from api.jobs.live import stream as live
from api.main import create_app
from api.settings import Settings
from api.tenants import keys
from tests.conftest import Served
from tests.factories import create_job, worker_facts
from tunery.measured import Metrics
from tunery.messages import EventBatch, FinishRequest, JobEvent, Lease, Released
from worker.client import Client


@dataclass
class Said:
    """One message of a stream."""

    id: str | None
    event: str
    data: dict[str, Any]


@contextmanager
def streaming(
    http: httpx.Client, job_id: str, headers: dict[str, str] | None = None, **query: str | int
) -> Iterator[Iterator[Said]]:
    path = f"/v1/fine_tuning/jobs/{job_id}/stream"
    with http.stream("GET", path, params=query, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield said(answer.iter_lines())


def said(lines: Iterator[str]) -> Iterator[Said]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif not line:
            if "data" in fields:
                event = fields.get("event", "message")
                yield Said(fields.get("id"), event, json.loads(fields["data"]))
            fields = {}


def claim(worker: Client) -> Lease:
    lease = worker.claim(worker_facts())
    assert lease
    return lease


def post(worker: Client, lease: Lease, first: int, count: int = 1) -> None:
    steps = [
        JobEvent(message=f"step {number}", metrics=Metrics(step=number, train_loss=1))
        for number in range(first, first + count)
    ]
    worker.add_events(lease, EventBatch(first=first, events=steps))


def test_a_stream_has_every_event_as_it_comes_and_goes_on_after_a_cut(
    server: Served, worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PAGE", 4)  # so that the past comes in pieces
    monkeypatch.setattr(live, "LOOK_SECONDS", 60)  # so that only a notification is in time
    job = create_job(server.client)
    lease = claim(worker)
    http = server.http()
    with streaming(http, job.id) as stream:
        seen = [next(stream) for _ in range(5)]
        assert [(one.event, one.data.get("status")) for one in seen[-1:]] == [("status", "running")]
        for number in range(3):
            post(worker, lease, number)
            seen.append(next(stream))
            assert seen[-1].data["message"] == f"step {number}"
    post(worker, lease, 3, count=9)
    last = seen[-1].id
    assert last
    with streaming(http, job.id, {"last-event-id": last}, tail=1) as stream:
        seen += [next(stream) for _ in range(10)]
        server.client.fine_tuning.jobs.pause(job.id)
        server.client.fine_tuning.jobs.resume(job.id)
        server.client.fine_tuning.jobs.cancel(job.id)
        worker.finish(lease, FinishRequest(result=Released()), patience=0)
        seen += list(stream)  # it ends with the job
    stored = list(server.client.fine_tuning.jobs.list_events(job.id))
    events = [one for one in seen if one.event == "message"]
    assert [one.id for one in events] == [event.id for event in stored][::-1]
    newest = http.get(f"/v1/fine_tuning/jobs/{job.id}/events").json()["data"][0]
    assert events[-1].data == newest
    assert seen[-1].data == {"job_id": job.id, "status": "cancelled"}
    with streaming(http, job.id, tail=2) as stream:
        assert [one.id for one in stream] == [events[-2].id, events[-1].id, None]
    path = f"/v1/fine_tuning/jobs/{job.id}/stream"
    assert http.get(path, params={"after": events[-1].id}).status_code == 204
    beyond = f"{events[-1].id}9"
    for wrong in ({"after": "ftevent-x-1"}, {"after": beyond}, {"after": last, "tail": "1"}):
        assert http.get(path, params=wrong).status_code == 400


def test_a_foreign_job_has_no_stream_and_a_revoked_key_ends_it(
    server: Served, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.2)
    job = create_job(server.client)
    stranger = server.http(create_key(db, "stranger", ["read"]))
    for job_id in (job.id, "ftjob-no"):
        assert stranger.get(f"/v1/fine_tuning/jobs/{job_id}/stream").status_code == 404
    key = create_key(db, "default", ["read"])
    with streaming(server.http(key), job.id, tail=0) as stream:
        assert next(stream).event == "status"
        with db.as_control() as tx:
            keys.revoke(tx, keys.find(tx, key))
        (last,) = stream
    assert (last.event, last.data["error"]["code"]) == ("error", "invalid_api_key")


def test_the_sdk_reads_a_stream_and_a_lost_notification_costs_no_event(
    server: Served, worker: Client, owner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.1)
    job = create_job(server.client)
    lease = claim(worker)
    with owner.begin() as connection:
        connection.execute(text("ALTER TABLE event DISABLE TRIGGER events_are_told"))
    path = f"/fine_tuning/jobs/{job.id}/stream?tail=1"
    with server.client.get(
        path, cast_to=FineTuningJobEvent, stream=True, stream_cls=Stream[FineTuningJobEvent]
    ) as stream:
        # As the SDK reads it, heartbeats in between.
        assert next(stream).message == "Fine-tuning job started on worker w1"
        next(stream)
        time.sleep(3 * live.HEARTBEAT_SECONDS)
        post(worker, lease, 0)
        assert next(stream).message == "step 0"


def test_a_quiet_stream_has_a_heartbeat_however_often_its_job_is_looked_at(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.5)
    job = create_job(server.client)
    path = f"/v1/fine_tuning/jobs/{job.id}/stream?tail=0"
    with server.http(server.key).stream("GET", path, timeout=10) as answer:
        assert ": nothing new" in answer.iter_lines()


def test_many_follow_a_job_and_hold_nothing(
    server: Served, worker: Client, database_url: str
) -> None:
    job = create_job(server.client)
    lease = claim(worker)

    async def follow(http: httpx.AsyncClient, ready: asyncio.Barrier) -> list[str]:
        found: list[str] = []
        path = f"/v1/fine_tuning/jobs/{job.id}/stream?tail=0"
        async with http.stream("GET", path) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    found.append(line)
                    if len(found) == 1:
                        await ready.wait()
                    if len(found) == 4:
                        break
        return found

    async def follow_all() -> list[list[str]]:
        ready = asyncio.Barrier(51)
        headers = {"authorization": f"Bearer {server.key}"}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=server.url, headers=headers, limits=limits, timeout=60
        ) as http:
            following = [asyncio.create_task(follow(http, ready)) for _ in range(50)]
            await ready.wait()
            with psycopg.connect(database_url, autocommit=True) as connection:
                found = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' "
                    "AND pid <> pg_backend_pid() AND datname = current_database()"
                ).fetchone()
            assert found
            assert found[0] < 5
            await asyncio.to_thread(post, worker, lease, 0, 3)
            return await asyncio.gather(*following)

    first, *others = asyncio.run(follow_all())
    assert len(first) == 4
    assert all(other == first for other in others)


def test_who_leaves_is_forgotten_and_a_server_that_stops_ends_its_streams(
    settings: Settings, server: Served
) -> None:
    """As `python -m api` does: in the main thread, ended by a signal."""
    job = create_job(server.client)
    edge = create_app(settings)
    assert isinstance(edge, Edge)
    assert isinstance(edge.app, FastAPI)
    followed = edge.app.state.live.followed
    api = uvicorn.Server(uvicorn.Config(edge, port=0, log_level="warning"))
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    seen: list[Said] = []
    counts: list[int] = []

    def follow() -> None:
        while not api.started:
            time.sleep(0.01)
        port = api.servers[0].sockets[0].getsockname()[1]
        http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {server.key}"},
            timeout=60,
        )
        with http, streaming(http, job.id, tail=0) as stream:
            with streaming(http, job.id, tail=0) as another:
                next(another)
                counts.append(len(followed[job.id].followers))
            while len(followed[job.id].followers) > 1:
                time.sleep(0.01)
            seen.append(next(stream))
            os.kill(os.getpid(), signal.SIGTERM)
            seen.extend(stream)

    client = threading.Thread(target=follow)
    client.start()
    try:
        api.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    client.join(60)
    assert told.is_set()
    assert [one.event for one in seen] == ["status"]
    assert (counts, followed) == ([2], {})


def test_metrics_are_thinned_in_json_with_ends_and_extremes_kept_and_whole_in_csv(
    server: Served, worker: Client, db: Database
) -> None:
    job = create_job(server.client)
    http, path = server.http(), f"/v1/fine_tuning/jobs/{job.id}/metrics"
    empty = http.get(path).json()
    assert (empty["columns"], empty["points"], empty["thinned"]) == ([], [], False)
    assert http.get(path, params={"format": "csv"}).text == "\n"
    lease = claim(worker)
    losses = {number: 1 + 1 / number for number in range(1, 301)} | {77: 9.5, 201: 0.01}
    valid = {100: 2.5, 200: 2.25, 300: 2.75}
    steps = [
        JobEvent(
            message="a step",
            metrics=Metrics(
                step=number, train_loss=loss, valid_loss=valid.get(number), epoch=number / 100
            ),
            data={"total_steps": 400, "memory_bytes": 5, "optimizer": "words"},
        )
        for number, loss in losses.items()
    ]
    worker.add_events(lease, EventBatch(first=0, events=steps))
    whole = http.get(path).json()
    assert whole["columns"] == ["step", "train_loss", "valid_loss", "epoch", "memory_bytes"]
    assert whole["points"][99] == [100, losses[100], 2.5, 1, 5]
    facts = ("total_steps", "measured_points", "thinned")
    assert [whole[name] for name in facts] == [400, 300, False]
    found = http.get(path, params={"limit": 50}).json()
    assert (found["measured_points"], found["thinned"]) == (300, True)
    assert 10 < len(found["points"]) <= 50
    kept = [point[0] for point in found["points"]]
    assert kept == sorted(kept)
    assert {1, 77, 200, 201, 300} <= set(kept)
    by_header = http.get(path, headers={"accept": "text/csv"})
    assert by_header.headers["content-type"].startswith("text/csv")
    first, *lines = by_header.text.splitlines()
    assert (first, len(lines)) == ("step,train_loss,valid_loss,epoch,memory_bytes", 300)
    assert lines[76] == "77,9.5,,0.77,5"
    assert http.get(path, params={"limit": 5}).status_code == 400
    stranger = server.http(create_key(db, "stranger", ["read"]))
    assert stranger.get(path).status_code == 404
