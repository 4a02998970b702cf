"""/v1/fine_tuning/estimate"""

from fastapi import APIRouter

from api.http.dependencies import AServer, Reader
from api.http.routing import Route
from api.jobs.estimates import estimates
from api.jobs.estimates.schemas import EstimateObject
from api.jobs.requests import CreateJob
from api.models import bases, hub

router = APIRouter(prefix="/v1/fine_tuning/estimate", route_class=Route, tags=["Fine-tuning jobs"])


@router.post("")
async def estimate(asked: CreateJob, server: AServer, caller: Reader) -> EstimateObject:
    """What a job would be: its settings, and on each device its plan and its time."""
    facts = await hub.new_facts(server, caller.project_id, asked.model)

    def look() -> EstimateObject:
        with server.db.as_project(caller.project_id) as tx:
            return estimates.estimate(tx, asked, bases.of(facts) if facts else None)

    return await server.estimates.run(caller.project_id, look)
