import pytest

from model.networks import build
from model.shapes import KINDS, NetworkError, parameter_shapes, state_tensors

NETWORKS = {
    "simple_rnn": {"kind": "simple_rnn", "vocabulary_size": 7, "embedding_size": 2, "hidden_size": 3},
    "deep_rnn": {"kind": "deep_rnn", "vocabulary_size": 7, "embedding_size": 2, "hidden_sizes": [3, 5, 4]},
    "concat_rnn": {
        "kind": "concat_rnn",
        "vocabulary_size": 7,
        "embedding_size": 2,
        "hidden_size": 3,
        "output_size": 4,
    },
    "gru": {"kind": "gru", "vocabulary_size": 7, "embedding_size": 2, "hidden_sizes": [3, 5]},
    "lstm": {"kind": "lstm", "vocabulary_size": 7, "hidden_size": 3},
    "lstm_stack": {"kind": "lstm_stack", "vocabulary_size": 7, "embedding_size": 2, "hidden_sizes": [3, 5, 2]},
}


def test_every_kind_is_tried() -> None:
    assert tuple(NETWORKS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_shapes_are_those_of_the_chainer_network(kind: str) -> None:
    network = build(NETWORKS[kind])
    real = {path.lstrip("/"): parameter.shape for path, parameter in network.namedparams()}
    assert parameter_shapes(NETWORKS[kind]) == real


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_that_of_the_chainer_network(kind: str) -> None:
    tensors = state_tensors(NETWORKS[kind])
    assert tuple(tensor.size for tensor in tensors) == build(NETWORKS[kind]).state_sizes
    assert len({tensor.name for tensor in tensors}) == len(tensors)


def test_state_tensors_are_named_and_layered() -> None:
    named = [(tensor.name, tensor.size, tensor.layer) for tensor in state_tensors(NETWORKS["lstm_stack"])]
    assert named == [("c0", 3, 0), ("h0", 3, 0), ("c1", 5, 1), ("h1", 5, 1), ("c2", 2, 2), ("h2", 2, 2)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "transformer"}, "'transformer'; known: simple_rnn, deep_rnn"),
        ({"kind": None}, "known: simple_rnn"),
        ({"dropout": 0.5}, "no argument 'dropout'"),
        ({"vocabulary_size": 0}, "vocabulary_size is a number from 1"),
        ({"vocabulary_size": True}, "not True"),
        ({"vocabulary_size": "7"}, "not '7'"),
        ({"embedding_size": 1 << 40}, "embedding_size"),
        ({"hidden_sizes": []}, "hidden_sizes is a list"),
        ({"hidden_sizes": 4}, "hidden_sizes is a list"),
        ({"hidden_sizes": [3, -1]}, "not -1"),
        ({"hidden_sizes": [2] * 65}, "1 to 64 sizes"),
        ({"hidden_sizes": [3, 4]}, "last of hidden_sizes is 4 and embedding_size is 2"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(NetworkError, match=said) as caught:
        parameter_shapes(NETWORKS["lstm_stack"] | change)
    assert "\n" not in str(caught.value)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(NetworkError, match="lstm lacks hidden_size; it takes vocabulary_size, hidden_size"):
        state_tensors({"kind": "lstm", "vocabulary_size": 3})
