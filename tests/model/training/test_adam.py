"""The oracle is Chainer's own rule, to the bit."""

import numpy as np
import pytest

from model.compat import chainer
from model.training.adam import PIECE, Adam


@pytest.mark.parametrize("shape", [(), (3,), (PIECE,), (PIECE + 1,), (7, PIECE // 3), (2, 3, PIECE // 2)])
def test_steps_are_those_of_chainers_rule(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    first = np.asarray(draw.normal(size=shape), np.float32)
    links = [chainer.Link(), chainer.Link()]
    optimizers = [Adam(alpha=0.01, beta2=0.99), chainer.optimizers.Adam(alpha=0.01, beta2=0.99)]
    for link, optimizer in zip(links, optimizers, strict=True):
        with link.init_scope():
            link.W = chainer.Parameter(first.copy())
            link.idle = chainer.Parameter(np.ones(2, np.float32))  # has no gradient
        optimizer.setup(link)
    for step in range(4):
        gradient = np.asarray(draw.normal(size=shape), np.float32)
        for link, optimizer in zip(links, optimizers, strict=True):
            link.W.grad = gradient.copy()
            optimizer.alpha = 0.01 / (1 + step)
            optimizer.update()
    ours, theirs = (link.W.array for link in links)
    assert ours.tobytes() == theirs.tobytes() != first.tobytes()
    assert links[0].idle.array.tolist() == [1, 1]
