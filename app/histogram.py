"""Counts of what was observed, by size: what a scrape turns into a Prometheus histogram."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

#: Seconds. A request to a warm service takes about a millisecond, one that brings thousands of words takes seconds.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: Words or rows of one step.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

#: Parts of a whole.
PARTS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Histogram:
    """How many values were at most as large as each of `bounds`, which ascend, and their sum.

    One thread observes; any may read, and may then see a value in the counts that is not yet in the sum.
    """

    __slots__ = ("_sum", "bounds", "counts")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        # Arrays: numbers of their own would be objects, new ones all the time, that lie about anywhere in memory, and
        # keep what is around them from being given back.
        self.counts = array("q", bytes(8 * (len(self.bounds) + 1)))
        self._sum = array("d", [0.0])

    @property
    def total(self) -> float:
        """The sum of all values."""
        return self._sum[0]

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self._sum[0] += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, values up to it) as Prometheus wants them: cumulative, the last bound "+Inf"."""
        so_far, result = 0, []
        for bound, count in zip((*map(str, map(float, self.bounds)), "+Inf"), tuple(self.counts), strict=True):
            so_far += count
            result.append((bound, float(so_far)))
        return result
