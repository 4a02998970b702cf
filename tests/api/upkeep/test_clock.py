"""The database's clock is set back. For the rows that is as if all their times were set forward."""

from sqlalchemy import text

from api.db.session import Database
from api.janitor import Janitor
from api.jobs.queue import leases
from api.upkeep import clock
from tests.api.speaking import claim
from tests.conftest import Served
from tests.factories import create_job, upload, worker_facts
from worker.client import Client

TIMES = {
    "attendance": ("since", "seen_at"),
    "attempt": ("started_at",),
    "lease": ("until",),
    "job": ("available_at", "created_at"),
    "worker": ("seen_at", "quarantined_until"),
    "webhook_endpoint": ("free_at",),
    "webhook_delivery": ("next_at",),
    "tracked_run": ("next_at",),
    "file": ("created_at", "checking_until"),
}


def set_clock_back(db: Database, seconds: float) -> None:
    with db.as_control() as tx:
        for table, columns in TIMES.items():
            later = ", ".join(f"{name} = {name} + make_interval(secs => :s)" for name in columns)
            tx.execute(text(f"UPDATE {table} SET {later}"), {"s": seconds})  # noqa: S608


def test_a_clock_that_goes_back_delays_neither_a_claim_nor_a_rescue(
    server: Served, worker: Client, db: Database
) -> None:
    file = upload(server.client)
    running = create_job(server.client, file.id)
    assert claim(worker)
    with db.as_control() as tx:
        leases.attend(tx, lease_seconds=server.settings.lease_seconds)
    queued = create_job(server.client, file.id)
    set_clock_back(db, 3600)
    assert claim(worker, "w2") is None, "it is not ready for an hour"
    janitor = Janitor(server.settings)
    janitor.correct_times()
    janitor.db.close()
    lease = claim(worker, "w2")
    assert lease
    assert lease.job_id == queued.id
    with db.as_control() as tx:
        (until,) = tx.execute(
            text("SELECT extract(epoch FROM until - now()) FROM lease WHERE job_id = :id"),
            {"id": running.id},
        ).one()
        ahead = tx.scalar(text("SELECT count(*) FROM attendance WHERE seen_at > now()"))
    assert until <= server.settings.lease_seconds, "its worker is missed in time"
    assert ahead == 0, "and an API is there to miss it"


def test_times_that_may_be_in_the_future_stay(server: Served, worker: Client, db: Database) -> None:
    create_job(server.client)
    assert claim(worker)
    worker.heartbeat(worker_facts(), [])
    create_job(server.client)
    with db.as_control() as tx:
        tx.execute(
            text("""
                UPDATE job SET token = 1, available_at = now() + interval '5 min'
                WHERE state = 'queued'
            """)
        )
        tx.execute(text("UPDATE worker SET quarantined_until = now() + interval '14 min'"))
        assert clock.correct(tx, server.settings) == 0
