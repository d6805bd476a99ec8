from typing import Any

import numpy as np
import pytest

from model.compat import chainer
from model.networks import NextWordNetwork, build
from model.training.validation import validate

F = chainer.functions
V = 7


@pytest.fixture
def network() -> NextWordNetwork:
    np.random.seed(0)
    network = build(
        {"kind": "lstm_stack", "vocabulary_size": V, "embedding_size": 4, "hidden_sizes": [5, 4], "dropout": 0.5}
    )
    network.embed.W.array *= 20
    return network


def figures(network: NextWordNetwork, ids: Any, streams: int, start: int | None = None) -> tuple[float, float]:
    """By Chainer's plain functions, all steps at once."""
    length = (len(ids) - 1) // streams
    xs, ts = (part[: streams * length].reshape(streams, length).T for part in (ids[:-1], ids[1:]))
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        state = network.zero_state(streams)
        if start is not None:
            _, state = network.step(np.full(streams, start, np.int32), state)
        hidden, _ = network.sequence(np.ascontiguousarray(xs), state)
        logits = network.logits(F.reshape(hidden, (-1, hidden.shape[-1])))
        targets = np.ascontiguousarray(ts).ravel()
        return float(F.softmax_cross_entropy(logits, targets).array), float(F.accuracy(logits, targets).array)


@pytest.mark.parametrize("start", [None, 3])
@pytest.mark.parametrize(("words", "streams"), [(2, 1), (50, 1), (1999, 1), (2000, 2), (3001, 3), (11_000, 10)])
def test_loss_and_accuracy_are_those_of_the_text_a_short_one_as_one_stream(
    words: int, streams: int, start: int | None, network: NextWordNetwork
) -> None:
    ids = np.random.default_rng(1).integers(0, V, words).astype(np.int32)
    loss, accuracy = validate(network, ids, start=start, window=13)
    assert (loss, accuracy) == pytest.approx(figures(network, ids, streams, start), rel=1e-5)


def test_the_networks_own_state_is_left_as_it_is(network: NextWordNetwork) -> None:
    network(np.array([[1, 2]]))
    before = network.state
    assert before is not None
    values = [chainer.as_array(tensor).copy() for tensor in before]
    validate(network, np.arange(50, dtype=np.int32) % V)
    assert network.state is before
    for tensor, value in zip(before, values, strict=True):
        np.testing.assert_array_equal(chainer.as_array(tensor), value)


def test_a_single_word_predicts_nothing(network: NextWordNetwork) -> None:
    with pytest.raises(ValueError, match="1 words are too few"):
        validate(network, np.zeros(1, np.int32))
