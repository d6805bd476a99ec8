"""What the textbooks say of these networks, said of ours."""

from __future__ import annotations

import numpy as np
import pytest

from model import networks
from model.compat import chainer
from model.loss import linear_softmax_cross_entropy
from model.networks import NextWordNetwork
from model.networks.locked_dropout import LockedDropout
from model.shapes import parameter_shapes, state_tensors
from tests.model.gradients import gradient_check

F, L = chainer.functions, chainer.links
V = 11
ARGUMENTS = {
    "simple_rnn": {"embedding_size": 5, "hidden_size": 6},
    "deep_rnn": {"embedding_size": 5, "hidden_sizes": [6, 4]},
    "concat_rnn": {"embedding_size": 5, "hidden_size": 6, "output_size": 4},
    "gru": {"embedding_size": 5, "hidden_sizes": [6, 4]},
    "lstm": {"hidden_size": 5},
    "lstm_stack": {"embedding_size": 5, "hidden_sizes": [7, 6, 5]},
}


@pytest.fixture(params=networks.NETWORKS)
def network(request: pytest.FixtureRequest) -> NextWordNetwork:
    np.random.seed(0)
    return networks.build({"kind": request.param, "vocabulary_size": V, **ARGUMENTS[request.param]})


def words(T: int, B: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, (T, B)).astype(np.int32)


def loss_of(network: NextWordNetwork, xs: np.ndarray, ts: np.ndarray) -> chainer.Variable:
    hidden = network(xs)
    return linear_softmax_cross_entropy(hidden.reshape(ts.size, -1), *network.output_parameters(), ts.ravel())


def test_embed_id_is_a_one_hot_vector_times_a_linear_without_bias() -> None:
    embed, linear = L.EmbedID(V, 5), L.Linear(V, 5, nobias=True)
    linear.W.array = embed.W.array.T.copy()
    ids = np.arange(V, dtype=np.int32)
    np.testing.assert_array_equal(embed(ids).array, linear(np.eye(V, dtype=np.float32)).array)


def test_parameters_and_state_are_those_of_the_model_directory(network: NextWordNetwork) -> None:
    shapes = {path.lstrip("/"): parameter.shape for path, parameter in network.namedparams()}
    assert shapes == parameter_shapes(network.arguments)
    assert list(network.state_sizes) == [tensor.size for tensor in state_tensors(network.arguments)]


def test_arguments_build_the_same_network(network: NextWordNetwork) -> None:
    assert networks.build(network.arguments).arguments == network.arguments


def test_the_unrolled_network_is_the_loop(network: NextWordNetwork) -> None:
    xs = words(6, 3)
    state = network.zero_state(3)
    looped = []
    for x in xs:
        h, state = network.step(x, state)
        looped.append(h.array)
    unrolled, last = network.sequence(xs, network.zero_state(3))
    np.testing.assert_allclose(unrolled.array, np.stack(looped), rtol=1e-5, atol=1e-6)
    for one, other in zip(last, state, strict=True):
        np.testing.assert_allclose(one.array, other.array, rtol=1e-5, atol=1e-6)


def test_a_step_leaves_its_state_unchanged_and_keeps_nothing(network: NextWordNetwork) -> None:
    _, state = network.step(words(1, 2)[0], network.zero_state(2))
    before = [tensor.array.copy() for tensor in state]
    first, _ = network.step(words(1, 2, seed=1)[0], state)
    second, _ = network.step(words(1, 2, seed=1)[0], state)
    np.testing.assert_array_equal(first.array, second.array)
    for tensor, kept in zip(state, before, strict=True):
        np.testing.assert_array_equal(tensor.array, kept)
    assert network.state is None


def test_the_hidden_output_is_the_last_tensor_of_the_state(network: NextWordNetwork) -> None:
    h, state = network.step(words(1, 2)[0], network.zero_state(2))
    np.testing.assert_array_equal(h.array, state[-1].array)


def test_calls_continue_each_other_until_the_state_is_reset(network: NextWordNetwork) -> None:
    xs = words(8, 2)
    whole = network(xs).array
    network.reset_state()
    parts = [network(xs[:3]).array, network(xs[3:]).array]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)
    continued = network(xs).array
    assert np.abs(continued - whole).max() > 1e-3
    network.reset_state()
    np.testing.assert_array_equal(network(xs).array, whole)


def test_no_words_change_nothing(network: NextWordNetwork) -> None:
    hidden, state = network.sequence(words(0, 2), network.zero_state(2))
    assert hidden.shape == (0, 2, network.state_sizes[-1])
    for tensor in state:
        assert not chainer.as_array(tensor).any()


