from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.compat import chainer
from model.networks import NextWordNetwork, build
from model.training.batches import ParallelSequentialIterator
from model.training.sampling import CandidateSampler
from model.training.updater import DivergedError, GradientClipping, TruncatedBPTTUpdater

F = chainer.functions
V, STREAMS, WINDOW = 11, 3, 4
IDS = np.random.default_rng(3).integers(0, V, 40).astype(np.int32)  # streams of 13 words: windows of 4, 4, 4 and 1
NETWORKS = [
    {"kind": "simple_rnn", "embedding_size": 4, "hidden_size": 5},
    {"kind": "deep_rnn", "embedding_size": 4, "hidden_sizes": [5, 6]},
    {"kind": "concat_rnn", "embedding_size": 4, "hidden_size": 5, "output_size": 6},
    {"kind": "gru", "embedding_size": 4, "hidden_sizes": [5, 6]},
    {"kind": "lstm", "hidden_size": 5},
    {"kind": "lstm_stack", "embedding_size": 4, "hidden_sizes": [5, 4]},
]
each_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network["kind"])


class Gradients:
    """An optimiser hook that keeps what it sees."""

    name = "Gradients"
    call_for_each_param = False
    timing = "pre"

    def __call__(self, optimizer: Any) -> None:
        self.seen = {path: parameter.grad.copy() for path, parameter in optimizer.target.namedparams()}


class Training:
    """An updater that leaves the weights as they are, and what its updates see and report."""

    def __init__(self, network: NextWordNetwork, threshold: float = 1.0, ids: Any = IDS, **arguments: Any) -> None:
        optimizer = chainer.optimizers.SGD(lr=0.0).setup(network)
        self.raw, self.clipped, clipping = Gradients(), Gradients(), GradientClipping(threshold)
        optimizer.add_hook(self.raw, "raw")
        optimizer.add_hook(clipping)
        optimizer.add_hook(self.clipped, "clipped")
        self.updater = TruncatedBPTTUpdater(
            ParallelSequentialIterator(ids, STREAMS, WINDOW),
            optimizer,
            clipping,
            device=chainer.get_device("@numpy"),
            **({"seed": 0} | arguments),
        )

    def update(self) -> dict[str, float]:
        observation: dict[str, Any] = {}
        with chainer.Reporter().scope(observation):
            self.updater.update()
        return {name: float(figure) for name, figure in observation.items()}


def network_of(network: dict[str, Any], seed: int = 0, **arguments: Any) -> NextWordNetwork:
    np.random.seed(seed)
    return build({**network, "vocabulary_size": V, **arguments})


def expected(network: NextWordNetwork, window: Any, state: Any) -> tuple[float, dict[str, Any], Any]:
    """Loss, gradients and state' of one window that starts from constants, by Chainer's plain functions."""
    xs, ts = window
    hidden, state = network.sequence(np.ascontiguousarray(xs), state)
    logits = network.logits(F.reshape(hidden, (-1, hidden.shape[-1])))
    loss = F.softmax_cross_entropy(logits, np.ascontiguousarray(ts).ravel())
    network.cleargrads()
    loss.backward()
    gradients = {path: parameter.grad.copy() for path, parameter in network.namedparams()}
    return float(loss.array), gradients, tuple(chainer.as_array(tensor).copy() for tensor in state)


def norm(gradients: dict[str, Any]) -> float:
    return float(np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in gradients.values())))


@each_network
def test_each_update_is_its_window_alone_and_starts_from_the_value_of_the_state_before(network: dict[str, Any]) -> None:
    training, reference = Training(network_of(network)), network_of(network)
    windows = ParallelSequentialIterator(IDS, STREAMS, WINDOW)
    zeros = state = reference.zero_state(STREAMS)
    for _ in range(2 * windows.windows_in(1)):  # over the end of an epoch
        loss, gradients, state = expected(reference, next(windows), state)
        reported = training.update()
        assert reported["main/loss"] == pytest.approx(loss, rel=1e-5)
        assert reported["main/gradient_norm"] == pytest.approx(norm(gradients), rel=1e-5)
        for path, gradient in gradients.items():
            np.testing.assert_allclose(training.raw.seen[path], gradient, atol=1e-6)
        if windows.is_new_epoch:
            state = zeros
        kept = training.updater.get_optimizer("main").target.state
        for ours, theirs in zip(kept, state, strict=True):
            np.testing.assert_allclose(chainer.as_array(ours), theirs, atol=1e-6)


