"""One cycle of a high learning rate, with the momentum in its opposite (after Smith 2018, arXiv:1803.09820,
whose rate rises and falls evenly; this one rises fast, and stays at its peak before it falls)."""

from __future__ import annotations

import numpy as np

#: Shares of the training: the rate rises from a tenth of its peak, stays there, falls back, and goes to zero at last.
_AT = (0.0, 0.08, 0.5, 0.92, 1.0)
_RATE = (0.1, 1.0, 1.0, 0.1, 0.0)
#: Adam's beta1 then: large steps forget faster.
_MOMENTUM = (0.8, 0.7, 0.7, 0.8, 0.8)


def one_cycle(progress: float, peak: float) -> tuple[float, float]:
    """The learning rate and the momentum (Adam's beta1) when `progress`, in [0, 1], of the training is done."""
    return peak * float(np.interp(progress, _AT, _RATE)), float(np.interp(progress, _AT, _MOMENTUM))
