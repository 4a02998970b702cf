"""What a queued job waits for, and when a job is expected to start and to finish."""

import json
import time
from typing import Any

import pytest
from sqlalchemy import text, update

from api.db.session import Database
from api.jobs.queue import everyone
from api.jobs.queue.waiting import explain
from api.settings import Settings
from api.tables import Job, Project, Worker, from_now
from api.tenants import projects
from tests.api.jobs.queue.test_turns import queue, take
from tests.conftest import BASE, Served
from tests.factories import create_job, data_set, end_by_hand, run_by_hand, upload, worker_facts
from tunery.measured import Metrics, Progress
from tunery.messages import EventBatch, JobEvent
from tunery.states import AttemptEnd, WorkerState
from worker.client import Client

GIB = 1 << 30


def told(worker: Client, name: str, device: str = "cpu", gib: float = 4) -> None:
    facts = {"device": device, "memory_bytes": int(gib * GIB)}
    worker.heartbeat(worker_facts(name).model_copy(update=facts), [])


def shown(server: Served, job_id: str) -> dict[str, Any]:
    return dict(server.http().get(f"/v1/fine_tuning/jobs/{job_id}").json())


def waits(server: Served, job_id: str) -> tuple[str, str]:
    queue = shown(server, job_id)["tunery"]["queue"]
    return queue["waits_for"], queue["reason"]


@pytest.fixture
def known(server: Served, worker: Client, db: Database) -> str:
    """A file of which an earlier job took 100 seconds on a worker like w1."""
    told(worker, "w1")
    file = upload(server.client, data_set(50)).id
    job = create_job(server.client, file)
    with db.as_control() as tx:
        run_by_hand(tx, job.id, began=100)
        tx.execute(text("UPDATE attempt SET worker_id = 'worker-w1'"))
        end_by_hand(tx, job.id, AttemptEnd.SUCCEEDED)
    return file


def test_a_job_says_what_it_waits_for(server: Served, worker: Client, db: Database) -> None:
    job = create_job(server.client)
    queue = (job.model_extra or {})["tunery"]["queue"]
    assert (queue["waits_for"], queue["jobs_ahead"], queue["position"]) == ("no_worker", 0, 1)
    assert "has connected" in queue["reason"]
    listed = server.http().get("/v1/fine_tuning/jobs").json()["data"][0]
    assert listed["tunery"]["queue"] is None

    told(worker, "small", gib=0.3)
    code, reason = waits(server, job.id)
    assert code == "no_worker_fits"
    assert "small's, which has 0.3 GiB" in reason

    told(worker, "w1")
    assert waits(server, job.id)[0] == "starting"
    with db.as_control() as tx:
        tx.execute(update(Job).values(available_at=from_now(100)))
    code, reason = waits(server, job.id)
    assert (code, "clock was set back" in reason) == ("retry_pause", True), "it was never tried"
    with db.as_control() as tx:
        tx.execute(update(Job).values(available_at=from_now(0)))
    with db.as_control() as tx:
        tx.execute(update(Job).values(min_protocol=99))
    assert waits(server, job.id) == (
        "no_worker_fits",
        "It needs a worker that speaks protocol 99: update small, w1.",
    )
    with db.as_control() as tx:
        tx.execute(update(Job).values(min_protocol=2))
        tx.execute(update(Worker).where(Worker.name == "w1").values(state=WorkerState.DRAINING))
    assert waits(server, job.id)[1].endswith("It fits w1, but w1 is being drained.")
    with db.as_control() as tx:
        tx.execute(update(Worker).values(state=WorkerState.ACTIVE, seen_at=from_now(-300)))
    code, reason = waits(server, job.id)
    assert (code, reason) == (
        "no_worker",
        "No worker accepts jobs: w1 last reported 5 min ago.",
    )

    told(worker, "w1")
    with db.as_control() as tx:
        tx.execute(update(Job).values(available_at=from_now(20)))
    assert waits(server, job.id)[0] == "retry_pause"


def test_the_start_and_the_finish_are_reckoned_from_the_jobs_before(
    server: Served, worker: Client, db: Database, known: str
) -> None:
    now = time.time()
    running, first, second = (create_job(server.client, known) for _ in range(3))
    assert (first.model_extra or {})["tunery"]["estimate"] == {
        "rows": 50,
        "tokens": shown(server, first.id)["tunery"]["estimate"]["tokens"],
        "steps": 39,
        "seconds": [pytest.approx(100, rel=0.05)] * 2,
        "seconds_from": "history",
    }
    lease = worker.claim(worker_facts("w1").model_copy(update={"memory_bytes": 4 * GIB}))
    assert lease
    assert lease.job_id == running.id
    # Before its first step by the estimate, from then on by the pace that was measured.
    assert shown(server, running.id)["estimated_finish"] == pytest.approx(now + 100, abs=15)
    progress = Progress(step=1, total_steps=39, trained_tokens=9, seconds_left=500)
    step = JobEvent(message="a step", metrics=Metrics(step=1))
    worker.add_events(lease, EventBatch(first=0, events=[step], progress=progress))
    assert shown(server, running.id)["estimated_finish"] == pytest.approx(now + 500, abs=15)
    assert shown(server, running.id)["tunery"]["queue"] is None

    for job, ahead in ((first, 0), (second, 1)):
        found = shown(server, job.id)
        queue, start = found["tunery"]["queue"], now + 500 + 100 * ahead
        assert (queue["jobs_ahead"], queue["waits_for"]) == (ahead, "jobs_ahead")
        assert queue["expected_start"] == [pytest.approx(start, abs=25)] * 2
        assert found["estimated_finish"] == pytest.approx(start + 100, abs=25)

    told(worker, "w2")
    assert waits(server, first.id)[0] == "starting"
    # Its device has trained nothing like that, and how long the first keeps it is not known.
    told(worker, "w3", "NVIDIA Unheard Of", gib=20)
    third = create_job(server.client, known)
    assert shown(server, third.id)["tunery"]["estimate"]["seconds"] is None
    assert shown(server, third.id)["estimated_finish"] is None
    with db.as_control() as tx:
        end_by_hand(tx, running.id, AttemptEnd.RELEASED)
    server.client.fine_tuning.jobs.pause(running.id)
    assert shown(server, running.id)["estimated_finish"] is None


