"""Which project's job is claimed next. Jobs and claims are made by hand, and when they were."""

import threading
from typing import Any

import pytest
from sqlalchemy import ColumnElement, text, true, update
from sqlalchemy.orm import Session

from api.db.session import Database
from api.ids import new_id
from api.jobs.queue import turns
from api.settings import Settings
from api.tables import Attempt, File, Job, Project, from_now
from api.tenants import projects, quotas
from tests.conftest import BASE, Served
from tests.factories import another_base, create_job, end_by_hand, run_by_hand, worker_facts
from tunery.states import AttemptEnd, FileState, JobState
from worker.client import Client

ANY: ColumnElement[bool] = true()


def queue(tx: Session, project: str, *, ready: float = 0, base: str = BASE) -> str:
    """A job of the project that has been ready for so many seconds; returns its id."""
    owner = projects.ensure_project(tx, project)
    facts: dict[str, Any] = {"filename": "f", "purpose": "fine-tune", "bytes": 1, "key": "k"}
    file = File(id=new_id("file-"), project_id=owner.id, status=FileState.PROCESSED, **facts)
    file.sha256 = "0" * 64
    tx.add(file)
    tx.flush()
    job_id = new_id("ftjob-")
    job = Job(
        id=job_id,
        model_name=f"ft:{job_id}",
        project_id=owner.id,
        base_model_id=base,
        training_file_id=file.id,
        seed=1,
        request={},
        hyperparameters={},
        state=JobState.QUEUED,
        event_count=0,
        available_at=from_now(-ready),
    )
    tx.add(job)
    tx.flush()
    return job.id


def take(tx: Session, settings: Settings, warm_base: str | None = None) -> str | None:
    job_id = turns.next_job(tx, settings, ANY, warm_base)
    if job_id:
        run_by_hand(tx, job_id)
    return job_id


def test_the_single_job_of_another_project_is_next_however_many_one_has_queued(
    db: Database, settings: Settings
) -> None:
    with db.as_control() as tx:
        flood = [queue(tx, "flood", ready=100 - n) for n in range(turns.HEADS + 2)]
        assert take(tx, settings) == flood[0]
        late = queue(tx, "late")
        assert take(tx, settings) == late, "fewer running goes first"
        for job_id in (flood[0], late):
            end_by_hand(tx, job_id, AttemptEnd.CANCELLED)
        assert take(tx, settings) == flood[1], "among equals the one served longest ago"
        later = queue(tx, "late")
        end_by_hand(tx, flood[1], AttemptEnd.CANCELLED)
        assert take(tx, settings) == later


@pytest.mark.parametrize(("ago", "first"), [(59.0, "warm"), (61.0, "cold")])
def test_a_project_on_the_warm_base_has_a_head_start_and_no_more(
    db: Database, settings: Settings, ago: float, first: str
) -> None:
    warm = another_base(db)
    with db.as_control() as tx:
        jobs = {"warm": queue(tx, "p", base=warm), "cold": queue(tx, "q")}
        for name, served in (("p", 0.0), ("q", ago)):
            past = queue(tx, name)
            run_by_hand(tx, past)
            end_by_hand(tx, past, AttemptEnd.CANCELLED)
            started = update(Attempt).where(Attempt.job_id == past)
            tx.execute(started.values(started_at=from_now(-served)))
        assert take(tx, settings, warm) == jobs[first]


def test_claims_at_once_neither_wait_nor_go_to_one_project(
    db: Database, settings: Settings
) -> None:
    with db.as_control() as tx:
        flood = [queue(tx, "flood", ready=10 - n) for n in range(2)]
        other = queue(tx, "other")
    with db.as_control() as one, db.as_control() as two, db.as_control() as three:
        assert turns.next_job(one, settings, ANY, None) == flood[0]
        assert turns.next_job(two, settings, ANY, None) == other
        assert turns.next_job(three, settings, ANY, None) == flood[1]


def test_a_claim_does_not_wait_for_what_a_project_adds(db: Database, settings: Settings) -> None:
    with db.as_control() as tx:
        job_id = queue(tx, "p")
        project = tx.get_one(Project, tx.get_one(Job, job_id).project_id)
        project.most_running_jobs = 1
    with db.as_control() as adding, db.as_control() as claiming:
        quotas.take_turn(adding, project.id)
        assert take(claiming, settings) == job_id


def test_a_project_runs_no_more_jobs_than_its_limit_even_with_claims_at_once(
    db: Database, settings: Settings
) -> None:
    warm = another_base(db)
    with db.as_control() as tx:
        first, second = queue(tx, "p"), queue(tx, "p", base=warm)
        project = tx.get_one(Project, tx.get_one(Job, first).project_id)
        project.most_running_jobs = 1
        other = queue(tx, "q")
        project_of_other = tx.get_one(Job, other).project_id
        tx.execute(
            update(Project).where(Project.id == project_of_other).values(most_running_jobs=0)
        )
    taken: list[str | None] = []

    def take_on_warm_base() -> None:
        with db.as_control() as tx:
            taken.append(take(tx, settings, warm))

    with db.as_control() as tx:
        taken.append(take(tx, settings))
        rival = threading.Thread(target=take_on_warm_base)
        rival.start()
        rival.join(0.3)
        assert rival.is_alive(), "it waits to see whether there is room"
    rival.join()
    assert taken == [first, None]
    with db.as_control() as tx:
        end_by_hand(tx, first, AttemptEnd.CANCELLED)
        assert take(tx, settings) == second


def test_a_job_is_left_for_a_moment_to_the_workers_that_have_fetched_its_base(
    server: Served, worker: Client, db: Database
) -> None:
    base = another_base(db)
    holder = worker_facts("holder").model_copy(update={"holds": [base]})
    worker.heartbeat(holder, [])
    create_job(server.client, model=base)
    assert worker.claim(worker_facts("other")) is None
    assert worker.claim(holder)
    job = create_job(server.client, model=base)
    assert worker.claim(worker_facts("other")) is None
    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET available_at = now() - interval '11 s'"))
    lease = worker.claim(worker_facts("other"))
    assert lease
    assert lease.job_id == job.id
    create_job(server.client, model=base)
    worker.heartbeat(holder, [], leaving=True)
    assert worker.claim(worker_facts("other")), "who has left has nothing"
