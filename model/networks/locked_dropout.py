"""Dropout whose mask stays for all the time steps of a window."""

from __future__ import annotations

from typing import Any

from model.compat import chainer


class LockedDropout(chainer.Link):
    """Locked, or variational, dropout (Gal and Ghahramani 2016): one mask for all time steps, drawn anew each window.

    x (T, B, H) -> the same shape, scaled by 1 / (1 - ratio); the identity outside training.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Any) -> Any:
        if self.ratio == 0 or not chainer.config.train:
            return x
        xp = self.xp
        keep = xp.random.random_sample((1, *x.shape[1:])) >= self.ratio
        mask = keep.astype(xp.float32) * xp.float32(1 / (1 - self.ratio))
        return x * xp.broadcast_to(mask, x.shape)
