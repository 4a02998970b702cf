"""The workers that have told of themselves: what they are, and whether they are given jobs."""

import logging
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.settings import Pool
from api.tables import NOW, Attempt, Worker, from_now
from tunery.errors import Conflict, NotFound, ProtocolTooOld
from tunery.messages import OLDEST_PROTOCOL, PROTOCOL, WorkerFacts
from tunery.states import WorkerState

log = logging.getLogger(__name__)

WorkerStanding = Literal["active", "draining", "quarantined", "offline"]

MOST_FAILURES = 2
MOST_WORKERS = 10_000
FORGOTTEN_SECONDS = 24 * 3600
# Four heartbeats of an idle worker.
OFFLINE_SECONDS = 60


def see(
    tx: Session, facts: WorkerFacts, *, pools: Sequence[Pool] = (), leaving: bool = False
) -> Worker:
    """Notes that the worker is there, or that it is `leaving`, and what it says of itself. One of a
    pool that is not among the `pools` is given jobs all the same: the list of pools and the fleet
    do not change in the same moment.

    Raises:
        ProtocolTooOld: it speaks an older protocol than the one before ours.
        Conflict: it is new, and there are too many.

    """
    if facts.protocol < OLDEST_PROTOCOL:
        raise too_old(f"Worker {facts.worker}", facts.protocol)
    told = {
        "name": facts.worker,
        "pool": facts.pool,
        "device": facts.device,
        "memory_bytes": facts.memory_bytes,
        "gpus": facts.gpus,
        "build": facts.build,
        "protocol": facts.protocol,
        "lacks": facts.lacks,
        "holds": facts.holds,
        "seen_at": NOW,
        "left_at": NOW if leaving else None,
    }
    known, counted = tx.get(Worker, facts.known_as), select(func.count(Worker.id))
    if known is None and tx.scalars(counted).one() >= MOST_WORKERS:
        raise Conflict(
            f"This API knows {MOST_WORKERS:,} workers and takes no more: ids of workers are made "
            "anew somewhere. Keep the workers' folders (TUNERY_WORK_DIR); those not heard of for a "
            "day are forgotten."
        )
    if pools and (known is None or known.pool != facts.pool):
        warn_of_unlisted(facts, [pool.name for pool in pools])
    return tx.scalars(
        insert(Worker)
        .values(id=facts.known_as, **told)
        .on_conflict_do_update(index_elements=[Worker.id], set_=told)
        .returning(Worker),
        execution_options={"populate_existing": True},
    ).one()


def warn_of_unlisted(facts: WorkerFacts, listed: list[str]) -> None:
    if facts.pool not in listed:
        log.warning(
            "worker %s is of pool %r, which TUNERY_POOLS does not list (%s): it is given jobs, but "
            "no waiting job asks for a worker there. Correct TUNERY_POOL there, or list the pool.",
            facts.worker,
            facts.pool,
            ", ".join(listed),
        )


def too_old(worker: str, protocol: int) -> ProtocolTooOld:
    return ProtocolTooOld(
        f"{worker} speaks protocol {protocol}; this API speaks {PROTOCOL} and {OLDEST_PROTOCOL}. "
        "Update the worker."
    )


def state_of(tx: Session, worker: Worker) -> WorkerStanding:
    if worker.left_at or worker.seen_at < tx.scalars(select(from_now(-OFFLINE_SECONDS))).one():
        return "offline"
    if worker.quarantined_until and worker.quarantined_until > tx.scalars(select(NOW)).one():
        return "quarantined"
    return "draining" if worker.state == WorkerState.DRAINING else "active"


def held_elsewhere(tx: Session, facts: WorkerFacts) -> set[str]:
    """The base models that other workers, which are given jobs, have fetched and this one has
    not.
    """
    holds = select(func.unnest(Worker.holds)).where(
        Worker.id != facts.known_as, func.cardinality(Worker.holds) > 0, is_given_jobs()
    )
    return set(tx.scalars(holds)) - set(facts.holds)


