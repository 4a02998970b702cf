"""How many workers of each pool would be at work now if there were enough: what an autoscaler makes
of it.
"""

from dataclasses import dataclass

from sqlalchemy import case, extract, func, literal, select
from sqlalchemy.orm import Session, aliased

from api.jobs.estimates import devices
from api.jobs.estimates.devices import Device
from api.jobs.queue import turns
from api.models import bases
from api.settings import NO_POOL, Settings
from api.tables import NOW, Attempt, BaseModel, Job, Project
from tunery.messages import DEFAULT_POOL
from tunery.states import JobState

AT_WORK = aliased(Job)


@dataclass
class Demand:
    """Of one pool: jobs that run there; jobs that could start at once on a worker of it, and for
    how long the first of them has waited.
    """

    running: int = 0
    ready: int = 0
    oldest_seconds: float = 0.0

    @property
    def workers(self) -> int:
        return self.running + self.ready


def by_pool(tx: Session, settings: Settings) -> dict[str, Demand]:
    """By the names of the listed pools, and of others where a job runs. A ready job is counted to
    the first pool whose device holds it, and to `NO_POOL` if there is none. One whose project may
    not run more, or whose base no job starts from, asks for no worker.
    """
    pools = devices.of_pools(tx, settings.pools) or {DEFAULT_POOL: Device(None, None)}
    found = {name: Demand() for name in (*pools, NO_POOL)}
    running = (
        select(Attempt.pool, func.count())
        .join(Job, (Job.id == Attempt.job_id) & (Job.token == Attempt.token))
        # Whoever sends the results of one is at work on another, or is done.
        .where(Job.state == turns.RUNNING, Attempt.freed_at.is_(None))
        .group_by(Attempt.pool)
    )
    for name, jobs in tx.execute(running):
        found.setdefault(name, Demand()).running = jobs
    fitting = [(device.holds_job, literal(name)) for name, device in pools.items()]
    in_line = (
        select(
            case(*fitting, else_=NO_POOL).label("pool"),
            Job.available_at,
            Job.project_id,
            func.row_number()
            .over(partition_by=Job.project_id, order_by=(Job.available_at, Job.sequence))
            .label("turn"),
        )
        .join(BaseModel, BaseModel.id == Job.base_model_id)
        .where(Job.state == turns.QUEUED, Job.available_at <= NOW, bases.opened())
        .subquery()
    )
    at_work = (
        select(func.count())
        .where(AT_WORK.project_id == Project.id, AT_WORK.state == JobState.RUNNING)
        .scalar_subquery()
    )
    room = select(Project.id, (turns.most_running(settings) - at_work).label("left")).subquery()
    ready = (
        select(
            in_line.c.pool,
            func.count(),
            extract("epoch", NOW - func.min(in_line.c.available_at)),
        )
        .join(room, room.c.id == in_line.c.project_id)
        .where(func.coalesce(in_line.c.turn <= room.c.left, True))
        .group_by(in_line.c.pool)
    )
    for name, jobs, seconds in tx.execute(ready):
        found[name].ready, found[name].oldest_seconds = jobs, max(0.0, float(seconds))
    return found
