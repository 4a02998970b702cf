"""Rows that come again, in files that are compared piece by piece."""

import time

import pytest

from tunery.data import repeats
from tunery.data.repeats import COMPARED_AT_ONCE, Repeats


def test_rows_that_come_again_are_found_across_what_is_compared_at_once() -> None:
    found = Repeats()
    found.add(1, list(range(200_000)))
    began = time.process_time()
    for piece in range(3):
        first = 200_001 + COMPARED_AT_ONCE * piece
        found.add(first, [7, *range(first, first + COMPARED_AT_ONCE - 2), 7])
    found.add(500_000, [2**64 - 1, 8])
    found.look_back()
    assert time.process_time() - began < 3  # one look at all before, not one for each row
    assert (found.rows, found.complete) == (7, True)
    assert found.pairs[:3] == [(8, 200_001), (8, 265_536), (8, 265_537)]
    assert found.pairs[-1] == (9, 500_001)


def test_no_more_rows_are_remembered_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_REMEMBERED", COMPARED_AT_ONCE)
    found = Repeats()
    found.add(1, list(range(COMPARED_AT_ONCE)))
    found.look_back()
    assert found.complete
    found.add(COMPARED_AT_ONCE + 1, [0])
    found.look_back()
    assert (found.rows, found.complete) == (0, False)
