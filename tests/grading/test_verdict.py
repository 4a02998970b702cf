"""Intervals and verdicts, against scipy 1.16: `scipy.stats.t`, and for pairs of passes the score
statistic with its likelihood maximized by `scipy.optimize`.
"""

import pytest

from tunery.grading.verdict import of_passes, of_scores, t_quantile, verdict_of


@pytest.mark.parametrize(
    ("rows", "gained", "lost", "low", "high"),
    [(50, 12, 2, 0.061112, 0.344709), (20, 5, 1, -0.049129, 0.436908)],
)
def test_the_interval_of_passes_is_that_of_tangos_score_statistic(
    rows: int, gained: int, lost: int, low: float, high: float
) -> None:
    differences = [1.0] * gained + [-1.0] * lost + [0.0] * (rows - gained - lost)
    assert of_passes(differences) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("freedom", "t"), [(4, 2.776445), (9, 2.262157), (30, 2.042272)])
def test_the_quantile_of_t_is_students(freedom: int, t: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t, abs=1e-3)


def test_the_interval_of_scores_is_students() -> None:
    # Mean 0.3 and a standard error of 0.158114 / sqrt(5).
    low, high = of_scores([0.1, 0.2, 0.3, 0.4, 0.5])
    assert (low, high) == pytest.approx((0.3 - 0.196324, 0.3 + 0.196324), abs=1e-4)


def test_a_verdict_is_better_or_worse_only_where_the_whole_interval_is() -> None:
    base = [0.0] * 20 + [1.0] * 20
    better = verdict_of(base, [1.0] * 38 + [0.0] * 2)
    assert better.verdict == "better"
    assert better.sentence == (
        "better: 0.50 -> 0.95 (+0.45, 95 % 0.25 to 0.62) on 40 rows; 2 rows got worse."
    )
    assert verdict_of([1.0] * 38 + [0.0] * 2, base).verdict == "worse"
    assert verdict_of(base, [1.0, *base[1:]]).verdict == "same"
    assert better.warning is None


def test_few_rows_are_said_to_be_few_and_the_fewest_tell_nothing() -> None:
    few = verdict_of([0.0] * 12, [1.0] * 12)
    assert (few.verdict, few.warning) == ("better", "12 rows are few: only large differences show.")
    fewest = verdict_of([0.0] * 4, [1.0] * 4)
    assert (fewest.verdict, fewest.interval) == ("same", None)
    assert fewest.warning == "4 rows are too few to tell; 30 or more tell something."


def test_where_nothing_differs_there_still_is_an_interval() -> None:
    same = verdict_of([1.0] * 40, [1.0] * 40)
    assert same.verdict == "same"
    assert same.interval
    assert same.interval[0] < 0 < same.interval[1]
