"""What of a file is not trained as it is, in words: when a job is created, and when it runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

LINES_NAMED = 10


class Lines(NamedTuple):
    """How many lines of a file, and which: all, or the first ten."""

    number: int
    first: Sequence[int]

    @classmethod
    def of(cls, lines: Sequence[int]) -> Self:
        return cls(len(lines), lines)

    @classmethod
    def reported(cls, found: Mapping[str, Any]) -> Self:
        """As `tunery.data.tokens` tells them."""
        lines = found["lines"]
        return cls(
            found["rows"], [each["line"] if isinstance(each, dict) else each for each in lines]
        )

    def __str__(self) -> str:
        """`line 3`, or `lines 3, 9, 12`, the first ten."""
        rest = ", …" if self.number > LINES_NAMED else ""
        names = ", ".join(map(str, self.first[:LINES_NAMED]))
        return f"line{'s' if self.number > 1 else ''} {names}{rest}"


@dataclass(frozen=True)
class Incomplete:
    """Of `rows` that were looked at: those that the chat template leaves something out of, by the
    words for it; those with nothing to train within `max_length` tokens; and those that the
    template refuses, the first of them for the reason `why`.
    """

    rows: int
    max_length: int
    lost: Mapping[str, Lines]
    dropped: Lines
    refused: Lines
    why: str

    def sentences(self) -> Iterator[str]:
        for words, lines in self.lost.items():
            yield f"Not shown by the chat template: {words}, in {self.share(lines)}."
        if self.dropped.number:
            yield (
                f"Left out, with no trainable tokens within {self.max_length} tokens: "
                f"{self.share(self.dropped)}."
            )
        if self.refused.number:
            yield (
                f"Left out, rejected by the chat template: {self.share(self.refused)}; "
                f"line {self.refused.first[0]}: {self.why}."
            )

    def share(self, lines: Lines) -> str:
        return f"{lines.number} of {self.rows} rows ({lines})"

    def refusal(self, count: int, of: str, most: float) -> str:
        """Why a job is not done, of whose rows so many are not trained as they are: more than the
        share `most`. `of` says which rows those are.
        """
        return (
            f"{count} of {self.rows} rows of {of} would not be trained as they are, and "
            f"training.max_lost_share allows {most:.0%}. {' '.join(self.sentences())} Change the "
            "rows, choose another base model, or raise training.max_lost_share."
        )
