"""What a queued job waits for, and when it may start. It looks over all projects: nothing but
numbers and the names of workers leaves this module.
"""

from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from api.jobs.estimates import devices
from api.jobs.estimates.devices import Device
from api.jobs.schemas import QueueObject, WaitsFor
from api.models import bases
from api.settings import Settings
from api.tables import NOW, Attempt, BaseModel, Job, Project, Worker
from api.tenants import quotas
from tunery import hub
from tunery.facts import STORED
from tunery.plan.memory import gib
from tunery.states import AttemptEnd, JobState, WorkerState

# Four of an idle worker's heartbeats.
SILENT_SECONDS = 60
# With more jobs than these ahead, nobody knows when the next starts; and more are not counted.
FORESEEN = 200
COUNTED = 1_000

# The least and the most; the most is infinite where it is not known.
Range = tuple[float, float]


@dataclass(frozen=True)
class Waiting:
    """What decides which workers a job may go to, and how many seconds it keeps one."""

    memory_bytes: dict[str, Any] | None
    min_protocol: int
    gpus: int
    seconds: Range


@dataclass(eq=False)
class Hand:
    """A worker, when it is free (seconds of the epoch), and whether it is given jobs."""

    worker: Worker
    free: Range
    silent: float
    active: bool
    device: Device = field(init=False)

    def __post_init__(self) -> None:
        self.device = Device(self.worker.device, self.worker.memory_bytes, self.worker.gpus)

    def has(self, job: Job, base: BaseModel) -> bool:
        """Its base, as far as is known, which is not broken for it."""
        lacks = job.base_model_id in self.worker.lacks
        return not lacks and (self.worker.build or "") not in base.broken_for

    def fits(self, job: Waiting | Job) -> bool:
        """As `leases.suits` has it."""
        return job.min_protocol <= self.worker.protocol and self.holds(job)

    def holds(self, job: Waiting | Job) -> bool:
        return self.device.holds(job.memory_bytes, job.gpus)


def explain(
    tx: Session, settings: Settings, job: Job, *, storage_away: bool = False
) -> tuple[QueueObject, int | None]:
    """As `reckon`, of this job alone. Needs a transaction over all projects."""
    now = tx.scalars(select(NOW)).one()
    ahead = jobs_ahead(tx, settings, job)
    return reckon(tx, settings, job, ahead, hands(tx, now), now, storage_away=storage_away)


def reckon(
    tx: Session,
    settings: Settings,
    job: Job,
    jobs_ahead: tuple[list[Waiting], int],
    known: list[Hand],
    now: datetime,
    *,
    storage_away: bool,
) -> tuple[QueueObject, int | None]:
    """Where a queued job stands behind the jobs ahead (`jobs_ahead`) with the workers that are
    `known`, and when it may have finished, in the middle of what may come; None if that is not
    known.
    """
    ahead, count = jobs_ahead
    active = [hand for hand in known if hand.active]
    base = tx.get_one(BaseModel, job.base_model_id)
    fitting = [hand for hand in active if hand.fits(job) and hand.has(job, base)]
    limits = quotas.limits_of(settings, tx.get_one(Project, job.project_id))
    most, hours, budget = limits.running_jobs, limits.device_hours, limits.cost
    waits_for: WaitsFor = "starting"
    reason = "A worker is free and will take it in a moment."
    if not bases.is_open(tx, base):
        waits_for = "base_model_broken"
        reason = f"Its base model needs an operator to repair it and add it again: {base.broken}"
    elif job.available_at > now:
        waits_for = "retry_pause"
        reason = pause(tx, job, (job.available_at - now).total_seconds())
    elif storage_away:
        waits_for, reason = (
            "storage",
            "The service's storage is unavailable, and no job starts without it.",
        )
    elif hours is not None and quotas.device_hours_of(tx, job.project_id) >= hours:
        waits_for = "own_quota"
        reason = (
            f"Its project has used up its {hours:,} device hours of this month. It runs when the "
            "next month begins (UTC), or when the operator of this service gives more."
        )
    elif budget is not None and quotas.cost_of(tx, settings, job.project_id) >= budget:
        waits_for = "own_quota"
        reason = (
            f"Its project has spent its {budget:,.2f} {settings.currency} of this month. It runs "
            "when the next month begins (UTC), or when the operator of this service gives more."
        )
    elif most is not None and quotas.count_jobs(tx, job.project_id, [JobState.RUNNING]) >= most:
        waits_for = "own_quota"
        reason = f"Its project runs {most} job{'s' * (most != 1)}, and may run no more at once."
    elif not any(hand.holds(job) for hand in active) and settings.pools:
        waits_for, reason = of_pools(job, devices.of_pools(tx, settings.pools))
    elif not active:
        waits_for, reason = "no_worker", no_worker(known)
    elif not fitting:
        waits_for, reason = "no_worker_fits", no_worker_fits(job, known, base)
    elif count or all(hand.free[1] > now.timestamp() for hand in fitting):
        waits_for, reason = "jobs_ahead", in_turn(count, len(fitting))
    unforeseen = {"own_quota", "storage", "base_model_broken"}
    foreseen = len(ahead) == count and waits_for not in unforeseen
    start = start_of(job, ahead, active, fitting) if foreseen else (0, inf)
    counted = count <= COUNTED
    queue = QueueObject(
        position=count + 1 if counted else None,
        jobs_ahead=count if counted else None,
        waits_for=waits_for,
        reason=reason,
        expected_start=(round(start[0]), round(start[1])) if start[1] < inf else None,
    )
    times = (job.estimate or {}).get("seconds")
    if start[1] == inf or not times:
        return queue, None
    return queue, round((sum(start) + sum(times)) / 2)


