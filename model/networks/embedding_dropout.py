"""Dropout of whole words from the embedding."""

from __future__ import annotations

from typing import Any

from model.compat import chainer

F = chainer.functions


def embed_dropped(W: Any, xs: Any, ratio: float) -> Any:
    """The rows of W (V, E) for the words xs (T, B): (T, B, E), where a word is dropped wherever it stands in the window
    (Gal and Ghahramani 2016, section 4.2; Merity et al. 2017, section 4.3), and the others are scaled by
    1 / (1 - ratio). Plain rows outside training. W itself, which may be the output matrix as well, is left whole.
    """
    embedded = F.embed_id(xs, W)
    if ratio == 0 or not chainer.config.train:
        return embedded
    xp = chainer.backend.get_array_module(xs)
    keep = xp.random.random_sample(W.shape[0]) >= ratio
    scale = keep.astype(xp.float32) * xp.float32(1 / (1 - ratio))  # (V,)
    return embedded * xp.broadcast_to(scale[xs][..., None], embedded.shape)
