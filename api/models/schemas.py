"""Models, and who else may use them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.http.shapes import OrAbsent, Request, Word, seconds
from api.tables import BaseModel as BaseModelRow
from api.tables import CheckpointPermission
from tunery import hub
from tunery.facts import MOST_TEMPLATE_CHARACTERS, Examined
from tunery.fields import CreatedAt, Described, Kind, ModelName, ProjectId, Revision

# A name with a / is a hub's.
SHORT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


def named_as_on_a_hub(name: str) -> str:
    if not hub.REPOSITORY.fullmatch(name):
        raise ValueError("is no name on a model hub; write it as ORG/NAME")
    return name


def revision_on_a_hub(revision: str | None) -> str | None:
    if revision is not None and not hub.REVISION.fullmatch(revision):
        raise ValueError("is no commit, tag or branch")
    return revision


class HubModel(Request):
    """A model on the hub that this service asks (`HF_ENDPOINT`), to be registered."""

    hub: Annotated[
        str,
        Field(max_length=96, examples=["Qwen/Qwen3-0.6B"]),
        AfterValidator(named_as_on_a_hub),
    ]
    """Name of the model on the hub."""
    revision: Annotated[
        str | None, Field(max_length=128, examples=["main"]), AfterValidator(revision_on_a_hub)
    ] = None
    """A commit, tag or branch; null: the hub's default branch. What is registered is the commit."""
    id: Annotated[
        str | None, Field(max_length=128, pattern=SHORT_NAME, examples=["qwen3-small"])
    ] = None
    """What jobs call it, without a `/`; null: its name on the hub."""
    licence: Annotated[str | None, Field(max_length=1024, examples=["apache-2.0"])] = None
    """Licence of the model; null: what its card names."""
    chat_template: Annotated[
        str | None,
        Field(min_length=1, max_length=MOST_TEMPLATE_CHARACTERS, examples=["chatml"]),
    ] = None
    """Chat template in the place of the model's own: a name of `training.chat_template`, or Jinja;
    null: the model's own, or the one it was given before.
    """


class ModelObject(Described):
    """A base model, or a tuned one."""

    id: ModelName
    object: Kind[Literal["model"]] = "model"
    created: CreatedAt
    owned_by: Annotated[str, Field(examples=["tunery"])]
    """Name of the project that trained it; `tunery` for a base model."""
    revision: OrAbsent[Revision] = None
    """Version of a base model: a commit, or a hash over its files; left out of a tuned model."""
    broken: OrAbsent[
        Annotated[str, Field(examples=["model.safetensors: its header cannot be read."])]
    ] = None
    """Why workers of some build cannot load or train a base model; left out if none has said so.
    An operator repairs its folder and adds it again, or upgrades the workers.
    """
    examined: OrAbsent[Examined] = None
    """How a base model's family is trained; left out until a machine has examined it."""

    @classmethod
    def of_base(cls, model: BaseModelRow) -> "ModelObject":
        return cls(
            id=model.id,
            created=seconds(model.created_at),
            owned_by="tunery",
            revision=model.revision,
            broken=model.broken,
            examined=model.examined and Examined.model_validate(model.examined),
        )

    @classmethod
    def of_tuned(cls, name: str, created_at: datetime) -> "ModelObject":
        """Its owner is the project that its name names."""
        return cls(id=name, created=seconds(created_at), owned_by=name.split(":")[2])


class Share(Request):
    """Whom a model is shared with."""

    project_ids: Annotated[
        list[Annotated[Word, Field(examples=["proj_NCiia3anXn9k3ksu9mI4ROnl"])]],
        Field(min_length=1, max_length=100),
    ]
    """Ids of the projects that may use the model."""


PermissionId = Annotated[
    str, Field(description="Id of the permission.", examples=["cp_v1niUK8iO5YAgkBxjd2AsjD7"])
]


class PermissionObject(Described):
    """One project's permission to use a tuned model or checkpoint of another."""

    id: PermissionId
    object: Kind[Literal["checkpoint.permission"]] = "checkpoint.permission"
    created_at: CreatedAt
    project_id: Annotated[ProjectId, Field(description="Id of the project that may use it.")]

    @classmethod
    def of(cls, permission: CheckpointPermission) -> "PermissionObject":
        return cls(
            id=permission.id,
            created_at=seconds(permission.created_at),
            project_id=permission.shared_with,
        )
