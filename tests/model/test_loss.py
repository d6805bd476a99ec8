from __future__ import annotations

import numpy as np
import pytest

import model.loss
from model.loss import linear_softmax_cross_entropy
from tests.model.gradients import chainer, gradient_check

F = chainer.functions
N, H, V = 7, 4, 9


@pytest.fixture
def inputs() -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    return (
        random.standard_normal((N, H)),
        random.standard_normal((V, H)),
        random.standard_normal(V),
        random.integers(0, V, N).astype(np.int32),
    )


@pytest.fixture(params=[1, 3, 7], ids=lambda rows: f"{rows} rows a block")
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.loss, "BLOCK_BYTES", request.param * V * 8)


def test_equals_chainers_own(inputs: tuple[np.ndarray, ...], block: None) -> None:
    h, W, b, t = inputs
    ours = [chainer.Variable(array) for array in (h, W, b)]
    theirs = [chainer.Variable(array) for array in (h, W, b)]
    loss = linear_softmax_cross_entropy(*ours, t)
    expected = F.softmax_cross_entropy(F.linear(*theirs), t)
    np.testing.assert_allclose(loss.array, expected.array, rtol=1e-12)
    (3 * loss).backward()
    (3 * expected).backward()
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.grad, its.grad, rtol=1e-9, atol=1e-12)


def test_gradients_equal_numerical_ones(inputs: tuple[np.ndarray, ...], block: None) -> None:
    h, W, b, t = inputs
    gradient_check.check_backward(
        lambda h, W, b: linear_softmax_cross_entropy(h, W, b, t), (h, W, b), np.array(1.7), atol=1e-6, dtype="d"
    )


def test_huge_logits_neither_overflow_nor_warn(inputs: tuple[np.ndarray, ...]) -> None:
    h, W, b, t = (array.astype(np.float32) if array.dtype == np.float64 else array for array in inputs)
    assert np.isfinite(linear_softmax_cross_entropy(h * np.float32(1e4), W, b, t).array)


def test_without_backprop_no_gradient_is_made(inputs: tuple[np.ndarray, ...]) -> None:
    with chainer.no_backprop_mode():
        loss = linear_softmax_cross_entropy(*inputs)
    assert loss.creator_node is None
