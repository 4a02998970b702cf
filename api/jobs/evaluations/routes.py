"""/v1/fine_tuning/jobs/{job_id}/evaluation"""

from fastapi import APIRouter

from api.http.dependencies import AServer, Reader
from api.http.routing import Route
from api.jobs import state
from api.jobs.evaluations import verdicts
from api.jobs.evaluations.schemas import EvaluationObject
from tunery.errors import NotFound
from tunery.fields import JobId

router = APIRouter(prefix="/v1/fine_tuning/jobs", route_class=Route, tags=["Fine-tuning jobs"])


@router.get("/{job_id}/evaluation")
def retrieve(job_id: JobId, server: AServer, caller: Reader) -> EvaluationObject:
    """Returns how a job's model compares with its base, with all answers."""
    with server.db.as_project(caller.project_id) as tx:
        job = state.get(tx, job_id)
        if not (job.spec or {}).get("evaluation"):
            raise NotFound(
                f"Job {job_id} was created without evaluation, or its files are not checked yet."
            )
        return EvaluationObject.of_rows(job, verdicts.rows_of(tx, job_id))
