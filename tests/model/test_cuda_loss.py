"""The loss's CUDA path, its kernel run by an emulated device, against the NumPy path."""

from __future__ import annotations

import numpy as np
import pytest

import model.loss
from model.loss import linear_softmax_cross_entropy
from tests.model.emulated import EmulatedDevice, needs_compiler
from tests.model.gradients import chainer, gradient_check

pytestmark = needs_compiler
N, H = 7, 4


@pytest.fixture(params=[1, 3, 7], ids=lambda rows: f"{rows} rows a block")
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EmulatedDevice:
    emulated = EmulatedDevice()
    monkeypatch.setattr(model.loss, "device_of", lambda _: emulated)
    monkeypatch.setattr(model.loss, "CUDA_BLOCK_BYTES", request.param * 1300 * 8)
    return emulated


def inputs(V: int, dtype: type = np.float64, scale: float = 1) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    h, W, b = (random.standard_normal(shape).astype(dtype) for shape in ((N, H), (V, H), (V,)))
    return h * dtype(scale), W, b, random.integers(0, V, N).astype(np.int32)


# Fewer words than a block has threads, some more, and many more.
@pytest.mark.parametrize("V", [1, 9, 530, 1300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_numpy_path(V, dtype, device, monkeypatch) -> None:
    h, W, b, t = inputs(V, dtype)

    def run() -> list[np.ndarray]:
        variables = [chainer.Variable(array) for array in (h, W, b)]
        loss = linear_softmax_cross_entropy(*variables, t)
        (3 * loss).backward()
        return [loss.array, *(variable.grad for variable in variables)]

    ours = run()
    assert device.launches > 0
    monkeypatch.undo()
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for mine, expected in zip(ours, run(), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=tolerance, atol=tolerance)


def test_gradients_equal_numerical_ones(device) -> None:
    h, W, b, t = inputs(9)
    gradient_check.check_backward(
        lambda h, W, b: linear_softmax_cross_entropy(h, W, b, t), (h, W, b), np.array(1.7), atol=1e-6, dtype="d"
    )


def test_huge_logits_do_not_overflow(device) -> None:
    assert np.isfinite(linear_softmax_cross_entropy(*inputs(600, np.float32, 1e4)).array)


def test_what_is_not_a_number_shows(device) -> None:
    h, W, b, t = inputs(600, np.float32)
    h[3, 1] = np.nan
    assert np.isnan(linear_softmax_cross_entropy(h, W, b, t).array)


def test_without_backprop_no_gradient_is_made(device) -> None:
    with chainer.no_backprop_mode():
        loss = linear_softmax_cross_entropy(*inputs(9))
    assert loss.creator_node is None
