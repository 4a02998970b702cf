"""Scores of texts: worked out by hand, and as sacrebleu 2.6, rouge-score 0.1.2 and rapidfuzz 3.14
give them.
"""

import pytest

from tunery.grading.similarity import METRICS

CAT, MAT = "the cat sat on the mat", "the cat is on the mat"
COW, STOMACHS = "A cow has four stomachs.", "A cow has one stomach, with four compartments."


@pytest.mark.parametrize(
    ("metric", "text", "reference", "score"),
    [
        # 20 of 22 and 21 characters in common, in order.
        ("fuzzy_match", CAT, MAT, 2 * 20 / 43),
        ("fuzzy_match", "", "", 1),
        # 1- to 4-grams: 5 of 6, 3 of 5, 1 of 4, and none of 3, which counts as a half.
        ("bleu", CAT, MAT, (5 / 6 * 3 / 5 * 1 / 4 * 0.5 / 3) ** 0.25),
        ("bleu", COW, STOMACHS, 0.17625328548379715),
        ("bleu", "red", "a blue sky", 0),
        # 5 + 3 + 1 + 0 of 6 + 5 + 4 + 3.
        ("gleu", CAT, MAT, 9 / 18),
        ("rouge_1", CAT, MAT, 5 / 6),
        ("rouge_2", CAT, MAT, 3 / 5),
        ("rouge_3", CAT, MAT, 1 / 4),
        ("rouge_4", CAT, MAT, 0),
        ("rouge_5", "a b c d e x", "a b c d e f", 1 / 2),
        ("rouge_1", COW, STOMACHS, 8 / 13),
        ("rouge_l", COW, STOMACHS, 8 / 13),
        # The order counts: only one of two words is in it.
        ("rouge_l", "mat cat", "cat mat", 1 / 2),
        ("rouge_1", "Größe, groß!", "größe groß", 1),
        ("rouge_1", "牛有四个", "牛有一个", 3 / 4),
    ],
)
def test_a_metric_is_what_its_paper_says(
    metric: str, text: str, reference: str, score: float
) -> None:
    assert METRICS[metric](text, reference) == pytest.approx(score)
