"""What a job would be, before it is created."""

from sqlalchemy.orm import Session

from api.jobs import intake
from api.jobs.estimates import forecast
from api.jobs.estimates.schemas import EstimateObject
from api.jobs.requests import CreateJob
from api.jobs.specs import freeze
from api.tables import BaseModel
from tunery.errors import Conflict


def estimate(
    tx: Session, asked: CreateJob, unregistered: BaseModel | None = None
) -> EstimateObject:
    """Creates nothing. The model that is asked for may be one that is not registered yet.

    Raises:
        NotFound, InvalidRequest, FileHasFaults: as `jobs.create`.
        Conflict: a file is still being checked.

    """
    base, source, data = intake.look_up(tx, asked, unregistered)
    if not intake.checked(data):
        raise Conflict(
            "A file is still being checked. Ask again when GET /v1/files/{id} shows it processed.",
            code="file_not_checked",
        )
    spec, resolved = freeze(asked, base, source, data, seed=asked.seed or 0)
    load = forecast.load_of(data["training_file"], spec)
    return EstimateObject(
        model=asked.model,
        rows=load.rows,
        tokens=load.tokens,
        longest_row_tokens=load.longest,
        steps=load.steps,
        hyperparameters=resolved.hyperparameters,
        learning_rate=spec.learning_rate,
        max_length=spec.max_length,
        reasons=resolved.reasons,
        devices=forecast.on_all(tx, base, spec, data["training_file"]),
    )
