"""The CUDA runtime, its kernels run by an emulated device, against the networks' formulas and the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.artifact import Artifact
from model.cuda.device import cupy_device
from model.cuda.network import parts_of
from model.runtimes.base import DeviceMemoryError
from model.runtimes.cuda import WIDTHS, CudaRuntime
from model.runtimes.slab import slab_of
from tests.gpu.device import needs_gpu
from tests.model.emulated import EmulatedDevice, needs_compiler
from tests.model.formulas import log_softmax, step
from tests.model.test_cpu_runtime import (
    KINDS,
    V,
    artifact,
    assert_equal,
    consume,
    hidden_outputs,
    of_weights,
    projected,
    projecting,
    some_words,
    stated,
)

SHIPPED = Path(__file__).parents[2] / "model" / "pretrained" / "english"
OF_EACH_KIND = pytest.mark.parametrize("kind", KINDS)


Make = Callable[..., CudaRuntime]


def emulated(model: Artifact, *, float16: bool = False, most: int = 16, **device: Any) -> CudaRuntime:
    return CudaRuntime(model, EmulatedDevice(lazy=True, **device), float16=float16, most=most)


def on_a_gpu(model: Artifact, *, float16: bool = False, most: int = 16) -> CudaRuntime:
    return CudaRuntime(model, cupy_device(0), float16=float16, most=most)


@pytest.fixture(params=[pytest.param(emulated, marks=needs_compiler), pytest.param(on_a_gpu, marks=needs_gpu)])
def cuda(request: pytest.FixtureRequest) -> Make:
    """Makes a runtime, on an emulated device and, where there is one, on a real one."""
    make: Make = request.param
    return make


@pytest.mark.parametrize("batch", [1, 5])
@OF_EACH_KIND
def test_float32_is_the_formulas(kind: str, batch: int, cuda: Make) -> None:
    model = artifact(kind)
    runtime = cuda(model)
    words = some_words(batch, 7)
    state, oracle = runtime.zero_state(batch), [np.asarray(tensor) for tensor in runtime.zero_state(batch)]
    for ids in words.T:  # plainly, then recorded, then replayed
        state = runtime.advance(ids, state)
        oracle = step(model.network, model.weights, model.weights["embed/W"][ids], tuple(oracle))
        for tensor, expected in zip(state, oracle, strict=True):
            assert tensor.dtype == np.float32
            np.testing.assert_allclose(tensor, expected, atol=1e-5)
        rows = stated(model, oracle[-1])
        targets = ids[::-1].copy()
        assert_equal(runtime.project(state[-1], top_k=10, targets=targets), projected(rows, 10, targets))
    np.testing.assert_allclose(runtime.log_probabilities(state[-1]), rows, atol=1e-4)


@OF_EACH_KIND
def test_it_is_the_reference(kind: str, cuda: Make) -> None:
    from model.runtimes.reference import ReferenceRuntime

    model = artifact(kind, seed=3)
    # As they come in a model that was saved in float16. That rounding alone moves the answers of the deep RNN, whose
    # random weights let states grow apart, by 1.4e-2.
    rounded = of_weights(model.network, {name: W.astype(np.float16).astype("f") for name, W in model.weights.items()})
    words = some_words(4, 9)
    for it, float16, most, mean in ((model, False, 1e-4, 1e-5), (rounded, True, 1e-2, 1e-3)):
        reference, runtime = ReferenceRuntime(it), cuda(it, float16=float16)
        expected = reference.log_probabilities(consume(reference, words)[-1])
        change = np.abs(runtime.log_probabilities(consume(runtime, words)[-1]) - expected)
        assert change.max() < most
        assert change.mean() < mean
        assert (change.max() > 1e-4) == float16


# Ordinary English, in pieces that are read side by side.
TEXTS = (
    "The train was late again this morning, so we walked along the river and talked about the weather",
    "She opened the letter, read it twice, and put it back into the drawer without saying a word",
    "I would like to know how much it costs, and whether you could send it before the end of the week",
    "What are you doing tonight? I was going to watch a film, but I am too tired to go out",
)


def test_float16_is_the_reference_on_the_model_that_ships(cuda: Make) -> None:
    """Through the states of a slab, word by word: 1e-2 in log-probability, 0.2 % in perplexity."""
    from model.runtimes.reference import ReferenceRuntime

    model = Artifact.load(SHIPPED)
    encoded = [model.tokenizer.encode(text).ids for text in TEXTS]
    words = np.stack([ids[:12] for ids in encoded])  # an emulated device takes half a second for each
    streams, length = words.shape
    reference, runtime = ReferenceRuntime(model), cuda(model, float16=True)
    state, slab, slots = reference.zero_state(streams), slab_of(runtime, streams + 1), np.arange(streams)
    before = np.full(streams, model.start_id)
    surprise = np.zeros(2)
    for place in range(length):
        named = words[:, place : place + 1]
        state = reference.advance(before, state)
        slab.advance(before, slots, slots)
        answer, expected = slab.project_words(slots, named, top_k=10), reference.log_probabilities(state[-1])
        there = np.take_along_axis(expected, named, axis=1)
        np.testing.assert_allclose(answer.log_probabilities, there, atol=1e-2)
        tops = np.take_along_axis(expected, answer.top_ids, axis=1)
        np.testing.assert_allclose(answer.top_log_probabilities, tops, atol=1e-2)
        surprise += there.sum(), answer.log_probabilities.sum()
        before = words[:, place].copy()
    np.testing.assert_allclose(runtime.log_probabilities(slab.hidden(slots)), expected, atol=1e-2)
    exact, ours = np.exp(-surprise / words.size)
    assert 20 < exact < 200  # it does read English
    assert abs(ours / exact - 1) < 2e-3


@OF_EACH_KIND
def test_saturated_gates_stay_numbers(kind: str, cuda: Make) -> None:
    model = artifact(kind)
    biases = {name: weight * 1000 for name, weight in model.weights.items() if name.endswith("/b")}
    model = of_weights(model.network, model.weights | biases)
    assert all(np.isfinite(tensor).all() for tensor in consume(cuda(model), some_words(3, 4)))


@pytest.mark.parametrize("float16", [False, True])
def test_a_row_answers_as_if_it_were_alone(float16: bool, cuda: Make) -> None:
    model = artifact("lstm_stack")
    runtime = cuda(model, float16=float16)
    words = some_words(21, 4)  # more than one launch, and the last one filled up
    rows = runtime.log_probabilities(consume(runtime, words)[-1])
    for row in (0, 15, 16, 20):
        alone = consume(runtime, words[row : row + 1])
        np.testing.assert_allclose(runtime.log_probabilities(alone[-1])[0], rows[row], atol=1e-3)


@pytest.fixture(params=[1, 3, 16])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """In how many pieces a row of logits is looked at, at most."""
    monkeypatch.setattr("model.cuda.network.PARTS", request.param)
    count: int = request.param
    return count


# Fewer words than threads, as many, more; with 3 words, fewer than any recorded width.
@pytest.mark.parametrize("size", [3, 65, 330, 512, 2400])
def test_projection_is_the_whole_rows_summed_up(size: int, parts: int, cuda: Make) -> None:
    model = artifact("simple_rnn", vocabulary_size=size, embedding_size=4, hidden_size=8)
    runtime = cuda(model)
    hidden, targets = hidden_outputs(model, 4), some_words(4, 1, size)[:, 0]
    rows = runtime.log_probabilities(hidden)
    assert rows.shape == (4, size)
    np.testing.assert_allclose(rows, stated(model, hidden), atol=1e-5)
    for top_k in (0, 1, 3, *WIDTHS, WIDTHS[-1] + 1, size):
        top_k = min(top_k, size)
        assert_equal(runtime.project(hidden, top_k=top_k, targets=targets), projected(rows, top_k, targets))
        assert_equal(runtime.project(hidden, top_k=top_k), projected(rows, top_k))


def test_logits_of_many_rows_are_made_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch, cuda: Make) -> None:
    monkeypatch.setattr("model.cuda.network.LOGIT_BYTES", 4 * 304 * 5)
    model = artifact("lstm_stack")
    runtime = cuda(model)
    assert runtime.network.block == 5
    hidden, targets = hidden_outputs(model, 37), some_words(37, 1)[:, 0]
    rows = stated(model, hidden)
    assert_equal(runtime.project(hidden, top_k=10, targets=targets), projected(rows, 10, targets))
    np.testing.assert_allclose(runtime.log_probabilities(hidden), rows, atol=1e-4)


@pytest.mark.parametrize("top_k", [6, 200])
@pytest.mark.parametrize("rows", [0, 1, 5, 37])
def test_words_named_row_by_row(rows: int, top_k: int, cuda: Make) -> None:
    model = artifact("lstm_stack")
    runtime = cuda(model)
    hidden = hidden_outputs(model, rows)
    whole = runtime.log_probabilities(hidden)
    for count in (0, 1, 7, 2 * V):
        words = np.random.default_rng(count).integers(0, V, (rows, count))
        answer, expected = runtime.project_words(hidden, words, top_k=top_k), projected(whole, top_k)
        np.testing.assert_allclose(answer.log_probabilities, np.take_along_axis(whole, words, axis=1), atol=1e-5)
        np.testing.assert_array_equal(answer.top_ids, expected.top_ids)
        np.testing.assert_allclose(answer.entropies, expected.entropies, atol=1e-4)


def test_equally_likely_words_stand_in_the_order_of_ids(parts: int, cuda: Make) -> None:
    # 1,500 words of four kinds: more of the best kind than are looked at together.
    for size, kinds in ((700, 4), (5000, 2)):
        b = np.random.default_rng(6).integers(0, kinds, size).astype(np.float32)
        runtime = cuda(projecting(np.zeros((size, 3)), b))
        hidden, rows = np.zeros((2, 3), np.float32), np.tile(log_softmax(b[None]), (2, 1))
        for top_k in (1, 10, 128, 300):
            targets = some_words(2, 1, size, seed=top_k)[:, 0]
            assert_equal(runtime.project(hidden, top_k=top_k, targets=targets), projected(rows, top_k, targets))
    ids = np.random.default_rng(7).permutation(5000)[:100]
    among = runtime.project_subset(hidden, ids, top_k=50)
    expected = np.sort(ids)[np.argsort(-b[np.sort(ids)], kind="stable")][:50]
    np.testing.assert_array_equal(among.top_ids, np.tile(expected, (2, 1)))


def test_the_likeliest_words_may_all_lie_in_one_threads_part(parts: int, cuda: Make) -> None:
    b = np.zeros(4000, np.float32)
    b[7::256] = np.arange(16) + 1
    answer = cuda(projecting(np.zeros((4000, 3)), b)).project(np.zeros((1, 3), np.float32), top_k=17)
    np.testing.assert_array_equal(answer.top_ids[0], [*range(7 + 15 * 256, 0, -256), 0])


def test_a_small_batch_is_looked_at_by_many_blocks_and_a_large_one_by_one_each() -> None:
    V = 33_278
    assert [parts_of(n, 16, V) for n in (1, 16, 32, 128, 256, 4096)] == [16, 16, 8, 2, 1, 1]
    assert parts_of(1, 128, V) == 8  # what is merged has to fit into the memory of a block
    assert [parts_of(1, 16, size) for size in (3, 127, 300, 2048)] == [1, 1, 2, 16]


def test_a_certain_word_leaves_no_entropy(cuda: Make) -> None:
    b = np.zeros(100, np.float32)
    b[42] = 1000
    answer = cuda(projecting(np.ones((100, 2)), b)).project(
        np.zeros((1, 2), np.float32), top_k=2, targets=np.array([7])
    )
    np.testing.assert_array_equal(answer.top_ids, [[42, 0]])
    np.testing.assert_allclose(answer.target_log_probabilities, [-1000], atol=1e-3)
    np.testing.assert_array_equal(answer.target_ranks, [9])
    assert answer.entropies[0] == 0


def test_what_is_not_a_number_shows_and_stays_in_its_row(parts: int, cuda: Make) -> None:
    model = artifact("lstm_stack")
    runtime = cuda(model)
    hidden = hidden_outputs(model, 3)
    hidden[1, 2] = np.nan
    answer = runtime.project(hidden, top_k=5)
    np.testing.assert_array_equal(np.isnan(answer.entropies), [False, True, False])
    assert ((answer.top_ids >= 0) & (answer.top_ids < V)).all()
    expected = projected(stated(model, hidden[[0, 2]]), 5)
    np.testing.assert_array_equal(answer.top_ids[[0, 2]], expected.top_ids)


def test_a_subset_is_of_the_whole_vocabulary(cuda: Make) -> None:
    model = artifact("lstm_stack")
    runtime = cuda(model)
    hidden = hidden_outputs(model, 6)
    rows = runtime.log_probabilities(hidden)
    for ids in (np.array([300]), np.array([5, 0, 250, 17]), np.arange(V)[::-1], np.empty(0, np.int64)):
        for top_k in (0, 1, 3, 1000):
            answer = runtime.project_subset(hidden, ids, top_k=top_k)
            chosen = rows[:, np.sort(ids)]
            best = np.argsort(-chosen, axis=1, kind="stable")[:, :top_k]
            np.testing.assert_array_equal(answer.top_ids, np.sort(ids)[best])
            with np.errstate(divide="ignore"):
                np.testing.assert_allclose(answer.log_probabilities, np.log(np.exp(chosen).sum(axis=1)), atol=1e-4)


def test_nothing_for_nobody(cuda: Make) -> None:
    runtime = cuda(artifact("gru"))
    assert [len(tensor) for tensor in runtime.advance(np.empty(0, np.int64), runtime.zero_state(0))] == [0, 0]
    nobody = np.empty((0, 5), np.float32)
    assert runtime.project(nobody, top_k=7).top_ids.shape == (0, 7)
    assert runtime.log_probabilities(nobody).shape == (0, V)


@needs_compiler
def test_a_batch_is_recorded_once_for_each_power_of_two() -> None:
    model = artifact("lstm_stack")
    runtime = emulated(model)
    for _ in range(2):
        for batch in (1, 2, 3, 4, 5, 8, 9, 16):
            state = runtime.advance(np.zeros(batch, np.int64), runtime.zero_state(batch))
            runtime.project(state[-1], top_k=10)
    assert len(runtime._recordings) == 2 * 5


def test_what_is_too_large_for_float16_is_refused(cuda: Make) -> None:
    model = artifact("gru")
    model = of_weights(model.network, model.weights | {"output/W": model.weights["output/W"] * np.float32(1e6)})
    with pytest.raises(ValueError, match="does not fit into float16"):
        cuda(model, float16=True)
    cuda(model)


@needs_compiler
def test_a_model_that_does_not_fit_is_said_to() -> None:
    with pytest.raises(DeviceMemoryError, match="cuda:0 has no memory left"):
        emulated(artifact("gru"), memory=5000)


@needs_compiler
def test_without_memory_for_a_recording_it_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = artifact("lstm_stack")
    words = some_words(3, 5)
    expected = consume(emulated(model), words)
    runtime = emulated(model)

    def full(_: object) -> None:
        raise EmulatedDevice.memory_errors[0]("no memory for a graph")

    monkeypatch.setattr(runtime.on, "record", full)
    for tensor, same in zip(consume(runtime, words), expected, strict=True):
        np.testing.assert_array_equal(tensor, same)
