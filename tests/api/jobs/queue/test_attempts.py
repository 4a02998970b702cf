"""What a failed attempt costs, by its class."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select, text

from api.db.session import Database
from api.jobs.queue import endings, leases
from api.settings import Settings
from api.tables import NOW
from tests.api.speaking import ADAPTER, claim, failed, finish, send, succeeded
from tests.conftest import Served
from tests.factories import create_job, end_pauses, lose_workers
from tunery import messages
from tunery.measured import Metrics, Progress
from tunery.states import MAX_INFRA_FAILURES, MAX_INTERRUPTIONS, FailureClass
from worker.client import Client


def failure_class(server: Served, job_id: str) -> str | None:
    extras = server.client.fine_tuning.jobs.retrieve(job_id).model_extra or {}
    return extras["tunery"]["failure_class"]  # type: ignore[no-any-return]


def test_out_of_memory_is_tried_again_once(server: Served, worker: Client, db: Database) -> None:
    job = create_job(server.client)
    for status in ("queued", "failed"):
        lease = claim(worker)
        assert lease
        finish(worker, lease, failed(FailureClass.OOM, "lower max_length"))
        end_pauses(db)
        now = server.client.fine_tuning.jobs.retrieve(job.id)
        assert now.status == status
    assert failure_class(server, job.id) == "oom"
    assert now.error
    assert now.error.message == "lower max_length"


def test_a_job_on_failing_machines_is_given_up_after_ten_however_far_it_comes(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    job = create_job(server.client)
    for number in range(1, MAX_INFRA_FAILURES + 1):
        lease = worker.claim(messages.WorkerFacts(protocol=messages.PROTOCOL, worker=f"w{number}"))
        assert lease
        files = send(worker, lease, tmp_path, {"state.bin": b"%d" % number})
        metrics = Metrics(step=number)
        written = messages.CheckpointWritten(step=number, epoch=0, metrics=metrics, files=files)
        worker.add_checkpoint(lease, written, patience=0)
        assert server.client.fine_tuning.jobs.retrieve(job.id).status == "running"
        finish(worker, lease, failed(FailureClass.INFRA))
        end_pauses(db)
    assert failure_class(server, job.id) == "infra"


def test_a_job_that_is_ended_from_outside_again_and_again_goes_on_for_long_but_not_for_ever(
    server: Served, worker: Client, db: Database
) -> None:
    job = create_job(server.client)
    for number in range(1, MAX_INTERRUPTIONS + 1):
        assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"
        lease = claim(worker)
        assert lease
        if number % 2:
            finish(worker, lease, failed(FailureClass.PREEMPTED))
            end_pauses(db)
        else:
            lose_workers(db, server.settings)
    assert failure_class(server, job.id) == "poisoned"


def broke_on_data(failure_class: FailureClass, phase: messages.Phase) -> messages.Failed:
    return failed(failure_class, "it panicked.").model_copy(update={"phase": phase})


@pytest.mark.parametrize(
    ("kind", "code"),
    [(FailureClass.INFRA, "data_unreadable"), (FailureClass.OOM, "data_too_large")],
)
def test_a_file_that_two_attempts_break_on_is_at_fault_and_no_machine_is(
    server: Served, worker: Client, db: Database, kind: FailureClass, code: str
) -> None:
    """One is no proof: the next attempt, or one after another kind of end, may come through."""
    phases: list[messages.Phase]
    phases = ["training_file", "validation_file", "training_file", "training_file"]
    if kind is FailureClass.OOM:  # else it would end as that
        phases = phases[2:]
    for number in range(2):
        job = create_job(server.client)
        for phase in phases if number else phases[-2:]:
            assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"
            with db.as_control() as tx:
                tx.execute(text("UPDATE job SET idle_attempts = 0"))
            lease = claim(worker)
            assert lease
            finish(worker, lease, broke_on_data(kind, phase))
            end_pauses(db)
        ended = server.client.fine_tuning.jobs.retrieve(job.id)
        assert (ended.status, failure_class(server, job.id)) == ("failed", "user")
        assert ended.error
        assert ended.error.code == code
        assert "Two attempts in a row ended there" in ended.error.message
    (shown,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert (shown["state"], shown["failures"]) == ("active", 0)
    listed = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/attempts").json()["data"]
    assert {attempt["phase"] for attempt in listed} == set(phases)


def test_the_pause_before_the_next_attempt_doubles_up_to_five_minutes(settings: Settings) -> None:
    own = settings.model_copy(update={"retry_seconds": 5})
    for doublings, seconds in ((0, 5), (1, 10), (5, 160), (6, 300), (60, 300)):
        assert endings.backoff(doublings, own) == pytest.approx(seconds, rel=0.2)


def test_a_lost_machine_costs_no_pause_the_first_time(
    server: Served, worker: Client, db: Database
) -> None:
    create_job(server.client)
    claim(worker)
    lost = lose_workers(db, server.settings)
    with db.as_control() as tx:
        assert lost.available_at <= tx.scalars(select(NOW)).one()


def test_nobody_is_lost_until_an_api_has_listened_for_a_whole_lease(
    server: Served, worker: Client, db: Database
) -> None:
    # Longer than this test takes on a busy machine.
    settings = server.settings.model_copy(update={"lease_seconds": 120.0})
    create_job(server.client)
    claim(worker)
    with db.as_control() as tx:
        tx.execute(text("UPDATE lease SET until = now() - interval '1 h'"))
        tx.execute(text("UPDATE attendance SET since = now()"))
        assert leases.rescue(tx, settings) is None, "it has not listened for long enough"
        tx.execute(text("UPDATE attendance SET since = now() - interval '1 h'"))
        tx.execute(text("UPDATE attendance SET seen_at = now() - interval '1 h'"))
        assert leases.rescue(tx, settings) is None, "it has stopped listening"
        leases.attend(tx, lease_seconds=settings.lease_seconds)
        assert leases.rescue(tx, settings) is None, "after a gap it counts from anew"
        tx.execute(text("UPDATE attendance SET since = now() - interval '1 h'"))
        assert leases.rescue(tx, settings)


def test_every_attempt_is_listed_with_where_it_ran_and_how_it_ended(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    job = create_job(server.client)
    for end in (failed(FailureClass.INFRA), messages.Released(), None):
        lease = claim(worker)
        assert lease
        beat = messages.LeaseBeat(job_id=job.id, token=lease.token, step=7)
        worker.heartbeat(messages.WorkerFacts(protocol=messages.PROTOCOL, worker="w1"), [beat])
        if end:
            finish(worker, lease, end)
            end_pauses(db)
        else:
            lose_workers(db, server.settings)
    lease = claim(worker)
    assert lease
    progress = Progress(step=9, total_steps=9, trained_tokens=9)
    worker.add_events(lease, messages.EventBatch(first=1, events=[], progress=progress))
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    listed = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/attempts").json()["data"]
    ends = [(a["number"], a["outcome"], a["failure_class"], a["step"]) for a in listed]
    assert ends == [
        (4, "succeeded", None, 9),
        (3, "lost", "infra", 7),
        (2, "released", None, 7),
        (1, "failed", "infra", 7),
    ]
    assert {a["worker"] for a in listed} == {"w1"}
    assert all(0 <= a["seconds"] < 60 for a in listed if a["outcome"] != "lost")


def test_a_job_whose_settings_only_an_older_version_can_read_fails_and_holds_up_nobody(
    server: Served, worker: Client, db: Database
) -> None:
    old, new = create_job(server.client), create_job(server.client)
    with db.as_control() as tx:
        spec = json.dumps({"version": 0})
        tx.execute(text("UPDATE job SET spec = :spec WHERE id = :id"), {"spec": spec, "id": old.id})
    assert claim(worker) is None
    ended = server.client.fine_tuning.jobs.retrieve(old.id)
    assert ended.status == "failed"
    assert ended.error
    assert "Create the job again" in ended.error.message
    lease = claim(worker)
    assert lease
    assert lease.job_id == new.id
