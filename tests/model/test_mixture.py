"""The mixture against the formula, word by word in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import mixture
from model.adaptation import Adaptation, Cache
from model.products import keys_of
from model.runtimes.base import Floats, Ids, Runtime
from model.runtimes.cpu import CpuRuntime
from tests.app.fake_runtime import FakeRuntime
from tests.model.test_cpu_runtime import artifact

Array = NDArray[np.float64]


def rounded(hidden: Floats, steps: int) -> Array:
    return np.rint(hidden.astype(np.float64) * steps) / steps


def oracle(row: Array, hidden: Floats, pairs: Sequence[tuple[Floats, int]], adaptation: Adaptation) -> Array:
    """p'(w) of all words: row (V,) are the model's log p; `pairs` those of the whole sequence so far."""
    p = np.exp(row)
    pairs = pairs[-adaptation.size :]
    if not pairs:
        return p
    query = rounded(hidden, 63)
    scores = np.array([adaptation.theta * np.dot(rounded(key, 127), query) for key, _ in pairs])
    scores = np.exp(scores - scores.max())
    shares = np.zeros_like(p)
    for (_, word), score in zip(pairs, scores, strict=True):
        shares[word] += score / scores.sum()
    return (1 - adaptation.weight) * p + adaptation.weight * shares


class Sequences:
    """Some sequences that have consumed words drawn at random, each with its own adaptation or none."""

    def __init__(self, runtime: Runtime, lengths: Sequence[int], adaptations: Sequence[Adaptation | None]) -> None:
        self.runtime = runtime
        random = np.random.default_rng(len(lengths))
        self.adaptations = adaptations
        self.pairs: list[list[tuple[Floats, int]]] = []
        self.caches: list[Cache | None] = []
        last = []
        for length, adaptation in zip(lengths, adaptations, strict=True):
            state = runtime.zero_state(1)
            cache = None if adaptation is None else Cache(adaptation)
            pairs = []
            for word in (random.zipf(1.5, length) % runtime.vocabulary_size).tolist():
                pairs.append((state[-1][0].copy(), word))
                cache = None if cache is None else cache.after(keys_of(state[-1])[0], word)
                state = runtime.advance(np.array([word]), state)
            self.pairs.append(pairs)
            self.caches.append(cache)
            last.append(state[-1])
        self.hidden = np.concatenate(last)

    def expected(self) -> Array:
        """(R, V) log p'."""
        rows = self.runtime.log_probabilities(self.hidden).astype(np.float64)
        whole = [
            np.exp(row) if adaptation is None else oracle(row, hidden, pairs, adaptation)
            for row, hidden, pairs, adaptation in zip(rows, self.hidden, self.pairs, self.adaptations, strict=True)
        ]
        return np.log(np.array(whole))


def runtimes() -> list[Runtime]:
    lstm = artifact("lstm_stack")
    return [FakeRuntime(), CpuRuntime(lstm, quantised=True), CpuRuntime(lstm, quantised=False)]


MIXED = [
    Adaptation(500, 0.7, 0.2),
    None,
    Adaptation(1, 5, 0.9),
    Adaptation(30, 2, 0.01),
    Adaptation(8, 0.1, 0.5),
    None,
    Adaptation(200, 20, 0.3),
]
LENGTHS = [300, 20, 5, 100, 0, 0, 40]


