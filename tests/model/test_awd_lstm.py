"""Each regularisation by itself, against its formula; and that none of them is there outside training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.compat import chainer
from model.networks import build
from model.networks.activation_regularisation import activation_penalty, temporal_penalty
from model.networks.awd_lstm import AWDLSTM
from model.networks.embedding_dropout import embed_dropped
from model.networks.weight_drop import weight_drop

F = chainer.functions
SIZES = {"vocabulary_size": 11, "embedding_size": 4, "hidden_sizes": [5, 6, 4]}
RATIOS = {"embedding": 0.3, "input": 0.4, "hidden": 0.2, "output": 0.4, "weight": 0.5}
T, B = 7, 3
XS = np.random.default_rng(1).integers(0, 11, (T, B)).astype(np.int32)
random = np.random.default_rng(2)


def network(seed: int = 0, **regularisation: float) -> AWDLSTM:
    np.random.seed(seed)
    return AWDLSTM(**SIZES, **regularisation)


def in_training(made: Any) -> tuple[Any, Any]:
    """Its outputs and penalty for a window from the zero state."""
    with chainer.using_config("train", True):
        made.reset_state()
        return made(XS), made.penalty


def test_a_dropped_word_is_dropped_wherever_it_stands_and_the_matrix_stays_whole() -> None:
    W = chainer.Parameter(random.normal(size=(50, 4)).astype(np.float32))
    xs = random.integers(0, 50, (200, 10)).astype(np.int32)
    np.random.seed(3)
    with chainer.using_config("train", True):
        embedded = embed_dropped(W, xs, 0.3)
    kept = {int(word): bool(embedded.array[xs == word].any()) for word in np.unique(xs)}
    assert 5 < list(kept.values()).count(False) < 25  # of 50, 15 expected
    expected = W.array[xs] / np.float32(0.7)
    expected[~np.vectorize(kept.get)(xs)] = 0
    np.testing.assert_allclose(embedded.array, expected, rtol=1e-6)
    F.sum(embedded).backward()
    touched = np.flatnonzero(W.grad.any(axis=1))
    assert set(touched.tolist()) == {word for word, stays in kept.items() if stays}
    with chainer.using_config("train", False):
        np.testing.assert_array_equal(embed_dropped(W, xs, 0.3).array, W.array[xs])


def test_weights_are_dropped_one_by_one_and_their_gradients_with_them() -> None:
    W = chainer.Parameter(random.uniform(1, 2, (60, 50)).astype(np.float32))
    np.random.seed(4)
    with chainer.using_config("train", True):
        dropped = weight_drop(W, 0.25)
    keep = dropped.array != 0
    assert 0.22 < 1 - keep.mean() < 0.28
    assert (1 - keep).any(axis=0).all()  # no whole rows or columns
    np.testing.assert_allclose(dropped.array, np.where(keep, W.array / np.float32(0.75), 0), rtol=1e-6)
    F.sum(dropped).backward()
    np.testing.assert_allclose(W.grad, keep / 0.75, rtol=1e-6)
    with chainer.using_config("train", False):
        np.testing.assert_array_equal(weight_drop(W, 0.25).array, W.array)


def test_penalties_are_their_formulas() -> None:
    hs = random.normal(size=(T, B, 4)).astype(np.float32)
    assert float(activation_penalty(chainer.Variable(hs), 2.0).array) == pytest.approx(2 * (hs**2).mean(), rel=1e-5)
    expected = 3 * ((hs[1:] - hs[:-1]) ** 2).mean()
    assert float(temporal_penalty(chainer.Variable(hs), 3.0).array) == pytest.approx(expected, rel=1e-5)
    assert float(temporal_penalty(chainer.Variable(hs[:1]), 3.0).array) == 0


def test_outside_training_and_on_disk_it_is_an_lstm_stack() -> None:
    ours, plain = network(**RATIOS, activation=2.0, temporal=1.0), build({"kind": "lstm_stack", **SIZES})
    assert ours.arguments == plain.arguments
    for path, parameter in plain.namedparams():
        parameter.array[...] = dict(ours.namedparams())[path].array
    with chainer.using_config("train", False):
        np.testing.assert_array_equal(ours(XS).array, plain(XS).array)
    assert ours.penalty is None


def test_without_any_ratio_it_is_trained_as_an_lstm_stack_is() -> None:
    ours, plain = network(), build({"kind": "lstm_stack", **SIZES})
    for path, parameter in plain.namedparams():
        parameter.array[...] = dict(ours.namedparams())[path].array
    hidden, penalty = in_training(ours)
    np.testing.assert_array_equal(hidden.array, in_training(plain)[0].array)
    assert float(penalty.array) == 0


@pytest.mark.parametrize("which", RATIOS)
def test_each_ratio_does_something_of_its_own(which: str) -> None:
    """To the outputs, or else to the gradients; never to the state that is carried on from a window without it."""
    plain, _ = in_training(network())
    one = network(**{which: 0.5})
    hidden, _ = in_training(one)
    assert not np.allclose(hidden.array, plain.array)
    again, _ = in_training(one)
    assert not np.allclose(hidden.array, again.array)  # drawn anew
    if which == "output":  # what is projected is dropped, what is remembered is not
        for ours, theirs in zip(one.state, _state_of(network()), strict=True):
            np.testing.assert_array_equal(ours.array, theirs.array)


def _state_of(made: AWDLSTM) -> Any:
    in_training(made)
    return made.state


def test_the_penalty_is_of_dropped_outputs_and_of_whole_changes() -> None:
    np.random.seed(0)
    made = network(output=0.4, activation=2.0, temporal=1.0)
    whole, _ = in_training(network())
    hidden, penalty = in_training(made)
    changes = ((whole.array[1:] - whole.array[:-1]) ** 2).mean()
    assert float(penalty.array) == pytest.approx(2 * (hidden.array**2).mean() + changes, rel=1e-5)
