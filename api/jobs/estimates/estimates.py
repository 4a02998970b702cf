"""What a job would be, before it is created."""

from sqlalchemy.orm import Session

from api.jobs import cautions, intake
from api.jobs.estimates import forecast
from api.jobs.estimates.schemas import EstimateObject
from api.jobs.requests import CreateJob
from api.jobs.schemas import training_of
from api.jobs.specs import freeze, template_for
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
    frozen = spec.model_dump(mode="json")
    template = template_for(asked, base, source, data["training_file"])
    load = forecast.load_of(data["training_file"], spec)
    return EstimateObject(
        model=asked.model,
        rows=load.rows,
        tokens=load.tokens,
        longest_row_tokens=load.longest,
        steps=load.steps,
        hyperparameters=resolved.hyperparameters | spec.objective.hyperparameters,
        learning_rate=spec.learning_rate,
        max_length=spec.max_length,
        reasons=resolved.reasons,
        training=training_of(frozen),
        lora=frozen["lora"],
        warnings=[*cautions.of_request(asked, data), *cautions.of_template(template)],
        devices=forecast.on_all(tx, base, spec, data["training_file"]),
    )
