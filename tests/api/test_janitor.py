"""Redis carries wake-ups and nothing else: losing it costs a moment, never a job."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import text

from api.db.session import Database
from api.files import files
from api.janitor import Broker, Janitor
from api.settings import Settings
from tests.api.speaking import claim
from tests.conftest import Served
from tests.factories import create_job, let_leases_run_out
from tests.stores import Stores
from tunery.messages import WAKE_QUEUE
from worker.client import Client


@pytest.fixture
def queue(stores: Stores) -> Iterator["redis.Redis"]:
    client = redis.Redis.from_url(stores.redis_url)
    client.flushall()
    yield client
    client.flushall()
    client.close()


def test_a_new_job_wakes_a_worker_at_once(
    server: Served, stores: Stores, queue: "redis.Redis", tmp_path: Path
) -> None:
    settings = server.settings
    env = {
        "PATH": os.defpath,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": stores.redis_url,
        "TUNERY_STORAGE": str(settings.folder),
        "TUNERY_SECRET": settings.secret.get_secret_value(),
        # So rarely that only the notification can be what woke it.
        "TUNERY_SWEEP_SECONDS": "3600",
    }
    with (tmp_path / "log").open("w") as log:
        janitor = subprocess.Popen([sys.executable, "-m", "api.janitor"], env=env, stderr=log)
    try:
        wait_for(lambda: "LISTEN" in activity(server), 60)
        create_job(server.client)
        wait_for(lambda: queue.llen(WAKE_QUEUE) == 1, 60)
        janitor.terminate()
        assert janitor.wait(60) == 0
    finally:
        janitor.kill()
        janitor.wait()


def activity(server: Served) -> str:
    import psycopg

    url = server.settings.database_url.get_secret_value()
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT query FROM pg_stat_activity").fetchall()
    return " ".join(str(row[0]) for row in rows)


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def test_wake_ups_do_not_pile_up_while_no_worker_reads_them(
    server: Served, queue: "redis.Redis"
) -> None:
    janitor = Janitor(server.settings)
    for _ in range(3):
        create_job(server.client)
    for _ in range(5):
        janitor.sweep()
    janitor.db.close()
    assert queue.llen(WAKE_QUEUE) == 3


def test_an_empty_queue_wakes_nobody(server: Served, queue: "redis.Redis") -> None:
    janitor = Janitor(server.settings)
    janitor.sweep()
    janitor.db.close()
    assert queue.llen(WAKE_QUEUE) == 0


def test_a_redis_that_is_down_or_frozen_does_not_hold_up_the_janitor(
    server: Served, settings: Settings
) -> None:
    create_job(server.client)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        port = frozen.getsockname()[1]
        for url in (f"redis://127.0.0.1:{port}/0", "redis://127.0.0.1:1/0"):
            janitor = Janitor(settings.model_copy(update={"redis_url": SecretStr(url)}))
            began = time.monotonic()
            janitor.sweep()
            assert time.monotonic() - began < 60
            janitor.db.close()


def test_a_lost_wake_up_is_sent_again(server: Served, queue: "redis.Redis") -> None:
    janitor = Janitor(server.settings)
    create_job(server.client)
    janitor.sweep()
    queue.flushall()
    janitor.sweep()
    janitor.db.close()
    assert queue.llen(WAKE_QUEUE) == 1


def test_a_broker_is_asked_for_no_more_than_it_has_to_carry(
    stores: Stores, queue: "redis.Redis"
) -> None:
    Broker(stores.redis_url).wake(1000)
    assert queue.llen(WAKE_QUEUE) == 16


def test_many_janitors_at_once_do_what_one_does(
    serve_with: Callable[..., Served], db: Database, queue: "redis.Redis"
) -> None:
    server = serve_with(lease_seconds=600)  # however slow all of this is, no API was away
    worker = Client(server.url, server.worker_key)
    jobs = [create_job(server.client) for _ in range(6)]
    for _ in jobs:
        assert claim(worker)
    with db.as_control() as tx:
        let_leases_run_out(tx)
    janitors = [Janitor(server.settings) for _ in range(4)]
    with ThreadPoolExecutor(len(janitors)) as pool:
        list(pool.map(Janitor.sweep, janitors))
    for janitor in janitors:
        janitor.db.close()
    worker.http.close()
    for job in jobs:
        said = [event.message for event in server.client.fine_tuning.jobs.list_events(job.id)]
        assert sum("was not heard of in time" in message for message in said) == 1
        assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    assert 6 <= queue.llen(WAKE_QUEUE) <= 6 * len(janitors)


def test_a_check_that_crashes_is_tried_again_and_then_ends_the_file_and_its_jobs(
    serve_with: Callable[..., Served], db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve_with(check_at_once_bytes=1)
    job = create_job(server.client)
    janitor = Janitor(server.settings)

    def crash(*_: object, **__: object) -> None:
        raise OSError(7, "Argument list too long")

    monkeypatch.setattr(files, "check_in_subprocess", crash)
    statuses = []
    for _ in range(files.MOST_CHECKS):
        with db.as_control() as tx:
            tx.execute(text("UPDATE file SET checking_until = NULL"))
            file = janitor.next_unchecked(tx)
        assert file
        janitor.check(file)
        statuses.append(server.client.files.retrieve(file.id).status)
    assert statuses == ["uploaded", "uploaded", "error"]
    ended = server.client.fine_tuning.jobs.retrieve(job.id)
    assert (ended.status, ended.error is not None) == ("failed", True)
    assert "the service failed in each of 3 checks" in str(ended.error)
    janitor.db.close()
