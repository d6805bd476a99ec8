"""The CPU runtime against the networks' formulas, written plainly in NumPy, and against integers for int8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import model.cores
import model.runtimes.cpu
from model.artifact import Artifact
from model.runtimes.base import Ids, Projection, Runtime, State
from model.runtimes.cpu import ROWS, CpuRuntime
from model.shapes import parameter_shapes, state_tensors
from model.tokenizer import UNKNOWN, Tokenizer
from tests.model.formulas import Array, Network, Product, Weights, exactly, in_integers, log_softmax, step

V = 301  # no multiple of anything
NETWORKS: dict[str, Network] = {
    "simple_rnn": {"embedding_size": 7, "hidden_size": 9},
    "deep_rnn": {"embedding_size": 7, "hidden_sizes": [9, 5]},
    "concat_rnn": {"embedding_size": 7, "hidden_size": 9, "output_size": 6},
    "gru": {"embedding_size": 7, "hidden_sizes": [9, 5]},
    "lstm": {"hidden_size": 9},
    "lstm_stack": {"embedding_size": 7, "hidden_sizes": [9, 5, 7]},
}
KINDS = tuple(NETWORKS)
MODES = pytest.mark.parametrize("quantised", [False, True], ids=["float32", "int8"])
OF_EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def artifact(kind: str, *, vocabulary_size: int = V, seed: int = 0, **sizes: Any) -> Artifact:
    """A network of the kind with weights like those of a trained one: uneven rows, and some much larger than most."""
    network = {"kind": kind, "vocabulary_size": vocabulary_size, **(sizes or NETWORKS[kind])}
    random = np.random.default_rng(seed)
    weights = {
        name: (random.standard_t(6, size=shape) * (0.4 if len(shape) == 1 else 1.2 / np.sqrt(shape[1]))).astype(
            np.float32
        )
        for name, shape in parameter_shapes(network).items()
    }
    return of_weights(network, weights)


def of_weights(network: Network, weights: Weights) -> Artifact:
    for weight in weights.values():
        weight.flags.writeable = False  # as those that come from a file
    words = [UNKNOWN, *(f"w{number}" for number in range(1, network["vocabulary_size"]))]
    tokenizer = Tokenizer.from_vocabulary(words, "split")
    return Artifact("test", "test@0", network, None, {}, tokenizer, weights, "")


def projecting(W: Array, b: Array) -> Artifact:
    """A model whose logits are W h + b, for W (V, H) and b (V,)."""
    size, H = W.shape
    network = {"kind": "simple_rnn", "vocabulary_size": size, "embedding_size": 1, "hidden_size": H}
    weights = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(network).items()}
    return of_weights(network, weights | {"l2/W": W.astype(np.float32), "l2/b": b.astype(np.float32)})


def output(model: Artifact) -> tuple[Array, Array]:
    name = {"simple_rnn": "l2", "concat_rnn": "l2", "lstm": "l3"}.get(model.network["kind"], "output")
    return model.weights.get(f"{name}/W", model.weights["embed/W"]), model.weights[f"{name}/b"]


def stated(model: Artifact, hidden: Array, product: Product = exactly) -> Array:
    """Log-probabilities (R, V)."""
    return log_softmax(product(hidden, *output(model)))


def projected(rows: Array, top_k: int, targets: Ids | None = None) -> Projection:
    """What a projection of these log-probabilities has to be."""
    order: Ids = np.argsort(-rows, axis=1, kind="stable")
    places = np.arange(len(rows))
    return Projection(
        top_ids=order[:, :top_k],
        top_log_probabilities=np.take_along_axis(rows, order[:, :top_k], axis=1),
        entropies=-(np.exp(rows) * rows).sum(axis=1),
        target_log_probabilities=np.empty(0, np.float32) if targets is None else rows[places, targets],
        target_ranks=np.empty(0, np.int64) if targets is None else 1 + np.argsort(order, axis=1)[places, targets],
    )


def assert_equal(actual: Projection, expected: Projection, tolerance: float = 1e-4) -> None:
    for name in ("top_ids", "target_ranks"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), err_msg=name)
        assert getattr(actual, name).dtype == np.int64
    for name in ("top_log_probabilities", "entropies", "target_log_probabilities"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), atol=tolerance, err_msg=name)
        assert getattr(actual, name).dtype == np.float32


def consume(runtime: Runtime, words: Array) -> State:
    """The state after words (B, N)."""
    state = runtime.zero_state(len(words))
    for ids in words.T:
        state = runtime.advance(np.ascontiguousarray(ids), state)
    return state


def some_words(batch: int, length: int, vocabulary_size: int = V, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, vocabulary_size, (batch, length))


def hidden_outputs(model: Artifact, rows: int, seed: int = 2) -> NDArray[np.float32]:
    size = state_tensors(model.network)[-1].size
    return np.tanh(np.random.default_rng(seed).normal(size=(rows, size))).astype(np.float32)


# Float32, to the letter.


@OF_EACH_KIND
def test_float32_is_the_formulas(kind: str) -> None:
    model = artifact(kind)
    runtime = CpuRuntime(model, quantised=False)
    words = some_words(5, 12)
    state, oracle = runtime.zero_state(5), [np.asarray(tensor) for tensor in runtime.zero_state(5)]
    for ids in words.T:
        state = runtime.advance(ids, state)
        oracle = step(model.network, model.weights, model.weights["embed/W"][ids], tuple(oracle))
        for tensor, expected in zip(state, oracle, strict=True):
            assert tensor.dtype == np.float32
            np.testing.assert_allclose(tensor, expected, atol=1e-5)
    rows = stated(model, oracle[-1])
    np.testing.assert_allclose(runtime.log_probabilities(state[-1]), rows, atol=1e-4)
    targets = some_words(5, 1)[:, 0]
    assert_equal(runtime.project(state[-1], top_k=10, targets=targets), projected(rows, 10, targets))


@MODES
@OF_EACH_KIND
def test_saturated_gates_stay_numbers(kind: str, quantised: bool) -> None:
    model = artifact(kind)
    biases = {name: weight * 1000 for name, weight in model.weights.items() if name.endswith("/b")}
    model = of_weights(model.network, model.weights | biases)
    runtime = CpuRuntime(model, quantised=quantised)
    state = oracle = runtime.zero_state(3)
    for ids in some_words(3, 4).T:
        state = runtime.advance(ids, state)
        with np.errstate(over="ignore"):
            oracle = tuple(step(model.network, model.weights, model.weights["embed/W"][ids], oracle))
    for tensor, expected in zip(state, oracle, strict=True):
        np.testing.assert_allclose(tensor, expected, atol=0.2 if quantised else 1e-5)


@OF_EACH_KIND
def test_float32_is_the_reference(kind: str) -> None:
    from model.runtimes.reference import ReferenceRuntime

    model = artifact(kind, seed=3)
    runtime, reference = CpuRuntime(model, quantised=False), ReferenceRuntime(model)
    assert runtime.state_tensors == reference.state_tensors
    words = some_words(4, 9)
    hidden = consume(runtime, words)[-1], consume(reference, words)[-1]
    rows = runtime.log_probabilities(hidden[0]), reference.log_probabilities(hidden[1])
    np.testing.assert_allclose(*rows, atol=1e-4)
    targets = words[:, 0]
    expected = reference.project(hidden[1], top_k=5, targets=targets)
    assert_equal(runtime.project(hidden[0], top_k=5, targets=targets), expected)


# Int8: exact in itself, and near enough to float32.


@pytest.mark.parametrize("size", [2, 31, 256, 1151])
def test_int8_multiplies_exactly_at_the_extremes(size: int) -> None:
    """Sums of pairs that 16 bits cannot hold: where a CPU adds them in 16 bits, they saturate unless asked not to."""
    random = np.random.default_rng(size)
    W = np.where(random.random((200, size)) < 0.9, 1.0, random.choice([-1.0, 0.5], (200, size)))
    model = projecting(W * random.uniform(0.001, 0.01, (200, 1)), random.normal(size=200))
    runtime = CpuRuntime(model, quantised=True)
    for batch in (1, 3, 40):  # each has kernels of its own
        h = np.where(random.random((batch, size)) < 0.9, 1.0, -1.0).astype(np.float32)
        for hidden in (h, -h, np.ones_like(h)):
            np.testing.assert_allclose(runtime.log_probabilities(hidden), stated(model, hidden, in_integers), atol=1e-4)


@pytest.mark.parametrize("kind", ["simple_rnn", "deep_rnn", "concat_rnn", "gru", "lstm_stack"])
def test_int8_is_its_arithmetic_in_integers(kind: str) -> None:
    """One layer, and a state on the grid: nothing here can be rounded either way."""
    sizes = NETWORKS[kind] | ({"hidden_sizes": [7]} if "hidden_sizes" in NETWORKS[kind] else {})
    model = artifact(kind, **sizes)
    if kind == "gru":  # r * h would not be on the grid: let r be 0 or 1
        weights = {name: weight.copy() for name, weight in model.weights.items()}
        weights["layers/0/W_x"][:7] = weights["layers/0/W_h"][:7] = 0
        weights["layers/0/b"][:7] = np.where(np.arange(7) % 2, 100, -100)
        model = of_weights(model.network, weights)
    E = model.weights["embed/W"]
    # The embeddings are divided by each dimension's largest, and the matrix that meets them multiplied by it.
    largest = np.abs(E).max(axis=0)
    scaled = dict(model.weights)
    for name in ("l1/W", "blocks/0/l/W", "layers/0/W_x"):
        if name in scaled:
            scaled[name] = scaled[name].copy()
            scaled[name][:, : len(largest)] *= largest
    runtime = CpuRuntime(model, quantised=True)
    random = np.random.default_rng(4)
    state = tuple((random.integers(-63, 64, (6, t.size)) / 63).astype(np.float32) for t in runtime.state_tensors)
    ids = some_words(6, 1)[:, 0]
    expected = step(model.network, scaled, E[ids] / largest, state, in_integers)
    for tensor, of_integers in zip(runtime.advance(ids, state), expected, strict=True):
        np.testing.assert_allclose(tensor, of_integers, atol=1e-5)


@OF_EACH_KIND
def test_int8_is_near_float32(kind: str) -> None:
    """Random weights of these sizes: a log-probability moves by less than 0.5 at the most, 0.05 on average."""
    model = artifact(kind)
    words = some_words(32, 15)
    rows = []
    for quantised in (False, True):
        runtime = CpuRuntime(model, quantised=quantised)
        rows.append(runtime.log_probabilities(consume(runtime, words)[-1]))
    change = np.abs(rows[0] - rows[1])
    assert change.max() < 0.5
    assert change.mean() < 0.05
    assert change.max() > 0  # it is another arithmetic


# What every runtime owes.


@MODES
@OF_EACH_KIND
def test_a_row_answers_as_if_it_were_alone(kind: str, quantised: bool) -> None:
    model = artifact(kind)
    runtime = CpuRuntime(model, quantised=quantised)
    words = some_words(64, 10)
    together = consume(runtime, words)
    rows = runtime.log_probabilities(together[-1])
    for row in (0, 17, 63):
        alone = consume(runtime, words[row : row + 1])
        np.testing.assert_allclose(runtime.log_probabilities(alone[-1])[0], rows[row], atol=1e-3)
    order = np.random.default_rng(5).permutation(64)
    mixed = consume(runtime, words[order])
    np.testing.assert_allclose(runtime.log_probabilities(mixed[-1]), rows[order], atol=1e-3)


@MODES
def test_a_row_is_not_moved_by_extreme_strangers(quantised: bool) -> None:
    model = artifact("lstm_stack", vocabulary_size=500, embedding_size=24, hidden_sizes=[40, 24])
    runtime = CpuRuntime(model, quantised=quantised)
    row = hidden_outputs(model, 1)
    for stranger in (0.0, 1.0, -1.0):
        batch = np.full((64, 24), stranger, np.float32)
        batch[40] = row
        alone, among = runtime.log_probabilities(row)[0], runtime.log_probabilities(batch)[40]
        np.testing.assert_allclose(among, alone, atol=1e-3)


@MODES
@pytest.mark.parametrize("size", [3, 64, 65, 330])
def test_projection_is_the_whole_rows_summed_up(quantised: bool, size: int) -> None:
    model = artifact("simple_rnn", vocabulary_size=size, embedding_size=4, hidden_size=8)
    runtime = CpuRuntime(model, quantised=quantised)
    hidden, targets = hidden_outputs(model, 4), some_words(4, 1, size)[:, 0]
    rows = runtime.log_probabilities(hidden)
    assert rows.shape == (4, size)
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1, atol=1e-5)
    for top_k in (0, 1, 3, size // 2, size):
        assert_equal(runtime.project(hidden, top_k=top_k, targets=targets), projected(rows, top_k, targets))
        assert_equal(runtime.project(hidden, top_k=top_k), projected(rows, top_k))


@MODES
@pytest.mark.parametrize("rows", [0, 1, 5, ROWS + 3])
def test_words_named_row_by_row_have_the_log_probabilities_of_whole_rows(quantised: bool, rows: int) -> None:
    model = artifact("lstm_stack")
    runtime = CpuRuntime(model, quantised=quantised)
    hidden = hidden_outputs(model, rows)
    whole = runtime.log_probabilities(hidden)
    for count in (0, 1, 7, 2 * V):  # the last has words that are named twice
        words = np.random.default_rng(count).integers(0, V, (rows, count))
        answer, expected = runtime.project_words(hidden, words, top_k=6), projected(whole, 6)
        np.testing.assert_array_equal(answer.log_probabilities, np.take_along_axis(whole, words, axis=1))
        assert answer.log_probabilities.dtype == np.float32
        np.testing.assert_array_equal(answer.top_ids, expected.top_ids)
        scored = runtime.project(hidden, top_k=6, targets=np.arange(rows) % V)
        np.testing.assert_array_equal(answer.top_log_probabilities, scored.top_log_probabilities)
        np.testing.assert_array_equal(answer.entropies, scored.entropies)


@MODES
def test_equally_likely_words_stand_in_the_order_of_ids(quantised: bool) -> None:
    b = np.random.default_rng(6).integers(0, 4, 700).astype(np.float32)
    runtime = CpuRuntime(projecting(np.zeros((700, 3)), b), quantised=quantised)
    hidden, rows = np.zeros((5, 3), np.float32), np.tile(log_softmax(b[None]), (5, 1))
    for top_k in (1, 10, 300, 700):
        targets = some_words(5, 1, 700, seed=top_k)[:, 0]
        assert_equal(runtime.project(hidden, top_k=top_k, targets=targets), projected(rows, top_k, targets))
    ids = np.random.default_rng(7).permutation(700)[:100]
    among = runtime.project_subset(hidden, ids, top_k=50)
    expected = np.sort(ids)[np.argsort(-b[np.sort(ids)], kind="stable")][:50]
    np.testing.assert_array_equal(among.top_ids, np.tile(expected, (5, 1)))


@MODES
def test_a_certain_word_leaves_no_entropy(quantised: bool) -> None:
    b = np.zeros(100, np.float32)
    b[42] = 1000
    runtime = CpuRuntime(projecting(np.ones((100, 2)), b), quantised=quantised)
    answer = runtime.project(np.zeros((1, 2), np.float32), top_k=2, targets=np.array([7]))
    np.testing.assert_array_equal(answer.top_ids, [[42, 0]])
    np.testing.assert_allclose(answer.top_log_probabilities, [[0, -1000]], atol=1e-3)
    np.testing.assert_allclose(answer.target_log_probabilities, [-1000], atol=1e-3)
    np.testing.assert_array_equal(answer.target_ranks, [9])
    assert answer.entropies[0] == 0


@MODES
def test_a_subset_is_of_the_whole_vocabulary(quantised: bool) -> None:
    model = artifact("lstm_stack")
    runtime = CpuRuntime(model, quantised=quantised)
    hidden = hidden_outputs(model, 6)
    rows = runtime.log_probabilities(hidden)
    for ids in (np.array([300]), np.array([5, 0, 250, 17]), np.arange(V), np.arange(V)[::-1]):
        for top_k in (0, 1, 3, 1000):
            answer = runtime.project_subset(hidden, ids, top_k=top_k)
            chosen = rows[:, np.sort(ids)]
            best = np.argsort(-chosen, axis=1, kind="stable")[:, :top_k]
            np.testing.assert_array_equal(answer.top_ids, np.sort(ids)[best])
            expected = np.take_along_axis(chosen, best, axis=1)
            np.testing.assert_allclose(answer.top_log_probabilities, expected, atol=1e-4)
            np.testing.assert_allclose(answer.log_probabilities, np.log(np.exp(chosen).sum(axis=1)), atol=1e-4)
            assert answer.top_ids.dtype == np.int64
            assert answer.log_probabilities.dtype == answer.top_log_probabilities.dtype == np.float32


def test_a_subset_may_be_very_unlikely_or_empty() -> None:
    b = np.zeros(100)
    b[:50] = -500
    runtime = CpuRuntime(projecting(np.zeros((100, 2)), b), quantised=False)
    hidden = np.zeros((3, 2), np.float32)
    unlikely = runtime.project_subset(hidden, np.arange(50), top_k=1)
    np.testing.assert_allclose(unlikely.log_probabilities, -500, rtol=1e-6)
    empty = runtime.project_subset(hidden, np.empty(0, np.int64), top_k=5)
    assert empty.top_ids.shape == empty.top_log_probabilities.shape == (3, 0)
    np.testing.assert_array_equal(empty.log_probabilities, [-np.inf] * 3)


@MODES
def test_no_rows_are_no_rows(quantised: bool) -> None:
    model = artifact("gru")
    runtime = CpuRuntime(model, quantised=quantised)
    none, hidden = np.empty(0, np.int64), np.empty((0, 5), np.float32)
    assert [tensor.shape for tensor in runtime.advance(none, runtime.zero_state(0))] == [(0, 9), (0, 5)]
    assert_equal(runtime.project(hidden, top_k=4, targets=none), projected(np.empty((0, V)), 4, none))
    subset = runtime.project_subset(hidden, np.array([1, 2]), top_k=4)
    assert subset.top_ids.shape == subset.top_log_probabilities.shape == (0, 2)
    assert subset.log_probabilities.shape == (0,)
    assert runtime.log_probabilities(hidden).shape == (0, V)


@MODES
@pytest.mark.parametrize("rows", [ROWS, ROWS + 1, 3 * ROWS + 5])
def test_many_rows_are_many_answers(quantised: bool, rows: int) -> None:
    model = artifact("lstm")
    runtime = CpuRuntime(model, quantised=quantised)
    hidden, targets = hidden_outputs(model, rows), some_words(rows, 1)[:, 0]
    whole = np.concatenate([runtime.log_probabilities(hidden[row : row + 1]) for row in range(rows)])
    np.testing.assert_allclose(runtime.log_probabilities(hidden), whole, atol=1e-4)
    answer, expected = runtime.project(hidden, top_k=3, targets=targets), projected(whole, 3, targets)
    np.testing.assert_allclose(answer.target_log_probabilities, expected.target_log_probabilities, atol=1e-4)
    np.testing.assert_allclose(answer.top_log_probabilities, expected.top_log_probabilities, atol=1e-4)
    ids = np.array([4, 9])
    among = runtime.project_subset(hidden, ids, top_k=0)
    np.testing.assert_allclose(among.log_probabilities, np.log(np.exp(whole[:, ids]).sum(axis=1)), atol=1e-4)


@MODES
@OF_EACH_KIND
def test_the_state_that_was_given_is_unchanged(kind: str, quantised: bool) -> None:
    runtime = CpuRuntime(artifact(kind), quantised=quantised)
    state = consume(runtime, some_words(3, 4))
    before = [tensor.copy() for tensor in state]
    after = runtime.advance(np.array([1, 2, 3]), state)
    for tensor, copy, new in zip(state, before, after, strict=True):
        np.testing.assert_array_equal(tensor, copy)
        assert not np.array_equal(new, copy)
        assert not np.shares_memory(new, tensor)
        assert new.flags.writeable


def test_a_state_may_be_cut_from_larger_arrays() -> None:
    """Sessions' states lie in slabs; what is gathered from them need not be contiguous."""
    runtime = CpuRuntime(artifact("lstm_stack"), quantised=True)
    state = consume(runtime, some_words(8, 4))
    cut = tuple(np.concatenate([tensor, tensor], axis=1)[::2, : tensor.shape[1]] for tensor in state)
    ids = np.arange(8)[::2]
    kept = tuple(tensor[::2].copy() for tensor in state)
    for tensor, expected in zip(runtime.advance(ids, cut), runtime.advance(ids.copy(), kept), strict=True):
        np.testing.assert_array_equal(tensor, expected)
    hidden = cut[-1]
    assert_equal(runtime.project(hidden, top_k=3), runtime.project(hidden.copy(), top_k=3), tolerance=0)


