from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from model.compat import chainer
from model.networks import NextWordNetwork, build
from model.training.averaging import WeightAveraging


def network_of(seed: int) -> NextWordNetwork:
    np.random.seed(seed)
    return build({"kind": "simple_rnn", "vocabulary_size": 5, "embedding_size": 2, "hidden_size": 3})


class Training:
    """Updates that draw new weights, and what they were."""

    def __init__(self, begin: int, patience: int = 0) -> None:
        self.network = network_of(0)
        self.averaging = WeightAveraging(self.network, begin, patience)
        self.iteration = 0
        self.history: list[dict[str, np.ndarray]] = []
        self._random = np.random.default_rng(1)

    def update(self) -> None:
        self.iteration += 1
        for _, parameter in self.network.namedparams():
            parameter.array[...] = self._random.normal(size=parameter.shape)
        self.history.append({path: parameter.array.copy() for path, parameter in self.network.namedparams()})
        self.averaging(SimpleNamespace(updater=SimpleNamespace(iteration=self.iteration)))

    def weights(self) -> dict[str, np.ndarray]:
        return {path: parameter.array.copy() for path, parameter in self.network.namedparams()}

    def mean_of_last(self, count: int) -> dict[str, np.ndarray]:
        return {path: np.mean([old[path] for old in self.history[-count:]], axis=0) for path in self.history[0]}


def assert_close(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    for path, weight in theirs.items():
        np.testing.assert_allclose(ours[path], weight, atol=1e-6, err_msg=path)


def test_the_mean_is_of_the_weights_after_the_beginning_and_the_training_goes_on_without_it() -> None:
    training = Training(begin=4)
    for _ in range(4):
        training.update()
    with training.averaging.in_place():
        assert_close(training.weights(), training.history[-1])  # there is none yet
    for _ in range(6):
        training.update()
    arrays = [parameter.array for _, parameter in training.network.namedparams()]
    with training.averaging.in_place():
        assert_close(training.weights(), training.mean_of_last(6))
    assert_close(training.weights(), training.history[-1])
    assert all(a is b.array for a, (_, b) in zip(arrays, training.network.namedparams(), strict=True))
    training.averaging.settle()
    assert_close(training.weights(), training.mean_of_last(6))


def test_the_weights_come_back_after_an_error() -> None:
    training = Training(begin=0)
    for _ in range(3):
        training.update()
    with pytest.raises(ZeroDivisionError), training.averaging.in_place():
        raise ZeroDivisionError
    assert_close(training.weights(), training.history[-1])


@pytest.mark.parametrize(
    ("losses", "begins_after"),
    [
        ([5, 4, 3, 2, 1, 0.5], None),
        ([5, 4, 3, 3.5, 3.6, 3.9], None),  # worse than 3, but that is not more than two before
        ([5, 4, 3, 3.5, 3.6, 4.1], 6),
        ([5, 4, 3, 3, 3, 3.1], 6),
        ([5, 4, 4.5, 5.5, 3, 2], 4),
        ([9, 9, 9, 9], None),  # no worse
    ],
)
def test_it_begins_when_a_validation_is_worse_than_the_best_of_those_before_its_patience(
    losses: list[float], begins_after: int | None
) -> None:
    training = Training(begin=10**9, patience=2)
    for number, loss in enumerate(losses, start=1):
        training.update()
        with training.averaging.in_place():
            begun = begins_after is not None and number > begins_after
            expected = training.mean_of_last(number - begins_after) if begun and begins_after else training.history[-1]
            assert_close(training.weights(), expected)
        training.averaging.saw(loss)
    training.update()
    with training.averaging.in_place():
        count = 1 if begins_after is None else len(losses) + 1 - begins_after
        assert_close(training.weights(), training.mean_of_last(count))


@pytest.mark.parametrize("updates", [2, 3, 7])
def test_a_restored_one_goes_on_bit_equal(updates: int) -> None:
    training = Training(begin=2, patience=1)
    for loss in range(updates):
        training.update()
        training.averaging.saw(float(loss))
    saved = chainer.serializers.npz.serialize(training.averaging)
    other = WeightAveraging(training.network, 2, 1)
    other.serialize(chainer.serializers.NpzDeserializer(saved))
    again = chainer.serializers.npz.serialize(other)
    assert saved.keys() == again.keys()
    for name, array in saved.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)
    training.update()
    other(SimpleNamespace(updater=SimpleNamespace(iteration=training.iteration)))
    with training.averaging.in_place():
        ours = training.weights()
    with other.in_place():
        theirs = training.weights()
    for path, weight in ours.items():
        np.testing.assert_array_equal(weight, theirs[path])
