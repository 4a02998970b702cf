"""Pools of workers that are started on demand, and what is counted to each."""

import logging
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import TypeAdapter
from sqlalchemy import text

from api.db.session import Database
from api.jobs.queue import demand
from api.jobs.queue.demand import Demand
from api.settings import Pools, Settings
from tests.api.jobs.estimates.test_devices import big, gpu
from tests.api.jobs.queue.test_waiting import waits
from tests.conftest import Served
from tests.factories import create_job, run_by_hand, upload, worker_facts
from tunery import messages
from worker.client import Client

__all__ = ["big"]

GIB = 1 << 30
POOLS = TypeAdapter(Pools).validate_python(
    [{"name": "l4", "memory_bytes": "22GiB"}, {"name": "h100", "memory_bytes": "80GiB"}]
)
# Less than nine tenths of the small pool's, of the large one's, and more.
SMALL, LARGE, HUGE = 15 * GIB, 60 * GIB, 90 * GIB


@pytest.fixture
def server(serve_with: Callable[..., Served]) -> Served:
    return serve_with(pools=POOLS)


def needs(db: Database, job_id: str, size: int | None, waited: float = 0) -> None:
    needed = "NULL" if size is None else "jsonb_build_object('bf16', :size, 'fp32', 2 * :size)"
    with db.as_control() as tx:
        tx.execute(
            text(f"""
                UPDATE job SET memory_bytes = {needed},
                    available_at = now() - make_interval(secs => :waited) WHERE id = :id
            """),  # noqa: S608 - our own words
            {"size": size, "id": job_id, "waited": waited} if size else {"id": job_id, "waited": 0},
        )


def asked(db: Database, settings: Settings) -> dict[str, int]:
    with db.as_control() as tx:
        return {name: one.workers for name, one in demand.by_pool(tx, settings).items()}


def test_a_ready_job_is_counted_to_the_first_pool_that_it_fits(
    server: Served, db: Database
) -> None:
    file = upload(server.client).id
    jobs = [create_job(server.client, file).id for _ in range(8)]
    sizes = (SMALL, LARGE, LARGE, HUGE, None, SMALL, SMALL, SMALL)
    for job_id, size in zip(jobs, sizes, strict=True):
        needs(db, job_id, size, waited=100 if size is LARGE else 40)
    with db.as_control() as tx:
        run_by_hand(tx, jobs[5], pool="h100")
        run_by_hand(tx, jobs[6], pool="gone")
        run_by_hand(tx, jobs[7], pool="h100")
        sends_results = text("UPDATE attempt SET freed_at = started_at WHERE job_id = :id")
        tx.execute(sends_results, {"id": jobs[7]})
        found = demand.by_pool(tx, server.settings)
    assert [(one.running, one.ready) for one in found.values()] == [(0, 2), (1, 2), (0, 1), (1, 0)]
    assert list(found) == ["l4", "h100", "none", "gone"], "a job that runs is at work anywhere"
    assert found["h100"].oldest_seconds == pytest.approx(100, abs=30)
    shown = server.http(server.admin_key).get("/metrics").text
    for line in ('{pool="l4"} 2.0', '{pool="h100"} 3.0', '{pool="gone"} 1.0', "_unmet 1.0"):
        assert f"ft_gpu_demand{line}" in shown


def test_what_may_not_start_asks_for_no_worker(server: Served, db: Database) -> None:
    file = upload(server.client).id
    jobs = [create_job(server.client, file).id for _ in range(4)]
    for job_id in jobs:
        needs(db, job_id, SMALL)
    with db.as_control() as tx:
        run_by_hand(tx, jobs[0], pool="l4")
    assert asked(db, server.settings)["l4"] == 4
    limited = server.settings.model_copy(update={"project_running_jobs": 2})
    assert asked(db, limited)["l4"] == 2, "its project may run one more"
    spent = server.settings.model_copy(update={"project_device_hours": 0})
    assert asked(db, spent)["l4"] == 1
    with db.as_control() as tx:
        tx.execute(text("UPDATE base_model SET broken = 'it is broken', broken_for = '{b1}'"))
    assert asked(db, server.settings)["l4"] == 1
    with db.as_control() as tx:
        tx.execute(
            text("INSERT INTO worker (id, name, build, protocol) VALUES ('w', 'w', 'b2', 5)")
        )
    assert asked(db, server.settings)["l4"] == 4, "a worker of another build may train on it"


def test_what_a_pools_workers_have_counts_more_than_what_is_listed(
    server: Served, worker: Client, db: Database
) -> None:
    needs(db, create_job(server.client).id, int(0.9 * 21.9 * GIB))
    assert asked(db, server.settings) == {"l4": 1, "h100": 0, "none": 0}
    worker.heartbeat(gpu(21.5).model_copy(update={"pool": "l4"}), [])
    assert asked(db, server.settings) == {"l4": 0, "h100": 1, "none": 0}


def test_a_pool_without_a_worker_refuses_no_job_and_says_that_one_is_started(
    server: Served, worker: Client, db: Database, big: str
) -> None:
    worker.heartbeat(gpu(4), [])
    job = create_job(server.client, model=big, extra_body={"training": {"quantization": "none"}})
    code, reason = waits(server, job.id)
    assert (code, reason[:32]) == ("pool_starting", "It fits pool l4, which has no wo")
    needs(db, job.id, HUGE)
    code, reason = waits(server, job.id)
    assert code == "no_worker_fits"
    assert "of the largest, h100, has 80.0 GiB" in reason
    worker.heartbeat(gpu(120), [])
    assert waits(server, job.id)[0] == "starting"
    all_weights: dict[str, Any] = {"training": {"finetuning_type": "full"}}
    with pytest.raises(openai.BadRequestError, match=r"The device has 120\.0 GiB"):
        create_job(server.client, model=big, extra_body=all_weights)


def test_a_worker_and_its_attempts_are_of_the_pool_that_it_names(
    server: Served, worker: Client, caplog: pytest.LogCaptureFixture
) -> None:
    job = create_job(server.client)
    unlisted = worker_facts("w1").model_copy(update={"pool": "t4"})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            worker.heartbeat(unlisted, [])
        worker.heartbeat(worker_facts("w2").model_copy(update={"pool": "l4"}), [])
    (warned,) = [line for line in caplog.messages if "TUNERY_POOLS" in line]
    assert warned.startswith("worker w1 is of pool 't4', which TUNERY_POOLS does not list (l4, h10")
    assert worker.claim(unlisted), "settings and fleet do not change in the same moment"
    assert "pool" not in worker_facts("w3").model_dump(), "an older API knows no pools"
    worker.heartbeat(worker_facts("w3"), [])
    workers = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    shown = {one["name"]: one["pool"] for one in workers}
    assert shown == {"w1": "t4", "w2": "l4", "w3": messages.DEFAULT_POOL}
    (attempt,) = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/attempts").json()["data"]
    assert attempt["pool"] == "t4"


def test_without_a_list_every_job_is_counted_to_the_default_pool(
    serve_with: Callable[..., Served], db: Database
) -> None:
    server = serve_with()
    needs(db, create_job(server.client).id, HUGE)
    with db.as_control() as tx:
        found = demand.by_pool(tx, server.settings)
    assert found == {
        "default": Demand(ready=1, oldest_seconds=found["default"].oldest_seconds),
        "none": Demand(),
    }
