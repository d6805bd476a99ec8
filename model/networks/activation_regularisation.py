"""Penalties on what an LSTM's last layer gives: large outputs, and outputs that jump (Merity et al. 2017,
arXiv:1708.01009, and section 4.6 of arXiv:1708.02182)."""

from __future__ import annotations

from typing import Any

from model.compat import chainer

F = chainer.functions


def activation_penalty(hs: Any, alpha: float) -> Any:
    """``alpha * mean(h^2)`` over outputs hs (T, B, H), those after dropout: AR."""
    return alpha * F.mean(hs * hs)


def temporal_penalty(hs: Any, beta: float) -> Any:
    """``beta * mean((h_t - h_{t+1})^2)`` over outputs hs (T, B, H), those before dropout: TAR; 0 for a single step."""
    if len(hs) < 2:
        return beta * F.sum(hs[:0])
    change = hs[1:] - hs[:-1]
    return beta * F.mean(change * change)
