"""Which numbered places are taken."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray


class Slots:
    """The numbers from 1 to `capacity`, handed out low ones first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        #: No number from here on was handed out since the last `trim`, or is now.
        self.end = 1
        # Not a list: each number in that would be an object, which keeps those allocated around it from being freed.
        self._free: array[int] = array("q")

    def __len__(self) -> int:
        """How many are handed out."""
        return self.end - 1 - len(self._free)

    def take(self) -> int:
        """One that nobody has; 0 if there is none."""
        if self._free:
            return self._free.pop()
        if self.end > self._capacity:
            return 0
        self.end += 1
        return self.end - 1

    def free(self, number: int) -> None:
        """Nobody has this one any more."""
        self._free.append(number)

    def trim(self) -> NDArray[np.int64]:
        """All that were handed out and are free again, in rising order; from now on the lowest of them comes first."""
        free = np.sort(np.array(self._free, dtype=np.int64))
        # Those behind the last one that is taken are as good as never handed out.
        apart = np.flatnonzero(free != np.arange(self.end - len(free), self.end))
        between = free[: apart[-1] + 1 if len(apart) else 0]
        self._free = array("q", between[::-1].tobytes())
        self.end -= len(free) - len(between)
        return free