@each_network
def test_the_graph_behind_a_window_is_let_go(network: dict[str, Any]) -> None:
    training = Training(network_of(network))
    sizes = []
    for _ in range(3):
        training.update()
        reached, waiting = set(), list(training.updater.get_optimizer("main").target.state)
        while waiting:
            variable = waiting.pop()
            creator = getattr(variable, "creator_node", None)
            if creator is not None and creator not in reached:
                reached.add(creator)
                waiting += creator.inputs or ()
        sizes.append(len(reached))
    assert sizes[0] == sizes[1] == sizes[2] <= 4


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0.01, 100), st.floats(0.01, 100))
def test_clipping_scales_to_the_threshold_and_leaves_small_gradients_bit_equal(
    seed: int, threshold: float, size: float
) -> None:
    random = np.random.default_rng(seed)
    link = chainer.Link()
    with link.init_scope():
        link.W = chainer.Parameter(0, (3, 4))
        link.b = chainer.Parameter(0, (5,))
        link.unused = chainer.Parameter(0, (2,))
    link.cleargrads()
    raw = {"/W": random.normal(size=(3, 4)).astype(np.float32), "/b": random.normal(size=5).astype(np.float32)}
    scale = np.float32(size / norm(raw))
    raw = {path: gradient * scale for path, gradient in raw.items()}
    link.W.grad, link.b.grad = raw["/W"].copy(), raw["/b"].copy()
    clipping = GradientClipping(threshold)
    clipping(chainer.optimizers.SGD().setup(link))
    assert float(clipping.norm) == pytest.approx(norm(raw), rel=1e-5)
    clipped = {"/W": link.W.grad, "/b": link.b.grad}
    if norm(raw) < threshold * 0.9999:
        for path, gradient in raw.items():
            np.testing.assert_array_equal(clipped[path], gradient)
    else:
        assert norm(clipped) == pytest.approx(threshold, rel=1e-4)
        for path, gradient in raw.items():
            np.testing.assert_allclose(clipped[path], gradient * (threshold / norm(raw)), rtol=1e-3)
    assert link.unused.grad is None


def test_the_norm_is_reported_before_clipping_and_the_update_sees_it_clipped() -> None:
    training = Training(network_of(NETWORKS[-1]), threshold=0.01)
    reported = training.update()
    assert reported["main/gradient_norm"] == pytest.approx(norm(training.raw.seen), rel=1e-5)
    assert reported["main/gradient_norm"] > 0.1
    assert norm(training.clipped.seen) == pytest.approx(0.01, rel=1e-4)


def test_candidates_stand_for_the_vocabulary_only_so_long() -> None:
    counts = np.bincount(IDS, minlength=V)
    sampler = CandidateSampler(counts, 2, STREAMS * WINDOW)
    sampled = Training(network_of(NETWORKS[-1]), sampler=sampler, sampled_until=2)
    full = Training(network_of(NETWORKS[-1]))
    told = [(sampled.update(), full.update()) for _ in range(4)]
    assert ["main/loss" in one for one, _ in told] == [False, False, True, True]
    assert ["main/candidate_loss" in one for one, _ in told] == [True, True, False, False]
    equal = [one.get("main/loss", one.get("main/candidate_loss")) == other["main/loss"] for one, other in told]
    assert equal == [False, False, True, True]


def test_dropout_is_drawn_anew_each_update_from_seed_and_iteration_alone() -> None:
    def losses(seed: int, disturb: bool = False) -> list[float]:
        training = Training(network_of(NETWORKS[-1], dropout=0.5), seed=seed)
        found = []
        for _ in range(3):
            if disturb:
                np.random.random(7)
            found.append(training.update()["main/loss"])
        return found

    assert losses(1) == losses(1) == losses(1, disturb=True)
    assert losses(1) != losses(2)

    # With the same words and the same state each time, only the masks make a difference.
    network = network_of(NETWORKS[-1], dropout=0.5)
    training = Training(network, ids=np.ones(STREAMS * WINDOW + 1, np.int32))
    assert len({training.update()["main/loss"] for _ in range(5)}) == 5


@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e38])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_training(weight: float) -> None:
    network = network_of(NETWORKS[-1])
    network.embed.W.array[...] = weight
    training = Training(network)
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match=r"^the loss is .* at iteration 0$"):
        training.update()


def test_the_recurrent_state_is_saved_and_restored() -> None:
    training = Training(network_of(NETWORKS[-1]))
    training.update()
    saved = chainer.serializers.npz.serialize(training.updater)
    going_on = [training.update()["main/loss"] for _ in range(4)]
    restored = Training(network_of(NETWORKS[-1], seed=9))  # other weights, until it is restored
    restored.updater.serialize(chainer.serializers.NpzDeserializer(saved))
    assert [restored.update()["main/loss"] for _ in range(4)] == going_on
    assert restored.updater.iteration == 5


def test_what_was_not_finite_between_two_looks_is_seen_at_the_next() -> None:
    training = Training(network_of(NETWORKS[0]), looks=3)
    with np.errstate(all="ignore"):
        training.update()
        embedding = training.updater.get_optimizer("main").target.embed.W.array
        kept = embedding.copy()
        embedding[...] = np.inf
        training.update()
        embedding[...] = kept  # what it was is over, and must be told nevertheless
        training.updater.get_optimizer("main").target.reset_state()
        training.update()
        with pytest.raises(DivergedError, match="at iteration 3"):
            training.update()
