"""The functions that networks are trained with, on a GPU against a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.compat import chainer
from model.cuda.device import cupy_device
from model.loss import linear_softmax_cross_entropy
from model.recurrence import lstm
from tests.gpu.device import needs_gpu
from tests.model.gradients import gradient_check
from tests.model.test_recurrence import arrays

pytestmark = needs_gpu
F = chainer.functions


def send(arrays: Any) -> list[Any]:
    return [cupy_device(0).xp.asarray(array) for array in arrays]


def fetched(arrays: Any) -> list[np.ndarray]:
    return [chainer.backends.cuda.to_cpu(array) for array in arrays]


def relative(ours: np.ndarray, exact: np.ndarray) -> float:
    """The length of the difference in lengths of the exact one."""
    return float(np.linalg.norm(ours - exact) / max(float(np.linalg.norm(exact)), 1e-30))


def layer(inputs: Any, upstream: Any) -> list[Any]:
    variables = [chainer.Variable(array) for array in inputs]
    outputs = lstm(*variables)
    sum(F.sum(output * given) for output, given in zip(outputs, upstream, strict=True)).backward()
    return [output.array for output in outputs] + [variable.grad for variable in variables]


# (70, 80, 400, 1150) is AWD-LSTM's first layer.
@pytest.mark.parametrize(
    ("T", "B", "E", "H"),
    [(0, 2, 3, 4), (1, 1, 5, 6), (5, 3, 4, 4), (16, 2, 8, 8), (37, 20, 64, 96), (70, 80, 400, 1150)],
)
@pytest.mark.parametrize("tf32", [False, True])
def test_a_layer_and_its_gradients_are_the_cpus(T: int, B: int, E: int, H: int, tf32: bool) -> None:
    inputs = [array.astype(np.float32) for array in arrays(T, B, E, H)]
    inputs[3] *= np.float32(E**-0.5)
    inputs[4] *= np.float32(H**-0.5)
    upstream = [array.astype(np.float32) for array in arrays(T, B, H, H, seed=1)[:3]]
    device = cupy_device(0)
    expected = layer(inputs, upstream)
    try:
        device.tf32 = tf32
        for _ in range(3):  # plainly, and replayed
            for ours, exact in zip(fetched(layer(send(inputs), send(upstream))), expected, strict=True):
                assert relative(ours, exact) < (2e-2 if tf32 else 1e-3)
    finally:
        device.tf32 = False


def test_gradients_of_a_layer_equal_numerical_ones() -> None:
    inputs, upstream = send(arrays(3, 2, 3, 4)), send(arrays(3, 2, 4, 4, seed=1)[:3])
    gradient_check.check_backward(lstm, tuple(inputs), tuple(upstream), atol=1e-6, rtol=1e-6, dtype="d")


@pytest.mark.parametrize(("N", "H", "V"), [(1, 3, 2), (7, 4, 9), (300, 40, 1300), (5600, 400, 33_278)])
def test_the_loss_and_its_gradients_are_the_cpus(N: int, H: int, V: int) -> None:
    random = np.random.default_rng(0)
    h, W, b = (random.standard_normal(shape).astype(np.float32) * np.float32(0.3) for shape in ((N, H), (V, H), (V,)))
    t = random.integers(0, V, N).astype(np.int32)

    def run(h: Any, W: Any, b: Any, t: Any) -> list[Any]:
        variables = [chainer.Variable(array) for array in (h, W, b)]
        loss = linear_softmax_cross_entropy(*variables, t)
        loss.backward()
        return [loss.array, *(variable.grad for variable in variables)]

    for ours, exact in zip(fetched(run(*send((h, W, b, t)))), run(h, W, b, t), strict=True):
        assert relative(ours, exact) < 1e-3
