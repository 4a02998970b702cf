"""Whether a server's answers are those of the tuned model, of its base, or of neither.

At each place of the proof's rows base and tuned model give the token there a log-probability, and
so does the server. Where b, t and s are these,

    share = sum (t - b) (s - b) / sum (t - b)^2

is how far the server has gone from base to tuned: 0 is the base, 1 the tuned model. A server in
another precision adds noise to s that knows nothing of t - b, so that the share stays and only its
error grows, which is computed from what the share leaves over (White's estimate: it holds for noise
that differs from place to place). An adapter of which the server leaves out a part, or another
adapter, gives another share or leaves more over than noise does.

The thresholds:

- `OFF_SHARE` 0.05: a server that quantizes finds every token a little less likely, which bends
  the share of a model that was trained on answers; the demo model's in q4_0 by 0.03. A part of an
  adapter that makes less than a twentieth of the difference is not seen.
- `NOISE` 0.1 nats a token on average: about what 4 bits make of a model, and ten times what 16 bits
  do. A server nearer than that to the tuned model is no other model.
- `OFF_SCORES` 0.15 of what lies between base and tuned: what is left of it where that is more than
  `NOISE`, since few bits move unlikely tokens more.
- `TELLING` 0.5: with a larger error (three standard ones) the share tells no base from tuned.
- `FLOOR` -8 nats: tokens that nobody would say differ by whole nats between precisions.

Scores alone are not enough: there were servers that score with one set of weights and answer with
another. So at forks, where base and tuned model go on differently by a clear margin, the server is
asked for a token, and at `MOST_FORKS_TUNED` 0.75 of them has to choose the tuned model's.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from tunery.fields import Described
from tunery.proof.kept import Fork, Proof

OFF_SHARE = 0.05
NOISE = 0.1
OFF_SCORES = 0.15
TELLING = 0.5
FLOOR = -8.0
MOST_FORKS_TUNED = 0.75
FEWEST_PLACES = 8
# Root mean square of t - b, in nats; proofs are rounded to a tenth of a thousandth.
LEAST_APART = 0.002

Verdict = Literal["verified", "answers_as_base", "answers_as_other", "not_measurable"]


@dataclass
class Heard:
    """What a server answered. `scores` are log-probabilities in nats by (row's number in the proof,
    place), `chosen` what it said at forks, `rendered` whether it renders a row's messages as the
    training did, by the row's number. `how` says what it was asked by; `silent` why it gave no
    scores.
    """

    scores: dict[tuple[int, int], float] = field(default_factory=dict)
    chosen: list[tuple[Fork, int | str]] = field(default_factory=list)
    rendered: dict[int, bool] = field(default_factory=dict)
    how: str = ""
    silent: str = ""


class Finding(Described):
    """What a server's answers show, with the figures that it is judged by."""

    verdict: Verdict = Field(examples=["verified"])
    """`verified`: it answers with the trained weights; `answers_as_base`, `answers_as_other`: with
    the base's or with others; `not_measurable`: that cannot be told.
    """
    reason: str = Field(examples=["It is 1.00 (± 0.01) of the way from the base to the model."])
    """Why, in a sentence for people."""
    places: int = Field(examples=[512])
    """At how many tokens it was compared."""
    share: float | None = Field(examples=[1.0])
    """How far its scores are from the base's (0) to the tuned model's (1); null: not compared."""
    share_error: float | None = Field(examples=[0.01])
    """Three standard errors of the share."""
    off_tuned: float | None = Field(examples=[0.004])
    """Mean difference from the tuned model's log-probabilities, in nats a token."""
    off_base: float | None = Field(examples=[0.61])
    """Mean difference from the base's."""
    apart: float | None = Field(examples=[0.61])
    """Mean difference between the two."""
    forks: int = Field(examples=[12])
    """At how many places it was asked for a token that the two choose differently."""
    forks_as_tuned: int = Field(examples=[12])
    """At how many it chose the tuned model's."""
    forks_as_base: int = Field(examples=[0])
    """At how many it chose the base's."""
    template: Literal["same", "differs", "not_asked"] = Field(examples=["same"])
    """Whether it renders messages as the training did."""
    how: str = Field(examples=["echo"])
    """By what it was asked for scores."""


@dataclass(frozen=True)
class Compared:
    places: int
    share: float
    error: float
    off_tuned: float
    off_base: float
    apart: float

    @property
    def in_words(self) -> str:
        return (
            f"its scores are {self.share:.2f} (± {self.error:.2f}) of the way from the base to the "
            f"tuned model, and {self.off_tuned:.3f} nats a token off the tuned model, "
            f"{self.off_base:.3f} off the base, on {self.places} tokens"
        )


