"""What is found of an installation."""

from typing import Literal

from tunery.fields import Described, Kind
from tunery.findings import Finding, State


class ChecksObject(Described):
    """An installation, looked at one thing after the other."""

    object: Kind[Literal["checks"]] = "checks"
    state: State
    """The worst of all."""
    data: list[Finding]
    """What was found, in the order in which it was looked at."""
