from __future__ import annotations

import numpy as np
import pytest

from model.recurrence import lstm
from tests.model.gradients import chainer, gradient_check

F = chainer.functions


def arrays(T: int, B: int, E: int, H: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    shapes = (T, B, E), (B, H), (B, H), (4 * H, E), (4 * H, H), (4 * H,)
    return tuple(random.standard_normal(shape) for shape in shapes)


def interleaved(W: np.ndarray) -> np.ndarray:
    """Rows in blocks i, f, g, o -> Chainer's order a, i, f, o of each unit."""
    i, f, g, o = np.split(W, 4)
    return np.stack([g, i, f, o], axis=1).reshape(W.shape)


def by_chainer(x, h0, c0, W_x, W_h, b):
    """T steps of F.lstm."""
    h, c, hs = h0, c0, []
    W_x, W_h, b = interleaved(W_x), interleaved(W_h), interleaved(b)
    for x_t in x:
        c, h = F.lstm(c, F.linear(x_t, W_x, b) + F.linear(h, W_h))
        hs.append(chainer.as_array(h))
    return np.stack(hs), chainer.as_array(h), chainer.as_array(c)


@pytest.mark.parametrize(("T", "B"), [(1, 1), (1, 4), (5, 1), (7, 3)])
def test_equals_steps_of_chainers_lstm(T: int, B: int) -> None:
    inputs = arrays(T, B, 5, 6)
    for ours, theirs in zip(lstm(*inputs), by_chainer(*inputs), strict=True):
        np.testing.assert_allclose(ours.array, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("T", "B"), [(1, 1), (4, 3)])
def test_gradients_of_all_inputs_equal_numerical_ones(T: int, B: int) -> None:
    inputs = arrays(T, B, 3, 4)
    outputs = arrays(T, B, 4, 4, seed=1)[:3]
    gradient_check.check_backward(lstm, inputs, outputs, atol=1e-6, rtol=1e-6, dtype="d")


@pytest.mark.parametrize("used", [0, 1, 2])
def test_gradients_when_only_one_output_is_used(used: int) -> None:
    inputs = arrays(3, 2, 3, 4)
    upstream = arrays(3, 2, 4, 4, seed=1)[used]
    gradient_check.check_backward(lambda *a: lstm(*a)[used], inputs, upstream, atol=1e-6, rtol=1e-6, dtype="d")


def test_no_steps_give_back_the_state() -> None:
    x, h0, c0, *weights = arrays(0, 2, 3, 4)
    hs, hT, cT = lstm(x, h0, c0, *weights)
    assert hs.shape == (0, 2, 4)
    np.testing.assert_array_equal(hT.array, h0)
    np.testing.assert_array_equal(cT.array, c0)


def test_no_steps_pass_the_gradient_through() -> None:
    inputs = [chainer.Variable(array) for array in arrays(0, 2, 3, 4)]
    _, hT, cT = lstm(*inputs)
    F.sum(2 * hT + 3 * cT).backward()
    np.testing.assert_array_equal(inputs[1].grad, np.full((2, 4), 2.0))
    np.testing.assert_array_equal(inputs[2].grad, np.full((2, 4), 3.0))
    np.testing.assert_array_equal(inputs[4].grad, np.zeros((16, 4)))


def test_a_sequence_in_two_parts_is_the_sequence() -> None:
    x, h, c, *weights = arrays(6, 2, 3, 4)
    whole = lstm(x, h, c, *weights)
    first, h, c = lstm(x[:2], h, c, *weights)
    second, h, c = lstm(x[2:], h, c, *weights)
    np.testing.assert_allclose(np.concatenate([first.array, second.array]), whole[0].array, rtol=1e-12)
    np.testing.assert_allclose(c.array, whole[2].array, rtol=1e-12)


def test_extreme_inputs_saturate_without_a_warning() -> None:
    x, h0, c0, W_x, W_h, b = (array.astype(np.float32) for array in arrays(3, 2, 3, 4))
    hs, _, _ = lstm(x * np.float32(1e4), h0, c0, W_x, W_h, b)
    assert np.isfinite(hs.array).all()


def test_ill_shaped_inputs_are_refused() -> None:
    x, h0, c0, W_x, W_h, b = arrays(3, 2, 3, 4)
    with pytest.raises(chainer.utils.type_check.InvalidType):
        lstm(x, h0, c0, W_x, W_h[:, :3], b)
