"""The LSTM's CUDA path, its kernels run by an emulated device, against the NumPy path."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

import model.recurrence
from model.cuda.recurrence import STEPS, Sequences
from model.recurrence import lstm
from tests.model.emulated import EmulatedDevice, needs_compiler
from tests.model.gradients import chainer, gradient_check
from tests.model.test_recurrence import arrays

F = chainer.functions
pytestmark = needs_compiler


@pytest.fixture
def sequences(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sequences]:
    """`lstm` computes with these while `monkeypatch` is undone at the end."""
    made = Sequences(EmulatedDevice())
    monkeypatch.setattr(model.recurrence, "sequences_of", lambda _: made)
    yield made
    gc.collect()


def outputs_and_gradients(inputs: tuple[np.ndarray, ...], upstream: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    variables = [chainer.Variable(array) for array in inputs]
    outputs = lstm(*variables)
    sum(F.sum(output * given) for output, given in zip(outputs, upstream, strict=True)).backward()
    return [output.array for output in outputs] + [variable.grad for variable in variables]


# Below, at and above a recording, twice and thrice as long as one.
@pytest.mark.parametrize(("T", "B"), [(0, 2), (1, 1), (5, 3), (STEPS, 2), (2 * STEPS, 1), (3 * STEPS + 3, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_numpy_path_however_often_it_is_replayed(T, B, dtype, sequences, monkeypatch) -> None:
    cases = []
    for seed in range(4):
        inputs = tuple(array.astype(dtype) for array in arrays(T, B, 5, 6, seed))
        cases.append((inputs, tuple(array.astype(dtype) for array in arrays(T, B, 6, 6, seed + 9)[:3])))
    ours = [outputs_and_gradients(*case) for case in cases]
    monkeypatch.undo()
    tolerance = 2e-5 if dtype == np.float32 else 1e-12
    for case, found in zip(cases, ours, strict=True):
        for mine, expected in zip(found, outputs_and_gradients(*case), strict=True):
            np.testing.assert_allclose(mine, expected, rtol=tolerance, atol=tolerance)
    device = sequences._device
    # Plainly the first time, then recorded and replayed: two more than that in both directions.
    assert device.replays == (T // STEPS) * 2 * 3
    assert sequences.made == 1


def test_gradients_equal_numerical_ones(sequences) -> None:
    inputs, upstream = arrays(3, 2, 3, 4), arrays(3, 2, 4, 4, seed=1)[:3]
    gradient_check.check_backward(lstm, inputs, upstream, atol=1e-6, rtol=1e-6, dtype="d")


@pytest.mark.parametrize("used", [0, 1, 2])
def test_gradients_when_only_one_output_is_used(used: int, sequences) -> None:
    upstream = arrays(3, 2, 4, 4, seed=1)[used]
    gradient_check.check_backward(
        lambda *a: lstm(*a)[used], arrays(3, 2, 3, 4), upstream, atol=1e-6, rtol=1e-6, dtype="d"
    )


def test_two_layers_of_one_shape_do_not_share_arrays_while_both_wait_for_their_gradients(sequences) -> None:
    x, h, c, *weights = arrays(9, 2, 4, 4)
    _, _, _, *others = arrays(9, 2, 4, 4, seed=5)

    def stacked(x: object) -> object:
        below, _, _ = lstm(x, h, c, *weights)
        return lstm(below, h, c, *others)[0]

    gradient_check.check_backward(stacked, x, arrays(9, 2, 4, 4, seed=1)[0], atol=1e-6, rtol=1e-6, dtype="d")


def test_lengths_that_vary_share_arrays_and_recordings(sequences) -> None:
    lengths = [35, 40, 33, 64, 17, 38, 40, 9]
    for seed, T in enumerate(lengths):
        outputs_and_gradients(arrays(T, 2, 3, 4, seed), arrays(T, 2, 4, 4, seed)[:3])
    assert sequences.made == 1
    ((_, sequence),) = sequences._free
    assert len(sequence.recordings) <= 2 * sequence.capacity // STEPS


def test_a_sequence_longer_than_all_before_takes_their_place(sequences) -> None:
    for T in (3, 70, 3):
        outputs_and_gradients(arrays(T, 2, 3, 4), arrays(T, 2, 4, 4)[:3])
    assert sequences.made == 2
    assert [kept.capacity >= 70 for _, kept in sequences._free] == [True]


def test_without_gradients_the_arrays_are_free_at_once(sequences) -> None:
    with chainer.no_backprop_mode():
        outputs = [lstm(*arrays(4, 2, 3, 4, seed))[0].array for seed in (1, 2)]
    assert sequences.made == 1
    assert not np.allclose(outputs[0], outputs[1])


def test_arrays_that_nobody_waits_for_come_back(sequences) -> None:
    waiting = lstm(*map(chainer.Variable, arrays(4, 2, 3, 4)))
    assert not sequences._free
    del waiting
    gc.collect()
    assert len(sequences._free) == 1


def test_only_so_many_are_kept(sequences) -> None:
    with chainer.no_backprop_mode():
        for H in range(1, Sequences.KEPT + 5):
            lstm(*arrays(1, 1, 2, H))
    assert len(sequences._free) == Sequences.KEPT
