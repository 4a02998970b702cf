"""Servers that answer, as operators add them and see them."""

from typing import Annotated, Literal, Self

from pydantic import Field

from api.http.shapes import OrAbsent, Request, Word, seconds
from api.tables import AnsweringEndpoint, ServedModel
from tunery.fields import CreatedAt, Described, Kind, TunedModel, UnixTime
from tunery.proof.verdict import Finding

AnsweringEndpointId = Annotated[
    str, Field(description="Id of the endpoint.", examples=["end_NqVwYS81VP7Hb1DX8pPd5khx"])
]
EndpointKind = Literal["vllm", "openai", "llama_server"]
Url = Annotated[str, Field(max_length=2_048, examples=["http://vllm:8000"])]
Folder = Annotated[str, Field(max_length=4_096, pattern=r"^/", examples=["/srv/adapters"])]
Names = Annotated[dict[Word, Word], Field(max_length=1_000, examples=[{"tunery-demo": "demo"}])]


class AddAnsweringEndpoint(Request):
    """A server that is to answer for models."""

    url: Url
    """Its address, without or with `/v1`."""
    kind: Annotated[EndpointKind, Field(examples=["vllm"])] = "openai"
    """`vllm`: it may load adapters while it runs. `llama_server`: llama.cpp's. `openai`: any other
    that answers as OpenAI's API.
    """
    api_key: Annotated[str | None, Field(max_length=4_096, examples=["sk-theirs"])] = None
    """The key that it asks for; null: none. It is kept sealed and never shown."""
    bases: Annotated[list[Word], Field(max_length=100, examples=[["Qwen/Qwen3-*"]])] = Field(
        default_factory=list
    )
    """Ids of the base models that it serves under their own ids, with * for any letters."""
    adapters_folder: Folder | None = None
    """Folder that this service writes adapters into, for vLLM to load; null: it loads none."""
    adapters_folder_there: Folder | None = None
    """What that folder is called where the server runs; null: the same."""
    max_adapters: Annotated[int, Field(ge=1, le=10_000, examples=[8])] = 8
    """How many adapters it is given at once."""
    models: Names = Field(default_factory=dict)
    """What it calls models that it was started with, by their names here: of a llama-server all of
    them; else merged models, and bases under other names.
    """


class ServedModelObject(Described):
    """A tuned model at an endpoint."""

    model: TunedModel
    name: Annotated[str, Field(examples=["ftjob-abc123-000000000000"])]
    """Its name there."""
    state: Annotated[str, Field(examples=["verified"])]
    """`verified`: it answers there with the trained weights. `answers_as_base`, `answers_as_other`:
    with others, so that nobody is answered from there. `unverified`: that is not known.
    """
    attested_at: UnixTime | None
    """When it was last asked for its proof, in Unix seconds (UTC); null: never."""
    loaded: bool
    """Whether its adapter was loaded there by this service."""
    finding: OrAbsent[Finding] = None
    """What its answers showed; left out before it was asked."""

    @classmethod
    def of(cls, served: ServedModel) -> Self:
        return cls(
            model=served.model,
            name=served.name,
            state=served.state,
            attested_at=served.attested_at and seconds(served.attested_at),
            loaded=served.loaded,
            finding=served.finding and Finding.model_validate(served.finding),
        )


class AnsweringEndpointObject(Described):
    """A server that answers for models."""

    object: Kind[Literal["answering_endpoint"]] = "answering_endpoint"
    id: AnsweringEndpointId
    url: Url
    """Its address."""
    kind: Annotated[str, Field(examples=["vllm"])]
    """What it is: `vllm`, `openai` or `llama_server`."""
    has_key: bool
    """Whether it is sent a key."""
    bases: Annotated[list[str], Field(examples=[["Qwen/Qwen3-*"]])]
    """Ids of the base models that it serves."""
    adapters_folder: Annotated[str, Field(examples=["/srv/adapters"])] | None
    """Folder that adapters are written into; null: it loads none."""
    adapters_folder_there: Annotated[str, Field(examples=["/adapters"])] | None
    """What that folder is called where the server runs; null: it loads none."""
    max_adapters: Annotated[int, Field(examples=[8])]
    """How many adapters it is given at once."""
    models: Names
    """What it calls models that it was started with, by their names here."""
    trouble: Annotated[str, Field(examples=["All connection attempts failed"])] | None
    """Why it is asked nothing now; null: it can be asked."""
    checked_at: UnixTime | None
    """When it was last looked at, in Unix seconds (UTC); null: never."""
    created_at: CreatedAt
    served: list[ServedModelObject]
    """The tuned models that were asked for there."""

    @classmethod
    def of(cls, endpoint: AnsweringEndpoint, served: list[ServedModel]) -> Self:
        return cls(
            id=endpoint.id,
            url=endpoint.url,
            kind=endpoint.kind,
            has_key=endpoint.sealed is not None,
            bases=endpoint.bases,
            adapters_folder=endpoint.folder,
            adapters_folder_there=endpoint.their_folder,
            max_adapters=endpoint.most_adapters,
            models=endpoint.names,
            trouble=endpoint.trouble,
            checked_at=endpoint.checked_at and seconds(endpoint.checked_at),
            created_at=seconds(endpoint.created_at),
            served=[ServedModelObject.of(each) for each in served],
        )
