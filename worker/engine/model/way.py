"""How the rows of a step are computed together."""

from dataclasses import dataclass, field
from typing import Literal

from tunery.plan.footprint import Footprint
from tunery.plan.memory import Compute

Way = Literal["packed", "padded", "row by row"]


@dataclass(frozen=True)
class Verdict:
    """What a family's examination found. `packed` rows lie in one sequence, taken apart for the
    modules of the classes that are `mixers`. Of each way that was not chosen `reasons` say why. A
    `plain_head` is as in `Head`; `footprints` are by what a device computes in.
    """

    way: Way
    mixers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    plain_head: bool = field(default=True, compare=False)
    footprints: dict[Compute, Footprint] = field(default_factory=dict, compare=False)

    def in_words(self) -> str:
        apart = f", taken apart for {', '.join(self.mixers)}" if self.mixers else ""
        return f"{self.way}{apart}"


PACKED = Verdict("packed")