def test_a_job_whose_end_no_date_can_hold_is_claimed(
    server: Served, worker: Client, db: Database
) -> None:
    """By the history of its project: a tiny job that took a minute makes a large one ages long."""
    job = create_job(server.client)
    with db.as_control() as tx:
        found = tx.get_one(Job, job.id)
        found.estimate = {**(found.estimate or {}), "seconds": [1e12, 1e12]}
    assert worker.claim(worker_facts("w1"))
    assert shown(server, job.id)["estimated_finish"] is None


def test_the_place_in_the_queue_is_that_of_the_claim(db: Database, settings: Settings) -> None:
    """Projects with more and fewer running jobs, some of which were served before others, and one
    that may run no more.
    """
    with db.as_control() as tx:
        for project, running in (("many", 3), ("some", 1), ("few", 1), ("full", 1)):
            for _ in range(running):
                run_by_hand(tx, queue(tx, project))
        last = [queue(tx, "full", ready=99), queue(tx, "many", ready=-5)]
        tx.execute(update(Project).where(Project.name == "full").values(most_running_jobs=1))
        waiting = [
            queue(tx, project, ready=50 - number)
            for number, project in enumerate(("many", "few", "none", "some") * 4)
        ]
        places = {
            job_id: explain(tx, settings, tx.get_one(Job, job_id))[0].position for job_id in waiting
        }
        line = list(everyone.waiting_line(tx, settings))
        claimed = [take(tx, settings) for _ in waiting]
        assert line == [*claimed, *last]
        assert sorted(waiting, key=lambda job_id: places[job_id] or 0) == claimed
        assert sorted(places.values(), key=lambda place: place or 0) == list(range(1, 17))


def test_an_operator_sees_what_waits_and_runs_in_all_projects(server: Served, db: Database) -> None:
    with db.as_control() as tx:
        owner = projects.ensure_project(tx, "dairy").id
        jobs = [queue(tx, "dairy", ready=9 - number) for number in range(4)]
        run_by_hand(tx, jobs[0])
    operator = server.http(server.admin_key)
    asked = {"limit": 2}
    first = operator.get("/v1/admin/queue", params=asked).json()
    second = operator.get("/v1/admin/queue", params=asked | {"after": first["last_id"]}).json()
    rows = first["data"] + second["data"]
    assert [row["id"] for row in rows] == jobs[1:]
    assert [row["queue"]["position"] for row in rows] == [1, 2, 3]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (rows[0]["project_id"], rows[0]["project"], rows[0]["worker"]) == (owner, "dairy", None)
    (row,) = operator.get("/v1/admin/queue", params={"status": "running"}).json()["data"]
    assert (row["id"], row["status"], row["queue"]) == (jobs[0], "running", None)
    assert (row["worker_id"], row["worker"], row["base_model"]) == ("w-1", "w", BASE)
    gone = operator.get("/v1/admin/queue", params={"after": jobs[0]})
    assert (gone.status_code, gone.json()["error"]["param"]) == (400, "after")


def test_a_project_waits_for_its_own_jobs_at_its_limit(
    server: Served, worker: Client, db: Database
) -> None:
    jobs = [create_job(server.client) for _ in range(2)]
    assert worker.claim(worker_facts("w1"))
    told(worker, "w2")
    assert waits(server, jobs[1].id)[0] == "starting"
    with db.as_control() as tx:
        tx.execute(update(Project).values(most_running_jobs=1))
    assert waits(server, jobs[1].id) == (
        "own_quota",
        "Its project runs 1 job, and may run no more at once.",
    )


def test_a_long_queue_is_counted_and_not_foreseen(
    server: Served, worker: Client, db: Database
) -> None:
    told(worker, "w1")
    job = create_job(server.client)
    with db.as_control() as tx:
        tx.execute(
            text("""
                INSERT INTO job (id, project_id, base_model_id, training_file_id, seed, request,
                    hyperparameters, state, available_at, estimate, model_name)
                SELECT 'ftjob-' || n, project_id, base_model_id, training_file_id, seed, request,
                    hyperparameters, state, available_at - interval '1 s', CAST(:estimate AS jsonb),
                    'ft:' || n
                FROM job, generate_series(1, 400) AS n
            """),
            {"estimate": json.dumps({"rows": 1, "tokens": 1, "steps": 1, "seconds": [1, 2]})},
        )
    queue = shown(server, job.id)["tunery"]["queue"]
    assert (queue["jobs_ahead"], queue["position"], queue["expected_start"]) == (400, 401, None)
    queue = shown(server, "ftjob-101")["tunery"]["queue"]
    assert queue["jobs_ahead"] == 100
    least, most = queue["expected_start"]
    assert most - least == pytest.approx(100, abs=1)
