"""Models, and who else may use them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.http.shapes import OrAbsent, Request, Word, seconds
from api.tables import BaseModel as BaseModelRow
from api.tables import CheckpointPermission


class ModelObject(BaseModel):
    """A base model has a `revision` too, and one that cannot be loaded says why it is `broken`: an
    operator repairs its folder and adds it again.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    revision: OrAbsent[str] = None
    broken: OrAbsent[str] = None

    @classmethod
    def of_base(cls, model: BaseModelRow) -> "ModelObject":
        return cls(
            id=model.id,
            created=seconds(model.created_at),
            owned_by="tunery",
            revision=model.revision,
            broken=model.broken,
        )

    @classmethod
    def of_tuned(cls, name: str, created_at: datetime) -> "ModelObject":
        """Its owner is the project that its name names."""
        return cls(id=name, created=seconds(created_at), owned_by=name.split(":")[2])


class Share(Request):
    project_ids: Annotated[list[Word], Field(min_length=1, max_length=100)]


class PermissionObject(BaseModel):
    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str

    @classmethod
    def of(cls, permission: CheckpointPermission) -> "PermissionObject":
        return cls(
            id=permission.id,
            created_at=seconds(permission.created_at),
            project_id=permission.shared_with,
        )
