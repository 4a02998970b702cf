"""How the rows of a step are computed together."""

from dataclasses import dataclass
from typing import Literal

Way = Literal["packed", "padded", "row by row"]


@dataclass(frozen=True)
class Verdict:
    """What a family's examination found. `packed` rows lie in one sequence, taken apart for the
    modules of the classes that are `mixers`. Of each way that was not chosen `reasons` say why.
    """

    way: Way
    mixers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def in_words(self) -> str:
        apart = f", taken apart for {', '.join(self.mixers)}" if self.mixers else ""
        return f"{self.way}{apart}"


PACKED = Verdict("packed")
