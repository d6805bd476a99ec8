"""Dropout of single weights."""

from __future__ import annotations

from typing import Any

from model.compat import chainer


def weight_drop(W: Any, ratio: float) -> Any:
    """W with each weight dropped or scaled by 1 / (1 - ratio): DropConnect (Wan et al. 2013).

    W itself outside training. On the matrix from hidden to hidden it regularises the recurrence (Merity et al. 2017,
    section 2): drawn once for a window, the same weights are missing at all its time steps.
    """
    return chainer.functions.dropout(W, ratio) if ratio else W