def test_what_it_is() -> None:
    model = artifact("lstm_stack")
    runtime = CpuRuntime(model, quantised=True)
    fits: Runtime = runtime
    assert (fits.name, runtime.device, runtime.vocabulary_size) == ("cpu", "cpu", V)
    assert runtime.state_tensors == state_tensors(model.network)
    assert CpuRuntime(model, quantised=False).name == "cpu-float32"
    assert 1 <= runtime.threads <= 4
    assert all(not tensor.any() for tensor in runtime.zero_state(2))


def test_threads_change_nothing_but_the_time() -> None:
    model = artifact("lstm_stack", vocabulary_size=2000, embedding_size=64, hidden_sizes=[96, 64])
    words, answers = some_words(40, 5, 2000), []
    for threads in (1, 2):
        runtime = CpuRuntime(model, quantised=True, threads=threads)
        assert runtime.threads == threads
        answers.append(runtime.project(consume(runtime, words)[-1], top_k=7))
    assert_equal(answers[0], answers[1], tolerance=1e-5)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_one_or_more(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads is {threads}"):
        CpuRuntime(artifact("lstm"), quantised=True, threads=threads)


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "300000 100000\n"}, 2),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "350000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_no_more_threads_than_a_container_may_keep_busy(
    files: dict[str, str], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(model.cores, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert model.runtimes.cpu.default_threads() == threads


def test_it_starts_without_chainer() -> None:
    code = "import sys, model.runtimes.cpu; sys.exit('chainer' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_kept_to_be_sent_away(tmp_path: Path) -> None:
    code = (
        "import model.runtimes.cpu, tests.model.test_cpu_runtime as t;"
        "model.runtimes.cpu.CpuRuntime(t.artifact('lstm'), quantised=True)"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run([sys.executable, "-c", code], env=plain | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_said_in_one_line(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import model.runtimes.cpu"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "RuntimeUnavailableError: the cpu runtimes need onnx and onnxruntime" in last
    assert package in last
