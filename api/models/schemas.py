"""Models, and who else may use them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.http.shapes import OrAbsent, Request, Word, seconds
from api.models.tuned import Listed
from api.tables import BaseModel as BaseModelRow
from api.tables import CheckpointPermission, ServedModel
from tunery import hub
from tunery.facts import MOST_TEMPLATE_CHARACTERS, Examined
from tunery.fields import (
    BaseModelId,
    Bytes,
    CreatedAt,
    Described,
    JobId,
    Kind,
    ModelName,
    ProjectId,
    Revision,
    TunedModel,
    UnixTime,
)
from tunery.plan.shape import ENCODERS, Shape

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


class ModelExtras(Described):
    """What is known of a base model beside its name."""

    architecture: Annotated[str, Field(examples=["llama"])]
    """Its family: the `model_type` of the model's config."""
    parameters: Annotated[int, Field(examples=[494_032_768])] | None
    """Number of its weights; null if it was registered before they were counted."""
    bytes: Annotated[Bytes, Field(examples=[988_097_824])]
    """Size of all its files in bytes."""
    context_length: Annotated[int, Field(examples=[1024])]
    """Maximum number of tokens that the model can read at once."""
    licence: Annotated[str, Field(examples=["apache-2.0"])] | None
    """Licence of the model; null: it was not stated."""
    has_chat_template: bool
    """Whether chats can be trained on without naming a `training.chat_template`."""
    methods: Annotated[list[str], Field(examples=[["supervised", "dpo"]])]
    """The methods that train it: `supervised` and `dpo`, or `masked_lm` for an encoder."""

    @classmethod
    def of(cls, model: BaseModelRow) -> "ModelExtras":
        shape = model.shape and Shape.model_validate(model.shape)
        encoder = model.architecture in ENCODERS
        return cls(
            architecture=model.architecture,
            parameters=shape.parameters if shape else None,
            bytes=sum(file["bytes"] for file in model.files),
            context_length=model.context_length,
            licence=model.licence,
            has_chat_template=model.has_chat_template or model.chat_template is not None,
            methods=["masked_lm"] if encoder else ["supervised", "dpo"],
        )


class Served(Described):
    """What was found of a tuned model at a server that answers in the place of workers."""

    state: Annotated[str, Field(examples=["verified"])]
    """`verified`: it answers there with the trained weights. `answers_as_base`, `answers_as_other`:
    with others, so that nobody is answered from there. `unverified`: that cannot be told.
    """
    reason: Annotated[str, Field(examples=["Its scores are 1.00 (± 0.01) of the way."])]
    """Why, in a sentence for people."""
    attested_at: UnixTime
    """When the server was last asked for the model's proof, in Unix seconds (UTC)."""

    @classmethod
    def of(cls, row: ServedModel) -> "Served":
        assert row.attested_at  # noqa: S101
        return cls(state=row.state, reason=row.reason or "", attested_at=seconds(row.attested_at))


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
    tunery: OrAbsent[ModelExtras] = None
    """What else is known of a base model; left out of a tuned model."""
    base_model: OrAbsent[BaseModelId] = None
    """Id of the base model that a tuned model was made from; left out of a base model."""
    went_on_from: OrAbsent[TunedModel] = None
    """Name of the tuned model or checkpoint that a tuned model's job went on from; left out if it
    began with the base model.
    """
    job_id: OrAbsent[JobId] = None
    """Id of the job that made a tuned model; left out of another project's."""
    served: OrAbsent[Served] = None
    """What a server that answers for a tuned model was found to answer with; left out of a list,
    and where no server was asked.
    """

    @classmethod
    def of_base(cls, model: BaseModelRow) -> "ModelObject":
        return cls(
            id=model.id,
            created=seconds(model.created_at),
            owned_by="tunery",
            revision=model.revision,
            broken=model.broken,
            examined=model.examined and Examined.model_validate(model.examined),
            tunery=ModelExtras.of(model),
        )

    @classmethod
    def of_tuned(cls, model: Listed, served: ServedModel | None = None) -> "ModelObject":
        """Its owner is the project that its name names."""
        return cls(
            id=model.name,
            created=seconds(model.created_at),
            owned_by=model.name.split(":")[2],
            base_model=model.base_model,
            went_on_from=model.went_on_from,
            job_id=model.job_id,
            served=served and Served.of(served),
        )


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