@pytest.mark.parametrize("cores", [1, 99])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_everything_is_the_formula(number: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_CORES", cores)
    monkeypatch.setattr(mixture, "_MANY", 2)
    runtime = runtimes()[number]
    it = Sequences(runtime, LENGTHS, MIXED)
    expected = it.expected()
    np.testing.assert_allclose(np.exp(expected).sum(axis=1), 1, atol=1e-5)
    R, V = expected.shape
    whole = mixture.log_probabilities(runtime, it.hidden, it.caches)
    np.testing.assert_allclose(whole, expected, atol=1e-5)

    random = np.random.default_rng(0)
    targets = np.array([pairs[-1][1] if pairs else 3 for pairs in it.pairs])
    words = random.integers(0, V, (R, 3))
    words[:, 2] = targets
    subset = np.sort(random.permutation(V)[: V // 2])
    entropies = -(np.exp(expected) * expected).sum(axis=1)
    for top_k in (0, 1, 5, 16, V):
        best = np.argsort(-whole, axis=1, kind="stable")
        named = mixture.project_words(runtime, it.hidden, it.caches, words, top_k=top_k)
        np.testing.assert_array_equal(named.top_ids, best[:, :top_k])
        np.testing.assert_allclose(
            named.top_log_probabilities, np.take_along_axis(expected, named.top_ids, axis=1), atol=1e-5
        )
        np.testing.assert_allclose(named.log_probabilities, np.take_along_axis(expected, words, axis=1), atol=1e-5)
        np.testing.assert_allclose(named.entropies, entropies, atol=2e-5)
        scored = mixture.project(runtime, it.hidden, it.caches, targets, top_k=top_k)
        np.testing.assert_array_equal(scored.top_ids, best[:, :top_k])
        np.testing.assert_array_equal(scored.target_ranks, (best == targets[:, None]).argmax(axis=1) + 1)
        np.testing.assert_allclose(scored.target_log_probabilities, expected[np.arange(R), targets], atol=1e-5)
        np.testing.assert_allclose(scored.entropies, entropies, atol=2e-5)
        among = mixture.project_subset(runtime, it.hidden, it.caches, subset, top_k=top_k)
        best_among = subset[np.argsort(-whole[:, subset], axis=1, kind="stable")][:, :top_k]
        np.testing.assert_array_equal(among.top_ids, best_among)
        np.testing.assert_allclose(
            among.top_log_probabilities, np.take_along_axis(expected, among.top_ids, axis=1), atol=1e-5
        )
        np.testing.assert_allclose(among.log_probabilities, np.log(np.exp(expected[:, subset]).sum(axis=1)), atol=1e-5)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_who_remembers_nothing_is_answered_to_the_bit_as_the_runtime_answers(number: int) -> None:
    runtime = runtimes()[number]
    # A cache without pairs, none, and in the other batch somebody beside them who does adapt.
    alone = Sequences(runtime, [0, 40, 12], [Adaptation(10), None, None])
    V = runtime.vocabulary_size
    words, targets, subset = np.arange(6).reshape(3, 2), np.array([1, 2, 3]), np.arange(0, V, 2)
    plain = runtime.project_words(alone.hidden, words, top_k=7)
    beside = Sequences(runtime, [50], [Adaptation(50)])
    hidden = np.concatenate([alone.hidden, beside.hidden])
    for size in (3, 4):
        caches = (alone.caches + beside.caches)[:size]
        named = mixture.project_words(runtime, hidden[:size], caches, np.arange(2 * size).reshape(size, 2), top_k=7)
        for field in ("top_ids", "top_log_probabilities", "entropies", "log_probabilities"):
            tolerance = 0 if size == 3 else 1e-5  # a runtime's last digits may differ with the batch
            np.testing.assert_allclose(getattr(named, field)[:3], getattr(plain, field), rtol=tolerance)
    caches = alone.caches
    scored = mixture.project(runtime, alone.hidden, caches, targets, top_k=4)
    expected = runtime.project(alone.hidden, top_k=4, targets=targets)
    for field in ("top_ids", "top_log_probabilities", "entropies", "target_log_probabilities", "target_ranks"):
        np.testing.assert_array_equal(getattr(scored, field), getattr(expected, field))
    among = mixture.project_subset(runtime, alone.hidden, caches, subset, top_k=4)
    wanted = runtime.project_subset(alone.hidden, subset, top_k=4)
    for field in ("top_ids", "top_log_probabilities", "log_probabilities"):
        np.testing.assert_array_equal(getattr(among, field), getattr(wanted, field))
    whole = mixture.log_probabilities(runtime, alone.hidden, caches)
    np.testing.assert_array_equal(whole, runtime.log_probabilities(alone.hidden))


class Tied(FakeRuntime):
    """A model to whom many words are equally likely, whatever came before."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__(vocabulary_size=len(levels))
        values = np.array(levels, np.float64)
        self.row = (values - np.log(np.exp(values).sum())).astype(np.float32)

    def log_probabilities(self, hidden: Floats) -> Floats:
        return np.tile(self.row, (len(hidden), 1))


@given(
    levels=st.lists(st.integers(0, 2), min_size=4, max_size=30),
    words=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    top_k=st.integers(1, 30),
    weight=st.sampled_from([1e-12, 0.01, 0.25, 0.999999]),
)
@settings(max_examples=300, deadline=None)
def test_the_likeliest_are_exact_where_many_are_equally_likely(
    levels: list[int], words: list[int], top_k: int, weight: float
) -> None:
    runtime = Tied(levels)
    cache = Cache(Adaptation(6, 0.5, weight))
    for word in words:  # with one and the same hidden output, so that the words of the cache are tied, too
        cache = cache.after(np.full(5, 127, np.int8), word)
    hidden, V = np.ones((2, 5), np.float32), len(levels)
    top_k = min(top_k, V)
    whole = mixture.log_probabilities(runtime, hidden, [cache, cache])
    np.testing.assert_allclose(np.exp(whole.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    named = mixture.project_words(runtime, hidden, [cache, cache], np.empty((2, 0), np.int64), top_k=top_k)
    best: Ids = np.argsort(-whole, axis=1, kind="stable")[:, :top_k]
    np.testing.assert_array_equal(named.top_ids, best)
    np.testing.assert_array_equal(named.top_log_probabilities, np.take_along_axis(whole, best, axis=1))
    np.testing.assert_allclose(named.entropies, -(np.exp(whole) * whole).sum(axis=1), atol=1e-5)


def test_an_entropy_does_not_depend_on_how_many_words_the_others_remember() -> None:
    runtime = Tied([8, *[0] * 700])  # word 0, which stands beside the words of shorter rows, is likely
    few, many = (Cache(Adaptation(700, 0.5, 0.1)) for _ in range(2))
    for word in range(1, 4):
        few = few.after(np.full(5, 127, np.int8), word)
    for word in range(1, 700):
        many = many.after(np.full(5, 127, np.int8), word)
    hidden = np.ones((2, 5), np.float32)

    def entropy(caches: list[Cache]) -> float:
        words = np.empty((len(caches), 0), np.int64)
        entropies = mixture.project_words(runtime, hidden[: len(caches)], caches, words, top_k=1).entropies
        return float(entropies[0])

    assert entropy([few, many]) == pytest.approx(entropy([few]), rel=3e-7)


def test_words_that_the_model_holds_for_impossible() -> None:
    runtime = Tied([0, -2000, -2000, 1])
    cache = Cache(Adaptation(1, 0.5, 0.25))
    for word in (1, 2):  # the first is no longer remembered
        cache = cache.after(np.full(5, 127, np.int8), word)
    hidden, words = np.ones((1, 5), np.float32), np.arange(4)[None]
    named = mixture.project_words(runtime, hidden, [cache], words, top_k=4)
    p = np.array([np.exp(0), 0, 0, np.e]) / (1 + np.e) * 0.75 + [0, 0, 0.25, 0]
    np.testing.assert_allclose(np.exp(named.log_probabilities[0]), p, atol=1e-7)
    assert named.log_probabilities[0, 1] == pytest.approx(-2000, abs=2)
    assert named.top_ids.tolist() == [[3, 2, 0, 1]]
    possible = p[p > 0]
    assert named.entropies[0] == pytest.approx(-(possible * np.log(possible)).sum(), abs=1e-6)


def test_a_certain_word_is_not_more_than_certain() -> None:
    runtime, hidden, word = Tied([0, 200]), np.ones((1, 5), np.float32), np.array([[1]])
    for percent in range(1, 100):
        cache = Cache(Adaptation(1, 0.5, percent / 100)).after(np.full(5, 127, np.int8), 1)
        named = mixture.project_words(runtime, hidden, [cache], word, top_k=1)
        for found in (named.log_probabilities, named.top_log_probabilities):
            assert -1e-6 < found.item() <= 0


def test_a_whole_text_word_by_word() -> None:
    runtime = CpuRuntime(artifact("gru"), quantised=False)
    adaptation = Adaptation(60, 3, 0.3)
    words = (np.random.default_rng(3).zipf(1.4, 250) % runtime.vocabulary_size).tolist()
    state, cache, pairs = runtime.zero_state(1), Cache(adaptation), list[tuple[Floats, int]]()
    for word in words:
        hidden = state[-1]
        row = oracle(runtime.log_probabilities(hidden)[0].astype(np.float64), hidden[0], pairs, adaptation)
        scored = mixture.project(runtime, hidden, [cache], np.array([word]), top_k=0)
        assert abs(scored.target_log_probabilities[0] - np.log(row[word])) < 1e-5
        pairs.append((hidden[0], word))
        cache = cache.after(keys_of(hidden)[0], word)
        state = runtime.advance(np.array([word]), state)