def pause(tx: Session, job: Job, seconds: float) -> str:
    last = tx.get(Attempt, (job.id, job.token))
    if last and last.outcome in {AttemptEnd.FAILED, AttemptEnd.LOST}:
        return f"Its last attempt failed; it is tried again in {seconds:.0f} s."
    return (
        f"The database's clock was set back after it was queued; it may start in {seconds:.0f} s."
    )


def hands(tx: Session, now: datetime) -> list[Hand]:
    """The workers, those heard of last at the end."""
    rows = tx.execute(
        select(Worker, Attempt.job_id, Job.estimated_finish)
        .outerjoin(Attempt, (Attempt.worker_id == Worker.id) & Attempt.ended_at.is_(None))
        .outerjoin(Job, Job.id == Attempt.job_id)
        .order_by(Worker.seen_at, Attempt.started_at)
    )
    found = {}
    for worker, at_work, finish in rows:
        free = (now.timestamp(), now.timestamp())
        if at_work:
            free = (max(finish, now).timestamp(),) * 2 if finish else (now.timestamp(), inf)
        silent = (now - worker.seen_at).total_seconds()
        well = worker.quarantined_until is None or worker.quarantined_until <= now
        active = silent < SILENT_SECONDS and well and worker.state == WorkerState.ACTIVE
        # Beside its newest, a worker may still deliver the end of an earlier attempt.
        found[worker.id] = Hand(worker, free, silent, active)
    return list(found.values())


def jobs_ahead(tx: Session, settings: Settings, job: Job) -> tuple[list[Waiting], int]:
    """The jobs that are claimed before this one, and how many they are; none of them if they are
    more than can be foreseen.

    The project with the fewest running jobs is next (`api.jobs.queue.turns`): another one has as
    many turns first as it takes it to draw level, or as its limit leaves it. At the same level, who
    drew level last comes last.
    """
    before = tx.scalars(OWN, {"id": job.id, "most": COUNTED + 1}).one()
    if before > COUNTED:
        return [], before
    known = {"project": job.project_id, "before": before, **of_service(settings)}
    rivals = tx.execute(RIVALS, known).all()
    count = sum(rival.turns for rival in rivals)
    if count > FORESEEN:
        return [], count
    turns = {"projects": [one.id for one in rivals], "turns": [one.turns for one in rivals]}
    place = {one.id: (one.running, one.served) for one in rivals}
    rows = sorted(
        tx.execute(AHEAD, turns), key=lambda row: (place[row.id][0] + row.turn, place[row.id][1])
    )
    return [waiting_of(row) for row in rows], count


def waiting_of(row: Row[Any]) -> Waiting:
    """Of a row with the columns of that name; `seconds` are the estimate's."""
    return Waiting(row.memory_bytes, row.min_protocol, row.gpus, tuple(row.seconds or (0, inf)))


