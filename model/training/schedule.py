"""The learning rate as a function of how far the training is, and nothing else: there is nothing to save or resume."""

from __future__ import annotations

import math


def learning_rate(progress: float, *, peak: float, warmup: float, decay: bool) -> float:
    """Rises linearly over the first `warmup` of the training, then falls along half a cosine to zero
    (Loshchilov and Hutter 2017), or stays if `decay` is False. progress in [0, 1].
    """
    if progress < warmup:
        return peak * progress / warmup
    if not decay:
        return peak
    return peak * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))) / 2
