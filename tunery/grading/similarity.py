"""How like two texts are, from 0 to 1, without a model and without data from elsewhere.

Words are compared in lower case and without punctuation by ROUGE, as they stand and with each sign
as a word by BLEU and GLEU. A Chinese or Japanese character is a word.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
WORD_OR_SIGN = re.compile(rf"[{CJK}]|[^\W_{CJK}]+|[^\w\s]|_")
LONGEST_GRAM = 4


def fuzzy_match(text: str, reference: str) -> float:
    """2 * (longest common subsequence) / (characters of both), as rapidfuzz's `ratio` / 100."""
    both = len(text) + len(reference)
    return 2 * common(text, reference) / both if both else 1.0


def bleu(text: str, reference: str) -> float:
    """BLEU of one sentence (Papineni et al. 2002) over 1- to 4-grams, as many as the text has. An
    order without a match counts as half a match, the next as a quarter (Chen and Cherry 2014,
    smoothing 3), as in sacrebleu.
    """
    words, wanted = WORD_OR_SIGN.findall(text), WORD_OR_SIGN.findall(reference)
    orders = min(LONGEST_GRAM, len(words))
    if not orders or not wanted:
        return float(words == wanted)
    logs, smoothed, matched_any = 0.0, 1.0, False
    for order in range(1, orders + 1):
        matches, all_of_text, _ = matching_grams(words, wanted, order)
        matched_any |= matches > 0
        if not matches:
            smoothed /= 2
        logs += math.log((matches or smoothed) / all_of_text)
    if not matched_any:
        return 0.0
    shortness = min(0.0, 1 - len(wanted) / len(words))
    return math.exp(shortness + logs / orders)


def gleu(text: str, reference: str) -> float:
    """Google's BLEU of one sentence (Wu et al. 2016): of all 1- to 4-grams together, the lesser of
    precision and recall.
    """
    words, wanted = WORD_OR_SIGN.findall(text), WORD_OR_SIGN.findall(reference)
    found = [matching_grams(words, wanted, order) for order in range(1, LONGEST_GRAM + 1)]
    matches, all_of_text, all_wanted = (sum(each) for each in zip(*found, strict=True))
    most = max(all_of_text, all_wanted)
    return matches / most if most else 1.0


def rouge(order: int) -> Callable[[str, str], float]:
    """ROUGE-N (Lin 2004): F1 of the n-grams that both have."""

    def score(text: str, reference: str) -> float:
        words, wanted = lower_words(text), lower_words(reference)
        if words == wanted:
            return 1.0
        return f1(*matching_grams(words, wanted, order))

    return score


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the words' longest common subsequence."""
    words, wanted = lower_words(text), lower_words(reference)
    if words == wanted:
        return 1.0
    return f1(common(words, wanted), len(words), len(wanted))


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    **{f"rouge_{order}": rouge(order) for order in range(1, 6)},
    "rouge_l": rouge_l,
}


def lower_words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def matching_grams(words: Sequence[str], wanted: Sequence[str], order: int) -> tuple[int, int, int]:
    """(n-grams that both have, those of the text, those that are wanted)."""
    ours, theirs = grams(words, order), grams(wanted, order)
    return (ours & theirs).total(), ours.total(), theirs.total()


def grams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def f1(matches: int, of_text: int, wanted: int) -> float:
    return 2 * matches / (of_text + wanted) if matches else 0.0


def common(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Length of their longest common subsequence, with a bit for each place of `one` (Hyyrö 2004:
    Bit-parallel LCS-length computation revisited).
    """
    places: defaultdict[Hashable, int] = defaultdict(int)
    for at, each in enumerate(one):
        places[each] |= 1 << at
    all_ones = row = (1 << len(one)) - 1
    for each in other:
        matched = row & places.get(each, 0)
        row = ((row + matched) | (row - matched)) & all_ones
    return len(one) - row.bit_count()