# How many of its project's jobs come before a job.
OWN = text("""
    SELECT count(*) FROM (
        SELECT FROM job AS mine
            JOIN job ON job.project_id = mine.project_id AND job.state = 'queued'
                AND (job.available_at, job.sequence) < (mine.available_at, mine.sequence)
        WHERE mine.id = :id LIMIT :most
    ) AS before
""")

# How each project stands: how many of its jobs may run and do, when one was claimed last, and since
# when its first one waits.
STANDING = """
    WITH standing AS (
        SELECT id, least(coalesce(most_running_jobs, CAST(:most AS bigint)), CASE
                WHEN coalesce(most_device_hours, CAST(:hours AS bigint)) IS NULL THEN NULL
                WHEN (SELECT sum(gpus * extract(epoch FROM
                        least(freed_at, coalesce(ended_at, clock_timestamp()))
                            - greatest(started_at, began)))
                    FROM attempt, date_trunc('month', clock_timestamp(), 'UTC') AS began
                    WHERE project_id = project.id AND started_at > began - interval '31 days'
                        AND least(freed_at, coalesce(ended_at, clock_timestamp())) > began
                ) >= 3600 * coalesce(most_device_hours, CAST(:hours AS bigint)) THEN 0
            END, CASE
                WHEN coalesce(most_cost, CAST(:cost AS double precision)) IS NULL THEN NULL
                WHEN (SELECT coalesce(sum(price_per_hour * gpus * extract(epoch FROM
                        least(freed_at, coalesce(ended_at, clock_timestamp()))
                            - greatest(started_at, began))), 0)
                    FROM attempt, date_trunc('month', clock_timestamp(), 'UTC') AS began
                    WHERE project_id = project.id AND started_at > began - interval '31 days'
                        AND least(freed_at, coalesce(ended_at, clock_timestamp())) > began
                        AND currency = CAST(:currency AS text)
                ) >= 3600 * coalesce(most_cost, CAST(:cost AS double precision)) THEN 0
            END) AS most,
            (SELECT count(*) FROM job WHERE project_id = project.id AND state = 'running')
                AS running,
            coalesce((SELECT max(started_at) FROM attempt WHERE project_id = project.id),
                '-infinity') AS served,
            (SELECT min(available_at) FROM job
                WHERE project_id = project.id AND state = 'queued') AS ready
        FROM project
    )
"""


def of_service(settings: Settings) -> dict[str, Any]:
    """What `STANDING` asks for: the limits of projects that have none of their own."""
    return {
        "most": settings.project_running_jobs,
        "hours": settings.project_device_hours,
        "cost": settings.project_cost,
        "currency": settings.currency,
    }


# The projects that come before a job with their number of turns, its own with the jobs `before` it.
RIVALS = text(f"""{STANDING}
    SELECT other.id, other.running, extract(epoch FROM other.served) AS served, queued.turns
    FROM standing AS own CROSS JOIN standing AS other CROSS JOIN LATERAL (
        SELECT count(*) AS turns FROM (
            SELECT FROM job
            WHERE project_id = other.id AND state = 'queued' AND available_at <= clock_timestamp()
            ORDER BY available_at, sequence LIMIT greatest(0, least(
                CASE WHEN other.id <> own.id THEN other.most - other.running END,
                :before + own.running - other.running
                    + CASE WHEN (own.running, other.served, other.ready)
                        < (other.running, own.served, own.ready) THEN 1 ELSE 0 END))
        ) AS first
    ) AS queued
    WHERE own.id = :project AND turns > 0
""")  # noqa: S608 - our own words

AHEAD = text("""
    SELECT id, turn, memory_bytes, min_protocol, gpus, seconds
    FROM unnest(CAST(:projects AS text[]), CAST(:turns AS bigint[])) AS rival(id, turns)
    CROSS JOIN LATERAL (
        SELECT row_number() OVER (ORDER BY available_at, sequence) AS turn, memory_bytes,
            min_protocol, gpus, estimate->'seconds' AS seconds
        FROM job
        WHERE project_id = rival.id AND state = 'queued' AND available_at <= clock_timestamp()
        ORDER BY available_at, sequence LIMIT rival.turns
    ) AS first
""")


