"""/v1/fine_tuning/alpha/graders"""

import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request

from api.http.dependencies import AServer, Reader
from api.http.routing import Route
from api.jobs.evaluations import graders
from api.jobs.evaluations.grader_schemas import (
    GraderRun,
    RunGrader,
    ValidatedGrader,
    ValidateGrader,
)
from tunery.grading.grade import Grade, grade
from tunery.grading.graders import Grader
from tunery.grading.templates import Sample

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", route_class=Route, tags=["Graders"])


@router.post("/run")
async def run(asked: RunGrader, server: AServer, caller: Reader) -> GraderRun:
    """Grades one answer."""
    began = time.monotonic()
    found = await server.gradings.run(
        caller.project_id, partial(graded, asked.grader, asked.item, asked.model_sample)
    )
    return GraderRun.of(asked.grader, found, {}, time.monotonic() - began)


def graded(grader: Grader, item: dict[str, Any], answer: str) -> Grade:
    graders.require_usable(grader)
    return grade(grader, item, Sample(answer))


@router.post("/validate")
async def validate(
    asked: ValidateGrader, request: Request, server: AServer, caller: Reader
) -> ValidatedGrader:
    """Checks a grader. One that cannot be used is an error."""
    await server.gradings.run(caller.project_id, partial(graders.require_usable, asked.grader))
    return ValidatedGrader(grader=(await request.json())["grader"])
