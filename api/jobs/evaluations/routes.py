"""/v1/fine_tuning/jobs/{job_id}/evaluation"""

from typing import Annotated

from fastapi import APIRouter, Query

from api.http.dependencies import AServer, Reader
from api.http.routing import Route
from api.jobs import state
from api.jobs.evaluations import verdicts
from api.jobs.evaluations.schemas import EvaluationObject
from tunery.errors import NotFound
from tunery.evaluations import MOST_ROWS
from tunery.fields import JobId

router = APIRouter(prefix="/v1/fine_tuning/jobs", route_class=Route, tags=["Fine-tuning jobs"])


AfterLine = Annotated[
    int, Query(ge=0, le=2**63 - 1, description="Line of the last row of the page before; 0: none.")
]
MostRows = Annotated[int, Query(ge=1, le=MOST_ROWS, description="Most rows to return.")]


@router.get("/{job_id}/evaluation")
def retrieve(
    job_id: JobId, server: AServer, caller: Reader, limit: MostRows = 100, after_line: AfterLine = 0
) -> EvaluationObject:
    """Returns how a job's model compares with its base, with a page of the answers."""
    with server.db.as_project(caller.project_id) as tx:
        job = state.get(tx, job_id)
        if not (job.spec or {}).get("evaluation"):
            raise NotFound(
                f"Job {job_id} was created without evaluation, or its files are not checked yet."
            )
        rows = verdicts.rows_of(tx, job_id, after_line=after_line, limit=limit + 1)
        return EvaluationObject.of_rows(job, rows[:limit], has_more=len(rows) > limit)
