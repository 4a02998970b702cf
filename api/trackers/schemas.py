"""A project's way to a tracker."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from api.http.shapes import Request, seconds
from api.tables import TrackerKey

KEY = re.compile(r"[!-~]{8,512}")


def sendable(key: SecretStr) -> SecretStr:
    if not KEY.fullmatch(key.get_secret_value()):
        raise ValueError("must be 8 to 512 printable ASCII characters without spaces")
    return key


class PutWandb(Request):
    api_key: Annotated[SecretStr, Field(max_length=512), AfterValidator(sendable)]


class IntegrationObject(BaseModel):
    """`base_url` is the service's to choose. The key is in no answer."""

    object: Literal["project.integration"] = "project.integration"
    type: Literal["wandb"] = "wandb"
    base_url: str
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, key: TrackerKey, base_url: str) -> "IntegrationObject":
        return cls(
            base_url=base_url,
            created_at=seconds(key.created_at),
            updated_at=seconds(key.updated_at),
        )
