"""A project's way to a tracker."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from api.http.shapes import Request, seconds
from api.tables import TrackerKey
from tunery.fields import CreatedAt, Described, Kind, UnixTime

KEY = re.compile(r"[!-~]{8,512}")


def sendable(key: SecretStr) -> SecretStr:
    if not KEY.fullmatch(key.get_secret_value()):
        raise ValueError("must be 8 to 512 printable ASCII characters without spaces")
    return key


class PutWandb(Request):
    """The project's account at Weights & Biases."""

    api_key: Annotated[
        SecretStr,
        Field(max_length=512, examples=["0123456789abcdef" * 2]),
        AfterValidator(sendable),
    ]
    """Its API key: 8 to 512 printable ASCII characters without spaces."""


class IntegrationObject(Described):
    """A project's account at a tracker. Its key is never returned."""

    object: Kind[Literal["project.integration"]] = "project.integration"
    type: Literal["wandb"] = "wandb"
    """The tracker: Weights & Biases."""
    base_url: Annotated[str, Field(examples=["https://api.wandb.ai"])]
    """Address of the tracker, which the operator chooses."""
    created_at: CreatedAt
    updated_at: UnixTime
    """When the key was last changed, in Unix seconds (UTC)."""

    @classmethod
    def of(cls, key: TrackerKey, base_url: str) -> "IntegrationObject":
        return cls(
            base_url=base_url,
            created_at=seconds(key.created_at),
            updated_at=seconds(key.updated_at),
        )
