"""What a check of an installation finds: what is right, what is wrong, and how to fix it."""

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field

from tunery.fields import Described

State = Literal["ok", "warn", "wrong"]


class Finding(Described):
    """One thing that was looked at."""

    check: Annotated[str, Field(examples=["janitor"])]
    """What was looked at."""
    state: Annotated[State, Field(examples=["wrong"])]
    """`wrong`: something does not work; `warn`: it works, and may soon not, or not for all."""
    message: Annotated[str, Field(examples=["No janitor has been heard of for 190 s."])]
    """What was found."""
    mend: Annotated[str | None, Field(examples=["Start one: python -m api.janitor."])] = None
    """How to fix it; null where nothing is wrong."""


def ok(check: str, message: str) -> Finding:
    return Finding(check=check, state="ok", message=message)


def warn(check: str, message: str, mend: str) -> Finding:
    return Finding(check=check, state="warn", message=message, mend=mend)


def wrong(check: str, message: str, mend: str) -> Finding:
    return Finding(check=check, state="wrong", message=message, mend=mend)


def worst(found: Sequence[Finding]) -> State:
    states: tuple[State, ...] = get_args(State)
    return max((one.state for one in found), key=states.index, default="ok")