def is_given_jobs() -> ColumnElement[bool]:
    """As `state_of` has "active"."""
    return and_(
        Worker.left_at.is_(None),
        Worker.seen_at >= from_now(-OFFLINE_SECONDS),
        Worker.state == WorkerState.ACTIVE,
        func.coalesce(Worker.quarantined_until, NOW) <= NOW,
    )


def note_failure(tx: Session, worker_id: str, job_id: str, *, quarantine_seconds: float) -> None:
    """The worker's machine failed an attempt. The same job failing twice may be the job's fault;
    the second job in a row quarantines the worker for a while.
    """
    worker = tx.get(Worker, worker_id, with_for_update=True)
    if worker is None or worker.failed_job_id == job_id:
        return
    worker.failures += 1
    worker.failed_job_id = job_id
    if worker.failures >= MOST_FAILURES:
        worker.quarantined_until = tx.scalar(select(from_now(quarantine_seconds)))


def note_success(tx: Session, worker_id: str) -> None:
    tx.execute(
        update(Worker)
        .where(Worker.id == worker_id)
        .values(failures=0, failed_job_id=None, quarantined_until=None)
    )


def drain(tx: Session, worker_id: str) -> Worker:
    """Gives the worker no more jobs; one that it runs is given back with a checkpoint. Twice is
    once.
    """
    worker = get(tx, worker_id)
    worker.state = WorkerState.DRAINING
    return worker


def resume(tx: Session, worker_id: str) -> Worker:
    """Gives the worker jobs again, drained or quarantined as it may be. Idempotent."""
    worker = get(tx, worker_id)
    worker.state = WorkerState.ACTIVE
    worker.failures, worker.failed_job_id, worker.quarantined_until = 0, None, None
    return worker


def get(tx: Session, worker_id: str) -> Worker:
    worker = tx.get(Worker, worker_id, with_for_update=True)
    if worker is None:
        raise NotFound(f"No worker {worker_id!r}. GET /v1/admin/workers lists those there are.")
    return worker


def forget(tx: Session, worker_id: str) -> None:
    """Forgets the worker, with its drain or quarantine. One that still lives comes back with its
    next heartbeat.

    Raises:
        NotFound: no such worker.
        Conflict: it is at a job.

    """
    worker = get(tx, worker_id)
    if attempt := attempt_of(tx, worker):
        raise Conflict(
            f"Worker {worker_id} is at job {attempt.job_id}. Drain it with POST "
            f"/v1/admin/workers/{worker_id}/drain, and delete it when the job has left it.",
            code="worker_busy",
        )
    tx.delete(worker)


def list_all(tx: Session) -> list[tuple[Worker, Attempt | None]]:
    """Each worker with the attempt it is at, if any; by name."""
    query = (
        select(Worker, Attempt)
        .outerjoin(Attempt, (Attempt.worker_id == Worker.id) & Attempt.ended_at.is_(None))
        .order_by(Worker.name, Worker.id, Attempt.started_at)
    )
    # Beside its newest, a worker may still deliver the end of an earlier one.
    return list({worker.id: (worker, attempt) for worker, attempt in tx.execute(query)}.values())


def attempt_of(tx: Session, worker: Worker) -> Attempt | None:
    """The attempt it is at, if any."""
    query = select(Attempt).where(Attempt.worker_id == worker.id, Attempt.ended_at.is_(None))
    return tx.scalars(query.order_by(Attempt.started_at.desc()).limit(1)).one_or_none()


def forget_gone(tx: Session) -> None:
    """Removes those not heard of for a day; a drain or a quarantine is remembered."""
    tx.execute(
        delete(Worker).where(
            Worker.seen_at < from_now(-FORGOTTEN_SECONDS),
            Worker.state == WorkerState.ACTIVE,
            func.coalesce(Worker.quarantined_until, NOW) <= NOW,
        )
    )
