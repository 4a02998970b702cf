"""/v1/admin/queue: what waits and what runs, over all projects."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.http.dependencies import MOST, Admin, After, AServer, Server
from api.http.routing import Route
from api.http.shapes import Page, page, seconds
from api.jobs.queue import everyone, waiting
from api.jobs.queue.schemas import QueueEntry
from api.jobs.queue.waiting import Waiting
from api.tables import NOW, Attempt, Job
from tunery.states import JobState

router = APIRouter(prefix="/v1/admin/queue", route_class=Route, tags=["Workers"])

Limit = Annotated[int, Query(ge=1, le=100, description=MOST)]
Of = Annotated[
    Literal[JobState.QUEUED, JobState.RUNNING],
    Query(
        description="`queued`: the first 1,000 that wait, in the order in which they are claimed; "
        "`running`: those that run, the longest first."
    ),
]


@router.get("")
def list_queue(
    server: AServer, _: Admin, status: Of = JobState.QUEUED, limit: Limit = 20, after: After = None
) -> Page[QueueEntry]:
    """Lists the jobs and exports of all projects that wait, with what they wait for, or that run,
    with their workers.
    """
    with server.db.as_control() as tx:
        if status == JobState.RUNNING:
            ids = everyone.running_ids(tx)
            rows = everyone.with_claims(tx, ids, status, limit=limit, after=after)
            return page(rows, limit, lambda row: of_running(*row))
        line = everyone.waiting_line(tx, server.settings)
        rows = everyone.with_claims(tx, list(line), status, limit=limit, after=after)
        of_waiting = reckoner(tx, server, line)
        return page(rows, limit, lambda row: of_waiting(row[0], row[1]))


def of_running(job: Job, project: str, attempt: Attempt | None) -> QueueEntry:
    finish = job.estimated_finish
    # What is late may end at any moment.
    late = seconds(max(finish, datetime.now(UTC))) if finish else None
    return QueueEntry.of(job, project, attempt, None, late)


def reckoner(
    tx: Session, server: Server, line: dict[str, Waiting]
) -> Callable[[Job, str], QueueEntry]:
    """What shows a waiting job. Workers and jobs ahead are asked for once for all of them."""
    now = tx.scalars(select(NOW)).one()
    known = waiting.hands(tx, now)
    place = {job_id: number for number, job_id in enumerate(line)}
    away = server.storage.away

    def shown(job: Job, project: str) -> QueueEntry:
        count = place[job.id]
        foreseen = list(islice(line.values(), count)) if count <= waiting.FORESEEN else []
        ahead = (foreseen, count)
        queue, finish = waiting.reckon(
            tx, server.settings, job, ahead, known, now, storage_away=away
        )
        return QueueEntry.of(job, project, None, queue, finish)

    return shown
