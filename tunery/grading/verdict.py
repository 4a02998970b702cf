"""Whether a tuned model is better than its base on rows that both answered, as far as so many rows
can tell.

Both answer the same rows, so the rows' differences are looked at. The interval holds the mean
difference of all such rows with 95 % confidence:

- of scores that are all 0 or 1, Tango's score interval for paired proportions (Tango 1998,
  Statistics in Medicine 17:891). It agrees with McNemar's test, which Fagerland, Lydersen and Laake
  (2013, BMC Medical Research Methodology 13:91) recommend for few rows, and it does not shrink to
  nothing where all differences are the same;
- of other scores, Student's t. The percentile bootstrap is narrower than it should be for few rows
  (Hesterberg 2015, The American Statistician 69:371), and t needs no chance.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Annotated, Literal

from pydantic import Field

from tunery.fields import Described

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
# With fewer there is no interval, with fewer than that it is wide.
FEWEST_ROWS = 5
FEW_ROWS = 30

Score = Annotated[float, Field(examples=[0.83])]


class Verdict(Described):
    """How the tuned model compares with the model that the training started from."""

    verdict: Literal["better", "same", "worse"]
    """`better` if the whole interval is above 0, `worse` if it is below, else `same`."""
    rows: Annotated[int, Field(examples=[64])]
    """Rows that both models answered."""
    base_score: Score
    """Mean score of the model that the training started from."""
    tuned_score: Score
    """Mean score of the tuned model."""
    difference: Annotated[float, Field(examples=[0.22])]
    """The tuned model's mean score less the other's."""
    interval: Annotated[tuple[float, float] | None, Field(examples=[[0.12, 0.31]])]
    """The 95 % confidence interval of the difference; null: there are too few rows for one."""
    better_rows: Annotated[int, Field(examples=[21])]
    """Rows with a higher score than before."""
    worse_rows: Annotated[int, Field(examples=[3])]
    """Rows with a lower score than before."""
    warning: (
        Annotated[str, Field(examples=["12 rows are few: only large differences show."])] | None
    )
    """Why the verdict may say little; null: nothing is known against it."""

    @property
    def sentence(self) -> str:
        between = ""
        if self.interval:
            low, high = self.interval
            between = f", 95 % {low:.2f} to {high:.2f}"
        worse = f"{self.worse_rows} row{'' if self.worse_rows == 1 else 's'} got worse"
        return (
            f"{self.verdict}: {self.base_score:.2f} -> {self.tuned_score:.2f} "
            f"({self.difference:+.2f}{between}) on {self.rows} rows; {worse}."
        )


def verdict_of(base: Sequence[float], tuned: Sequence[float]) -> Verdict:
    """Of the scores of the same rows, in the same order; there is at least one."""
    differences = [now - before for before, now in zip(base, tuned, strict=True)]
    rows = len(differences)
    interval = None
    if rows >= FEWEST_ROWS:
        passes = {0.0, 1.0}.issuperset([*base, *tuned])
        interval = (of_passes if passes else of_scores)(differences)
    verdict: Literal["better", "same", "worse"] = "same"
    if interval and interval[0] > 0:
        verdict = "better"
    elif interval and interval[1] < 0:
        verdict = "worse"
    return Verdict(
        verdict=verdict,
        rows=rows,
        base_score=fmean(base),
        tuned_score=fmean(tuned),
        difference=fmean(differences),
        interval=interval,
        better_rows=sum(each > 0 for each in differences),
        worse_rows=sum(each < 0 for each in differences),
        warning=warning_for(rows),
    )


def warning_for(rows: int) -> str | None:
    count = "1 row is" if rows == 1 else f"{rows} rows are"
    if rows < FEWEST_ROWS:
        return f"{count} too few to tell; {FEW_ROWS} or more tell something."
    if rows < FEW_ROWS:
        return f"{count} few: only large differences show."
    return None


def of_scores(differences: Sequence[float]) -> tuple[float, float]:
    """Student's t interval of the mean."""
    rows = len(differences)
    half = t_quantile(rows - 1) * stdev(differences) / math.sqrt(rows)
    mean = fmean(differences)
    return mean - half, mean + half


def t_quantile(freedom: int) -> float:
    """Of Student's distribution at 97.5 %, to 0.001 from 4 degrees of freedom (Abramowitz and
    Stegun 1964, 26.7.5).
    """
    z, v = Z, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def of_passes(differences: Sequence[float]) -> tuple[float, float]:
    """Tango's interval of the mean, of differences that are -1, 0 or 1."""
    rows, gained, lost = len(differences), differences.count(1), differences.count(-1)
    mean = (gained - lost) / rows

    def z_at(difference: float) -> float:
        """The score statistic: how far what was seen is from that difference."""
        b = (2 * rows - gained + lost) * difference - gained - lost
        c = -lost * difference * (1 - difference)
        losing = (math.sqrt(max(0.0, b * b - 8 * rows * c)) - b) / (4 * rows)
        variance = rows * (2 * losing + difference * (1 - difference))
        away = gained - lost - rows * difference
        if variance <= 0:
            return 0.0 if abs(away) < 1e-9 else math.copysign(math.inf, away)
        return away / math.sqrt(variance)

    low = bisected(lambda difference: z_at(difference) > Z, -1.0, mean)
    high = bisected(lambda difference: z_at(difference) > -Z, mean, 1.0)
    return low, high


def bisected(is_below: Callable[[float], bool], low: float, high: float) -> float:
    """Where `is_below` turns false between the two."""
    for _ in range(60):
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2
