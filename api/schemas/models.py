"""Models."""

from typing import Literal

from pydantic import BaseModel

from api.schemas.shapes import seconds
from api.tables import BaseModel as BaseModelRow
from api.tables import Job


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str

    @classmethod
    def of_base(cls, model: BaseModelRow) -> "ModelObject":
        return cls(id=model.id, created=seconds(model.created_at), owned_by="tunery")

    @classmethod
    def of_job(cls, job: Job, project: str) -> "ModelObject":
        return cls(
            id=job.fine_tuned_model or "",
            created=seconds(job.finished_at or job.created_at),
            owned_by=project,
        )
