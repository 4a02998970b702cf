"""Rows that come again, found by their digests: many at once, as looking back at each row by itself
took a fifth of the time of a check.
"""

import sys
from array import array
from bisect import bisect_right

MOST_REMEMBERED = 1_000_000
COMPARED_AT_ONCE = 1 << 16
PAIRS_NAMED = 10


class Repeats:
    """`rows` counts those that have the digest of an earlier one, as of the last `look_back`;
    `pairs` are the first ten, as (line of the first, line). It is not `complete` where there were
    too many different rows to remember all of them.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.pairs: list[tuple[int, int]] = []
        self.complete = True
        self.seen: set[int] = set()
        self.digests = array("Q")  # in the rows' order
        self.compared = 0  # so many of them
        self.places: list[tuple[int, int]] = []  # where lines without a gap begin there, and which

    def add(self, line: int, digests: list[int]) -> None:
        """Of the rows that stand at this line and those right behind it; below 2**64."""
        if not self.complete:
            return
        if not self.places or self.line_of(len(self.digests)) != line:
            self.places.append((len(self.digests), line))
        self.digests.fromlist(digests)
        if len(self.digests) - self.compared >= COMPARED_AT_ONCE:
            self.look_back()

    def look_back(self) -> None:
        """Compares the rows since the last time with each other and with all before them."""
        if len(self.seen) >= MOST_REMEMBERED and self.compared < len(self.digests):
            self.complete = False
            return
        new = self.digests[self.compared :]
        fresh = len(self.seen)
        self.seen.update(new)
        fresh = len(self.seen) - fresh
        if fresh < len(new):
            self.rows += len(new) - fresh
            self.name_pairs(new)
        self.compared = len(self.digests)

    def name_pairs(self, new: "array[int]") -> None:
        if len(self.pairs) == PAIRS_NAMED:
            return
        before = set(new).intersection(self.digests[: self.compared])
        here: set[int] = set()
        for index, digest in enumerate(new, self.compared):
            if digest in before or digest in here:
                first = self.digests.index(digest)
                self.pairs.append((self.line_of(first), self.line_of(index)))
                if len(self.pairs) == PAIRS_NAMED:
                    return
            here.add(digest)

    def line_of(self, index: int) -> int:
        start, line = self.places[bisect_right(self.places, (index, sys.maxsize)) - 1]
        return line + index - start
