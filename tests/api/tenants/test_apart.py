"""Whatever one project asks for, others and the workers are served beside it."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from api.admin import create_key
from api.db.session import Database
from api.files import files
from api.janitor import Janitor
from api.tenants.places import Places
from tests.answering_worker import LOCKS_WAITED_FOR, wait_until
from tests.api.jobs.live.test_live import streaming
from tests.api.speaking import claim, directive
from tests.conftest import BASE, Served
from tests.factories import create_job, data_set, join_checks, upload
from tunery.errors import RateLimited
from worker.client import Client


@pytest.fixture
def neighbour(db: Database) -> str:
    return create_key(db, "neighbour", ["read", "write"])


def test_who_waits_for_a_lock_keeps_no_other_project_and_no_worker_waiting(
    server: Served, worker: Client, neighbour: str
) -> None:
    file = upload(server.client)
    create_job(server.client, file.id)
    lease = claim(worker)
    assert lease
    body = {"model": BASE, "training_file": file.id}
    with (
        psycopg.connect(server.settings.database_url.get_secret_value()) as another_process,
        ThreadPoolExecutor(60) as crowd,
    ):
        project = server.http().get("/v1/project").json()["id"]
        another_process.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"quota {project}"]
        )
        asked = [
            crowd.submit(server.http().post, "/v1/fine_tuning/jobs", json=body | {"seed": n})
            for n in range(60)
        ]
        locks = another_process.execute
        wait_until(lambda: locks(LOCKS_WAITED_FOR).fetchone() != (0,))
        assert server.http(neighbour).get("/v1/files").status_code == 200
        assert directive(worker, lease) == "run"
        assert server.http().get("/readyz").status_code == 200
        assert server.http().get("/v1/files").status_code == 200, "its own reads go on too"
        assert sum(each.done() for each in asked) < 20, "they still wait"
        another_process.rollback()
        answers = [each.result() for each in asked]
    assert {answer.status_code for answer in answers} <= {200, 429}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(one.json()["error"]["code"] == "rate_limit_exceeded" for one in refused)
    assert all(int(one.headers["retry-after"]) > 0 for one in refused)


def test_a_project_has_so_many_requests_open_and_others_are_served_beside_them(
    serve_with: Callable[..., Served], db: Database
) -> None:
    server = serve_with(requests_at_once=3)
    job = create_job(server.client)
    with ExitStack() as streams:
        following = [streams.enter_context(streaming(server.http(), job.id)) for _ in range(3)]
        for stream in following:
            next(stream)
        refused = server.http().get("/v1/files")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) > 0
        other = server.http(create_key(db, "neighbour", ["read"]))
        assert other.get("/v1/files").status_code == 200
    until = time.monotonic() + 30
    while server.http().get("/v1/files").status_code != 200:
        assert time.monotonic() < until, "who has left still counts"


def test_a_free_place_goes_to_the_project_with_the_fewest_and_a_line_has_an_end() -> None:
    served = []
    doors = asyncio.Event()

    async def come(places: Places, name: str) -> None:
        async with places.place(name):
            served.append(name)
            await doors.wait()

    async def crowd() -> None:
        places = Places("trials", 2, each=2, line=5, seconds=60)
        first = [asyncio.create_task(come(places, "a")) for _ in range(7)]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="Too many trials"):
            await come(places, "a")
        gone = asyncio.create_task(come(places, "c"))
        others = [asyncio.create_task(come(places, "b")) for _ in range(2)]
        await asyncio.sleep(0)
        gone.cancel()
        doors.set()
        await asyncio.gather(*first, *others)
        await come(places, "c")
        assert not places.taken
        assert not places.lines

    async def in_time() -> None:
        async with asyncio.timeout(30):
            await crowd()

    asyncio.run(in_time())
    assert served[:2] == ["a", "a"]
    assert "b" in served[2:4], "not behind all that came before it"
    assert (served.count("a"), served.count("b"), served[-1]) == (7, 2, "c")


def test_a_file_is_checked_beside_those_of_another_project_and_not_after_them(
    serve_with: Callable[..., Served], db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve_with(check_at_once_bytes=1)
    hostile, free = "hostile.jsonl", threading.Event()
    check = files.check_in_subprocess

    def hold_up(path: Any, name: str, *more: Any) -> dict[str, Any] | None:
        if name == hostile:
            free.wait(60)
        return check(path, name, *more)

    monkeypatch.setattr(files, "check_in_subprocess", hold_up)
    for _ in range(12):
        upload(server.client, data_set(2), hostile)
    neighbour = server.client_for(create_key(db, "neighbour", ["read", "write"]))
    theirs = upload(neighbour, data_set(3))
    janitor = Janitor(server.settings)
    try:
        until = time.monotonic() + 60
        while neighbour.files.retrieve(theirs.id).status != "processed":
            assert time.monotonic() < until
            janitor.check_files()
            time.sleep(0.1)
    finally:
        free.set()
        join_checks(janitor)
        janitor.db.close()