def judge(proof: Proof, heard: Heard) -> Finding:
    compared = compare(proof, heard)
    as_tuned = sum(1 for fork, said in heard.chosen if says(said, fork.tuned, fork.tuned_text))
    as_base = sum(1 for fork, said in heard.chosen if says(said, fork.base, fork.base_text))
    verdict, reason = by_scores(compared, heard)
    asked = len(heard.chosen)
    if asked and verdict in {"verified", "not_measurable"}:
        said = f"of {asked} tokens that the two choose differently it chose "
        if as_tuned < MOST_FORKS_TUNED * asked:
            verdict = "answers_as_base" if 2 * as_base >= asked else "answers_as_other"
            reason = f"{reason}; but {said}{as_tuned} as the tuned model, {as_base} as the base"
        elif verdict == "verified":
            reason = f"{reason}; {said}{as_tuned} as the tuned model"
    differs = [number for number, same in heard.rendered.items() if not same]
    if differs and verdict in {"verified", "not_measurable"}:
        verdict = "answers_as_other"
        lines = ", ".join(str(proof.rows[number].line) for number in differs[:3])
        reason = (
            f"{reason}; but it makes other tokens of messages (of line {lines}) than the training "
            "did: it has another chat template or tokenizer"
        )
    template: Literal["same", "differs", "not_asked"] = "not_asked"
    if heard.rendered:
        template = "differs" if differs else "same"
    return Finding(
        verdict=verdict,
        reason=f"{reason[0].upper()}{reason[1:]}.",
        places=compared.places if compared else 0,
        share=rounded(compared.share) if compared else None,
        share_error=rounded(compared.error) if compared else None,
        off_tuned=rounded(compared.off_tuned) if compared else None,
        off_base=rounded(compared.off_base) if compared else None,
        apart=rounded(compared.apart) if compared else None,
        forks=asked,
        forks_as_tuned=as_tuned,
        forks_as_base=as_base,
        template=template,
        how=heard.how,
    )


def says(said: int | str, id_: int, text: str) -> bool:
    """Servers that name no ids differ in the space before a text's first token."""
    return said == id_ if isinstance(said, int) else said.strip() == text.strip()


def rounded(figure: float) -> float:
    return round(figure, 4)


def compare(proof: Proof, heard: Heard) -> Compared | None:
    """None: there is too little to compare."""
    found = []
    for (row, place), score in heard.scores.items():
        base, tuned = proof.rows[row].base[place], proof.rows[row].tuned[place]
        if base is not None and tuned is not None:
            found.append(tuple(max(FLOOR, each) for each in (base, tuned, score)))
    square = sum((t - b) ** 2 for b, t, _ in found)
    if len(found) < FEWEST_PLACES or math.sqrt(square / len(found)) < LEAST_APART:
        return None
    share = sum((t - b) * (s - b) for b, t, s in found) / square
    over = sum(((t - b) * (s - b - share * (t - b))) ** 2 for b, t, s in found)
    return Compared(
        places=len(found),
        share=share,
        error=3 * math.sqrt(over) / square,
        off_tuned=sum(abs(s - t) for _, t, s in found) / len(found),
        off_base=sum(abs(s - b) for b, _, s in found) / len(found),
        apart=sum(abs(t - b) for b, t, _ in found) / len(found),
    )


def by_scores(compared: Compared | None, heard: Heard) -> tuple[Verdict, str]:
    if heard.silent:
        return "not_measurable", heard.silent
    if compared is None:
        return "not_measurable", (
            "on the proof's rows base and tuned model say the same: no answer can tell them apart"
            if len(heard.scores) >= FEWEST_PLACES
            else f"the server scored {len(heard.scores)} tokens, which is too few"
        )
    most = max(NOISE, OFF_SCORES * compared.apart)
    if compared.error >= TELLING:
        if min(compared.off_tuned, compared.off_base) > most:
            return "answers_as_other", compared.in_words
        return "not_measurable", compared.in_words
    tolerance = max(OFF_SHARE, compared.error)
    if abs(compared.share - 1) <= tolerance and compared.off_tuned <= most:
        return "verified", compared.in_words
    if abs(compared.share) <= tolerance and compared.off_base <= most:
        return "answers_as_base", compared.in_words
    return "answers_as_other", compared.in_words
