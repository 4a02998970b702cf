"""/v1/fine_tuning/alpha/graders"""

import time
from functools import partial

from fastapi import APIRouter, Request

from api.http.dependencies import AServer, Reader, Server
from api.http.routing import Route
from api.jobs.evaluations import graders, judging
from api.jobs.evaluations.grader_schemas import (
    GraderRun,
    RunGrader,
    ValidatedGrader,
    ValidateGrader,
)
from api.serving.sse import while_there
from api.tenants.places import in_thread
from api.tenants.projects import Caller
from tunery.grading.grade import grade
from tunery.grading.graders import Grader, judges_of
from tunery.grading.templates import Sample

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", route_class=Route, tags=["Graders"])


@router.post("/run")
async def run(asked: RunGrader, request: Request, server: AServer, caller: Reader) -> GraderRun:
    """Grades one answer."""
    began = time.monotonic()
    grader, item, sample = asked.grader, asked.item, Sample(asked.model_sample)
    await in_thread(require, server, caller, grader)
    asking = judging.replies(server, caller.project_id, grader, item, sample)
    replies = await while_there(request, asking)
    do = partial(grade, grader, item, sample, replies)
    found = await server.gradings.run(caller.project_id, do)
    return GraderRun.of(grader, found, replies, time.monotonic() - began)


def require(server: Server, caller: Caller, grader: Grader) -> None:
    graders.require_usable(grader)
    if judges_of(grader):
        with server.db.as_project(caller.project_id) as tx:
            graders.require_judges(tx, grader, param="grader")


@router.post("/validate")
async def validate(
    asked: ValidateGrader, request: Request, server: AServer, caller: Reader
) -> ValidatedGrader:
    """Checks a grader. One that cannot be used is an error."""
    await in_thread(require, server, caller, asked.grader)
    return ValidatedGrader(grader=(await request.json())["grader"])
