"""The queue over all projects, for those who run the service."""

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.jobs.queue.waiting import COUNTED, STANDING, Waiting, of_service, waiting_of
from api.settings import Settings
from api.tables import Attempt, Job, Project
from tunery.errors import InvalidRequest
from tunery.states import JobState

# In the order in which they are claimed, as `waiting.jobs_ahead` reckons it for one of them. Behind
# them those whose project may run no more, then those that are not tried again yet.
WAITING = text(f"""{STANDING}
    SELECT queued.id, memory_bytes, min_protocol, gpus, seconds
    FROM standing CROSS JOIN LATERAL (
        SELECT id, memory_bytes, min_protocol, gpus, estimate->'seconds' AS seconds,
            available_at, sequence, available_at > clock_timestamp() AS pausing,
            row_number() OVER (ORDER BY available_at, sequence) AS turn
        FROM job WHERE project_id = standing.id AND state = 'queued'
        ORDER BY available_at, sequence LIMIT :counted
    ) AS queued
    ORDER BY pausing, CASE WHEN pausing THEN available_at END,
        coalesce(turn > standing.most - running, false),
        running + turn, running DESC, served, ready, sequence
    LIMIT :counted
""")  # noqa: S608 - our own words


def waiting_line(tx: Session, settings: Settings) -> dict[str, Waiting]:
    """The first waiting jobs and exports of all projects by their ids, at most `COUNTED`, the next
    one first.
    """
    rows = tx.execute(WAITING, {"counted": COUNTED, **of_service(settings)})
    return {row.id: waiting_of(row) for row in rows}


def running_ids(tx: Session) -> list[str]:
    """The running jobs and exports of all projects, the one that runs longest first."""
    query = select(Job.id).join(Attempt, (Attempt.job_id == Job.id) & (Attempt.token == Job.token))
    running = query.where(Job.state == JobState.RUNNING)
    return list(tx.scalars(running.order_by(Attempt.started_at, Job.id)))


def with_claims(
    tx: Session, ids: list[str], state: JobState, *, limit: int, after: str | None
) -> list[tuple[Job, str, Attempt | None]]:
    """Up to `limit` + 1 of these jobs behind `after`, in this order, that are in this state still;
    each with its project's name and the claim that runs it.
    """
    if after is not None and after not in ids:
        raise InvalidRequest(
            f"{after!r} is not on this list any more. Begin with the first page.", param="after"
        )
    start = 0 if after is None else ids.index(after) + 1
    wanted = ids[start : start + limit + 1]
    rows = tx.execute(
        select(Job, Project.name, Attempt)
        .join(Project, Project.id == Job.project_id)
        .outerjoin(
            Attempt,
            (Attempt.job_id == Job.id) & (Attempt.token == Job.token) & Attempt.ended_at.is_(None),
        )
        .where(Job.id.in_(wanted), Job.state == state)
    )
    found = {job.id: (job, project, attempt) for job, project, attempt in rows}
    return [found[job_id] for job_id in wanted if job_id in found]