def test_rows_do_not_see_each_other(network: NextWordNetwork) -> None:
    xs = words(5, 4)
    together = network.sequence(xs, network.zero_state(4))[0].array
    for row in range(4):
        alone = network.sequence(xs[:, row : row + 1], network.zero_state(1))[0].array
        np.testing.assert_allclose(together[:, row : row + 1], alone, rtol=1e-5, atol=1e-6)


def test_gradients_through_a_window_equal_numerical_ones(network: NextWordNetwork) -> None:
    """Back-propagation through time over a window is the gradient of that window's loss."""
    xs, ts = words(4, 2), words(4, 2, seed=1)
    parameters = [parameter for _, parameter in sorted(network.namedparams())]
    for parameter in parameters:
        parameter.array = parameter.array.astype(np.float64)

    def loss(*_: chainer.Variable) -> chainer.Variable:
        network.state = tuple(state.astype(np.float64) for state in network.zero_state(2))
        return loss_of(network, xs, ts)

    gradient_check.check_backward(loss, (), np.array(1.0), params=parameters, eps=1e-4, atol=1e-5, rtol=1e-4, dtype="d")


def test_truncation_gives_the_gradient_of_the_window_alone(network: NextWordNetwork) -> None:
    """After `unchain_backward` the next window's gradient is that of a network that starts from the state's value."""
    xs, ts = words(6, 2), words(6, 2, seed=1)
    loss_of(network, xs[:3], ts[:3]).unchain_backward()
    value = tuple(chainer.as_array(tensor).copy() for tensor in network.state)
    network.cleargrads()
    loss_of(network, xs[3:], ts[3:]).backward()
    truncated = {path: parameter.grad.copy() for path, parameter in network.namedparams()}

    network.state = value
    network.cleargrads()
    loss_of(network, xs[3:], ts[3:]).backward()
    for path, parameter in network.namedparams():
        np.testing.assert_allclose(truncated[path], parameter.grad, rtol=1e-5, atol=1e-7)


def test_without_truncation_the_gradient_reaches_into_the_window_before(network: NextWordNetwork) -> None:
    xs, ts = words(6, 2), words(6, 2, seed=1)

    def gradient(cut: bool) -> np.ndarray:
        network.reset_state()
        before = loss_of(network, xs[:3], ts[:3])
        if cut:
            before.unchain_backward()
        network.cleargrads()
        loss_of(network, xs[3:], ts[3:]).backward()
        return network.embed.W.grad.copy()

    assert np.abs(gradient(cut=True) - gradient(cut=False)).max() > 1e-6


def test_training_lowers_the_loss(network: NextWordNetwork) -> None:
    optimizer = chainer.optimizers.Adam(alpha=0.05)
    optimizer.setup(network)
    xs, ts = words(5, 2), words(5, 2, seed=1)
    losses = []
    for _ in range(100):
        network.reset_state()
        loss = loss_of(network, xs, ts)
        network.cleargrads()
        loss.backward()
        optimizer.update()
        losses.append(float(loss.array))
    assert losses[-1] < 0.2 * losses[0]


def test_gru_is_chainers_stateless_gru() -> None:
    ours = networks.gru.GRULayer(3, 4)
    theirs = L.StatelessGRU(3, 4)
    H = 4
    for index, name in enumerate(["r", "z", ""]):
        block = slice(index * H, (index + 1) * H)
        getattr(theirs, f"W_{name}".rstrip("_")).W.array = ours.W_x.array[block]
        getattr(theirs, f"W_{name}".rstrip("_")).b.array = ours.b.array[block]
        getattr(theirs, f"U_{name}".rstrip("_")).W.array = ours.W_h.array[block]
        getattr(theirs, f"U_{name}".rstrip("_")).b.array[...] = 0
    random = np.random.default_rng(0)
    x, h = random.standard_normal((2, 3)).astype(np.float32), random.standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_allclose(ours(x, h).array, theirs(h, x).array, rtol=1e-5, atol=1e-6)


def test_a_tied_output_needs_equal_sizes() -> None:
    with pytest.raises(ValueError, match="7 is not 5"):
        networks.build({"kind": "lstm_stack", "vocabulary_size": V, "embedding_size": 5, "hidden_sizes": [7]})


def test_an_unknown_kind_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'transformer'.*simple_rnn.*lstm_stack"):
        networks.build({"kind": "transformer"})


def test_locked_dropout_keeps_one_mask_for_all_steps_and_the_mean() -> None:
    dropout = LockedDropout(0.4)
    x = chainer.Variable(np.ones((3, 200, 50), np.float32))
    with chainer.using_config("train", True):
        y = dropout(x).array
    np.testing.assert_array_equal(y[0], y[2])
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.6)}
    assert abs(y.mean() - 1) < 0.03
    with chainer.using_config("train", False):
        assert dropout(x) is x
