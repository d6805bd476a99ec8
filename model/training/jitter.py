"""Windows of varying length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Share of the windows that are half as long; what all vary by; what none is shorter than.
SHORT, SPREAD, LEAST = 0.05, 5.0, 5
#: Tells these draws from the updates', which have a process's number here.
_DRAWS = 2**32 - 1


def window_ends(length: int, window: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where the windows of one epoch end in streams of `length` words, rising to `length`.

    With windows of one length the same words would stand at their ends in every epoch, where back-propagation is cut.
    Lengths are normal around `window`, or around half of it in one of twenty (Merity et al. 2017, section 4.1), and
    depend on the arguments alone.
    """
    random = np.random.default_rng((seed, epoch, _DRAWS))
    least = min(LEAST, window)
    most = length // least + 1  # windows
    mean = np.where(random.random(most) < SHORT, window / 2, window)
    ends = np.cumsum(np.maximum(least, np.rint(random.normal(mean, SPREAD))).astype(np.int64))
    return np.append(ends[ends < length], length)
