"""The n-gram model that networks are compared with is what its formula says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.peers.kneser_ney import KneserNey, _discounts

V = 7


def by_formula(ids: list[int], context: tuple[int, ...], order: int) -> np.ndarray:
    """p(. | context), from dictionaries, one definition after the other."""

    def grams(n: int) -> Counter[tuple[int, ...]]:
        return Counter(tuple(ids[(at + i) % len(ids)] for i in range(n)) for at in range(len(ids)))

    def counts(n: int) -> dict[tuple[int, ...], int]:
        return grams(n) if n == order else Counter(gram[1:] for gram in grams(n + 1))

    def discount(n: int) -> np.ndarray:
        return _discounts(np.array(list(counts(n).values())))

    def probability(word: int, h: tuple[int, ...]) -> float:
        n = len(h) + 1
        c, D = counts(n), discount(n)
        after = {gram[-1]: count for gram, count in c.items() if gram[:-1] == h}
        total = sum(after.values())
        lower = 1 / V if n == 1 else probability(word, h[1:])
        if not total:
            return lower
        left = after.get(word, 0)
        share = max(left - D[min(left, 3)], 0) / total
        return share + sum(D[min(count, 3)] for count in after.values()) / total * lower

    return np.array([probability(word, context) for word in range(V)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, V - 1), min_size=12, max_size=60), st.integers(2, 4), st.data())
def test_it_is_the_formula(ids: list[int], order: int, data: st.DataObject) -> None:
    model = KneserNey(np.array(ids), V, order)
    context = tuple(data.draw(st.lists(st.integers(0, V - 1), max_size=order - 1)))
    found = model.distribution(np.array(context, np.int64))
    np.testing.assert_allclose(found, by_formula(ids, context, order), rtol=1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-5)


def test_as_a_runtime_it_remembers_its_last_words() -> None:
    ids = np.random.default_rng(0).integers(0, V, 500)
    model = KneserNey(ids, V, 4)
    state = model.zero_state(2)
    for word in (1, 2, 3, 4, 5):
        state = model.advance(np.array([word, 0]), state)
    rows = model.log_probabilities(state[-1])
    np.testing.assert_allclose(np.exp(rows[0]), model.distribution(np.array([3, 4, 5])), rtol=1e-6)
    found = model.project(state[-1], top_k=3, targets=np.array([2, 2]))
    order = np.argsort(-rows, axis=1, kind="stable")
    np.testing.assert_array_equal(found.top_ids, order[:, :3])
    assert found.target_ranks.tolist() == [1 + list(order[0]).index(2), 1 + list(order[1]).index(2)]
