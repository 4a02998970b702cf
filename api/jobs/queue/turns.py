"""Whose turn it is when a worker asks for a job."""

from collections.abc import Sequence

from sqlalchemy import (
    ColumnElement,
    ColumnExpressionArgument,
    Select,
    Subquery,
    and_,
    case,
    func,
    literal,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from api.settings import Settings
from api.tables import NOW, Attempt, Job, Project
from api.tenants import quotas
from tunery.states import JobState

# Jobs that come this close together are sorted by base: about what it saves not to load a large one
# again. None is overtaken by a job that came later than this after it.
HEAD_START_SECONDS = 60.0

# So many jobs of a project are looked at: more than there are claims at once, each of which holds
# one of them until it commits.
HEADS = 64

# Not as parameters: the indexes of jobs in work are for these very words.
QUEUED = literal(JobState.QUEUED.value, literal_execute=True)
RUNNING = literal(JobState.RUNNING.value, literal_execute=True)

# Made once: an alias of so wide a table costs a millisecond.
AT_WORK = aliased(Job)
PICKED = aliased(Job)


def next_job(
    tx: Session, settings: Settings, fits: ColumnElement[bool], warm_base: str | None
) -> str | None:
    """The job to be claimed, locked: one that `fits`, of the project that has the fewest running.
    Among equals the project goes first whose last claim was longest ago; in a project, the job that
    has been ready longest. In both, a job on the warm base has a head start. A project at its limit
    of running jobs, or of device hours, is passed over.

    A project that another claim is at just now will have one more running: it comes after all
    others.
    """
    projects = tx.execute(in_turn(settings, fits, warm_base)).all()
    for alone in (True, False):
        for project in projects:
            if alone and not tx.scalar(claim_of(project.id)):
                continue
            if project.most is not None and not has_room(tx, project.id, project.most):
                continue
            job_id: str | None = tx.scalar(next_of(project.id, fits, warm_base))
            if job_id:
                return job_id
    return None


def claim_of(project_id: str) -> Select[bool]:
    """False if another claim is at the project, until it has committed."""
    return select(func.pg_try_advisory_xact_lock(claims_on(project_id)))


def claims_on(project_id: str) -> ColumnElement[int]:
    """What claims lock, and nobody else: the requests of one project hold up no worker."""
    return func.hashtextextended(f"claim {project_id}", 0)


def has_room(tx: Session, project_id: str, most: int) -> bool:
    """Two claims at once might each have seen the last place free: they look again in turn."""
    tx.execute(select(func.pg_advisory_xact_lock(claims_on(project_id))))
    return quotas.count_jobs(tx, project_id, [JobState.RUNNING]) < most


def in_turn(
    settings: Settings, fits: ColumnElement[bool], warm_base: str | None
) -> Select[str, int]:
    """The projects that have a job for this worker and room to run it, whose turn it is first."""
    of_project = and_(Job.project_id == Project.id, fits)
    heads = first_of(of_project, warm_base, count=1, correlate=(Project,))
    head = select(heads).order_by(heads.c.since, heads.c.sequence).limit(1).lateral("head")
    running = (
        select(func.count().label("jobs"))
        .where(AT_WORK.project_id == Project.id, AT_WORK.state == RUNNING)
        .lateral("running")
    )
    served = (
        select(func.max(Attempt.started_at).label("at"))
        .where(Attempt.project_id == Project.id)
        .lateral("served")
    )
    most = most_running(settings)
    return (
        select(Project.id, most.label("most"))
        .join(head, true())
        .join(running, true())
        .join(served, true())
        .where(func.coalesce(running.c.jobs < most, True))
        .order_by(
            running.c.jobs,
            (served.c.at - head.c.head_start).nulls_first(),
            head.c.since,
            head.c.sequence,
        )
    )


def most_running(settings: Settings) -> ColumnElement[int]:
    """How many jobs the project of a query may run at once; null: any number. One that has used up
    its device hours or its budget may run none.
    """
    return func.least(
        func.coalesce(Project.most_running_jobs, settings.project_running_jobs),
        case((quotas.spent(settings), 0)),
    )


def next_of(project_id: str, fits: ColumnElement[bool], warm_base: str | None) -> Select[str]:
    """The project's next job that no other claim is at."""
    heads = first_of(and_(Job.project_id == project_id, fits), warm_base, count=HEADS)
    return (
        select(PICKED.id)
        .join(heads, heads.c.id == PICKED.id)
        .where(PICKED.state == QUEUED)  # of the locked row: it may be taken by now
        .order_by(heads.c.since, heads.c.sequence)
        .limit(1)
        .with_for_update(of=PICKED, skip_locked=True)
    )


def first_of(
    which: ColumnExpressionArgument[bool],
    warm_base: str | None,
    *,
    count: int,
    correlate: Sequence[type[Project]] = (),
) -> Subquery:
    """So many queued jobs by time, and so many of those on the warm base: each the beginning of an
    index, however many jobs wait. `since` is when a job counts as ready.
    """
    warm = case((Job.base_model_id == warm_base, HEAD_START_SECONDS), else_=0.0)
    head_start = func.make_interval(0, 0, 0, 0, 0, 0, warm)
    first = (
        select(
            Job.id,
            Job.sequence,
            (Job.available_at - head_start).label("since"),
            head_start.label("head_start"),
        )
        .where(Job.state == QUEUED, Job.available_at <= NOW, which)
        .order_by(Job.available_at, Job.sequence)
        .limit(count)
        .correlate(*correlate)
    )
    return union_all(first, first.where(Job.base_model_id == warm_base)).subquery()