def start_of(job: Job, ahead: list[Waiting], active: list[Hand], own: list[Hand]) -> Range:
    """If each job goes to the worker that is free first of those that it fits, this one of its
    `own`; one that fits none is in nobody's way.
    """
    able = [[hand for hand in active if hand.fits(other)] for other in ahead]
    ends = []
    for end in (0, 1):
        free_at = {hand: hand.free[end] for hand in active}
        for other, hands_of_it in zip(ahead, able, strict=True):
            if hands_of_it:
                free_at[min(hands_of_it, key=free_at.__getitem__)] += other.seconds[end]
        first = min((free_at[hand] for hand in own), default=inf)
        ends.append(max(job.available_at.timestamp(), first))
    return ends[0], ends[1]


def no_worker(known: list[Hand]) -> str:
    if not known:
        return (
            "No worker has connected yet. One that was just started takes some seconds; "
            "docs/deploy.md says how to start one."
        )
    return f"No worker accepts jobs: {whereabouts(known[-1])}."


def of_pools(job: Job, pools: dict[str, Device]) -> tuple[WaitsFor, str]:
    """Where no worker is that could hold it, but pools of workers that are started on demand."""
    for name, device in pools.items():
        if device.holds(job.memory_bytes, job.gpus):
            return "pool_starting", (
                f"It fits pool {name}, which has no worker just now. One is started on demand; "
                "that takes some minutes."
            )
    most = max(device.gpus for device in pools.values())
    if job.gpus > most:
        return "no_worker_fits", of_gpus(job, most, "pools")
    name, device = max(pools.items(), key=lambda pool: pool[1].memory_bytes or 0)
    needed = (job.memory_bytes or {}).get(device.compute, 0)
    return "no_worker_fits", (
        f"It needs {gib(needed)}, and fits no pool of this service: a device of the largest, "
        f"{name}, has {gib(device.memory_bytes or 0)} and keeps a tenth free."
    )


def whereabouts(hand: Hand) -> str:
    name, silent = hand.worker.name, hand.silent
    if silent >= SILENT_SECONDS:
        ago = f"{silent:.0f} s" if silent < 120 else f"{silent / 60:.0f} min"
        return f"{name} last reported {ago} ago"
    if hand.worker.state == WorkerState.DRAINING:
        return f"{name} is being drained"
    return f"{name} gets no jobs for a while, after failures of its machine"


def no_worker_fits(job: Job, known: list[Hand], base: BaseModel) -> str:
    active = [hand for hand in known if hand.active]
    if lacking := [hand.worker.name for hand in active if hand.fits(job)]:
        fits = f"It fits {', '.join(sorted(lacking))}"
        if base.source == STORED or hub.repository_of(base.source):
            return (
                f"{fits}, which could not fetch the base model {base.id} and tries again in some "
                "minutes. The job's events say why."
            )
        return (
            f"{fits}, which cannot load the base model {base.id}. An operator has to make "
            "sure that its files are there as they were registered."
        )
    if any(hand.holds(job) for hand in active):
        return (
            f"It needs a worker that speaks protocol {job.min_protocol}: update "
            f"{', '.join(sorted(hand.worker.name for hand in active))}."
        )
    most = max(hand.device.gpus for hand in active)
    if job.gpus > most:
        reason = of_gpus(job, most, "workers")
    else:
        enough = [hand for hand in active if hand.device.gpus >= job.gpus]
        largest = max(enough, key=lambda hand: hand.device.memory_bytes or 0)
        needed = (job.memory_bytes or {}).get(largest.device.compute, 0)
        reason = (
            f"It needs {gib(needed)} on a device like {largest.worker.name}'s, which has "
            f"{gib(largest.device.memory_for(job.gpus) or 0)} and keeps a tenth free."
        )
    would = [hand for hand in known if not hand.active and hand.fits(job)]
    return (
        f"{reason} It fits {would[-1].worker.name}, but {whereabouts(would[-1])}."
        if would
        else reason
    )


def of_gpus(job: Job, most: int, whose: str) -> str:
    return f"It needs {job.gpus} GPUs of one worker; the {whose} offer {most} to one training."


def in_turn(count: int, fitting: int) -> str:
    number = f"{count}" if count <= COUNTED else f"More than {COUNTED}"
    before = f"{number} job{'s' if count > 1 else ''} come{'s' if count == 1 else ''} before it"
    workers = (
        "The worker that fits it is" if fitting == 1 else f"All {fitting} workers that fit it are"
    )
    return f"{before}." if count else f"{workers} at work; it is next."
