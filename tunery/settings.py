"""A process's settings, read from its environment; or the end of it, in words."""

import sys
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Kind = TypeVar("Kind", bound=BaseModel)


def read(kind: type[Kind]) -> Kind:
    """Ends the process with a line for each variable that is missing or wrong. No value is shown:
    it may be a secret.
    """
    try:
        return kind()
    except ValidationError as error:
        faults = [fault(kind, one["loc"], one["type"], one["msg"]) for one in error.errors()]
        sys.exit("\n".join([*faults, ".env.example says what each variable is for."]))


def fault(kind: type[BaseModel], place: tuple[int | str, ...], what: str, said: str) -> str:
    name = variable(kind, str(place[0])) if place else "The environment"
    name += "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place[1:])
    if what == "missing":
        return f"{name} is not set."
    # Of a secret's length pydantic speaks as of a list's.
    told = said.replace("Value should have", "it should have").replace("items", "characters")
    told = told.partition(" after validation")[0].removeprefix("Value error, ")
    return f"{name} cannot be used: {told[:1].lower()}{told[1:]}."


def variable(kind: type[BaseModel], name: str) -> str:
    """A setting's name in the environment; a name that is none is one already."""
    field = kind.model_fields.get(name)
    if field is None:
        return name
    prefix = str(kind.model_config.get("env_prefix", ""))
    return str(field.validation_alias or f"{prefix}{name}".upper())
