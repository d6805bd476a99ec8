"""From a distribution to an answer: the pure functions."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import decoding
from model.decoding import Sampling
from model.runtimes.base import SubsetProjection


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(decoding)
    assert (result.failed, result.attempted > 4) == (0, True)


@given(st.integers(-3, 1000), st.integers(1, 60), st.booleans(), st.integers(0, 59))
def test_enough_candidates_are_asked_for(top_k: int, size: int, include_unknown: bool, place: int) -> None:
    """However likely <unk> is, the `top_k` best other words (or all) are left when it is taken out."""
    unknown = place % size
    asked = decoding.candidates(top_k, size, include_unknown=include_unknown)
    assert 0 <= asked <= size
    ids = list(range(asked))  # the likeliest ones, in order
    best = decoding.ranking(ids, [-float(i) for i in ids], top_k, without=None if include_unknown else unknown)
    others = [id for id in range(size) if include_unknown or id != unknown]
    assert [id for id, _, _ in best] == others[: max(top_k, 0)]
    assert all(probability == math.exp(value) for _, probability, value in best)


def test_renormalised_sums_to_one() -> None:
    row = np.log(np.array([[0.1, 0.05, 0.01], [0.5, 0.25, 0.125]], dtype=np.float32))
    subset = SubsetProjection(np.array([[3, 4, 5], [5, 4, 3]]), row, np.log(np.exp(row).sum(axis=1)))
    values = decoding.renormalised(subset)
    assert values.dtype == np.float64
    assert np.exp(values).sum(axis=1) == pytest.approx([1, 1])
    assert np.exp(values[1]) == pytest.approx(np.array([4, 2, 1]) / 7)


def test_renormalised_of_nothing() -> None:
    nothing = SubsetProjection(
        np.zeros((2, 0), dtype=np.int64), np.zeros((2, 0), dtype=np.float32), np.full(2, -np.inf, dtype=np.float32)
    )
    assert decoding.renormalised(nothing).shape == (2, 0)
    impossible = SubsetProjection(
        np.array([[1]]), np.array([[-np.inf]], dtype=np.float32), np.array([-np.inf], dtype=np.float32)
    )
    assert decoding.renormalised(impossible).tolist() == [[-math.inf]]


def test_bits() -> None:
    assert decoding.bits(math.log(2)) == pytest.approx(1)
    assert decoding.surprisal_bits(math.log(1 / 8)) == pytest.approx(3)
    assert decoding.probability(-math.inf) == 0
    assert decoding.probability(1e-7) == 1


# --- Which word to say ------------------------------------------------------------------------------------------------


def rows(max_size: int = 40) -> st.SearchStrategy[NDArray[np.float32]]:
    """Log-probabilities, with ties and with words that are impossible."""
    logits = st.lists(st.sampled_from([-np.inf, -9.0, -3.0, -1.5, -1.0, -0.5, 0.0, 2.0]), min_size=1, max_size=max_size)

    def normalised(values: list[float]) -> NDArray[np.float32]:
        row = np.array(values)
        row[0] = max(row[0], -20.0)
        return (row - np.log(np.exp(row).sum())).astype(np.float32)

    return logits.map(normalised)


def test_uniform_is_splitmix64() -> None:
    """The first numbers of the published sequence of seed 0; only the seed's 64 bits count."""
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [decoding.uniform(0, counter) for counter in range(3)] == [(number >> 11) / 2**53 for number in first]
    assert decoding.uniform(-1, 5) == decoding.uniform(2**64 - 1, 5)
    numbers = np.array([decoding.uniform(99, counter) for counter in range(20_000)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert chi_square(np.bincount((numbers * 50).astype(int), minlength=50), np.full(50, 1 / 50)) < CHI_SQUARE_49


def test_branches_of_a_seed_differ() -> None:
    seeds = [decoding.branch(1, number) for number in range(1000)] + [
        decoding.branch(2, number) for number in range(1000)
    ]
    assert len(set(seeds)) == 2000
    assert seeds[0] == 1


#: The 99.9th percentile of chi-square with 49 degrees of freedom.
CHI_SQUARE_49 = 85.35


def chi_square(observed: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    expected = probabilities * observed.sum()
    return float((np.square(observed - expected) / expected).sum())


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.7), Sampling(1.9), Sampling(1.3, 51), Sampling(0.8, None, 1.0)]
)
def test_words_are_drawn_as_often_as_they_are_likely(sampling: Sampling) -> None:
    row = np.random.default_rng(5).normal(0, 1, 51)
    row = (row - np.log(np.exp(row).sum())).astype(np.float32)
    draws = [decoding.sample(row, sampling, decoding.uniform(3, counter), without=7) for counter in range(20_000)]
    assert 7 not in draws
    weights = np.exp(row.astype(np.float64) / sampling.temperature)
    weights[7] = 0
    observed = np.bincount([id for id in draws if id is not None], minlength=51)
    others = np.arange(51) != 7
    assert chi_square(observed[others], (weights / weights.sum())[others]) < CHI_SQUARE_49


@given(rows(), st.floats(0.05, 5), st.none() | st.integers(1, 50), st.none() | st.floats(0.001, 1), st.data())
def test_shortlist_is_the_fewest_likeliest_words_that_hold_top_p_of_the_top_k(
    row: NDArray[np.float32], temperature: float, top_k: int | None, top_p: float | None, data: st.DataObject
) -> None:
    without = data.draw(st.none() | st.integers(0, len(row) - 1))
    ids, weights = decoding.shortlist(row, Sampling(temperature, top_k, top_p), without=without)
    allowed = [id for id in range(len(row)) if id != without and row[id] > -np.inf]
    if not allowed:
        assert not weights.any()
        return
    order = sorted(allowed, key=lambda id: (-row[id], id))[:top_k]
    expected = np.exp((row[order].astype(np.float64) - row[order[0]]) / temperature)
    share = (expected / expected.sum()).cumsum()
    if ids is None:
        # Weights are float32: what is next to nothing may be nothing.
        certain = {id for id, weight in zip(order, expected.tolist(), strict=True) if weight > 1e-37}
        assert certain <= {*np.flatnonzero(weights).tolist()} <= {*order}
        return
    drawn = {id: float(weight) for id, weight in zip(ids.tolist(), weights, strict=True) if weight > 0}
    assert len(ids) == len({*ids.tolist()})
    found = order[: len(drawn)]
    assert drawn == pytest.approx(dict(zip(found, expected.tolist(), strict=False)), rel=1e-4)
    p = 1.0 if top_p is None else top_p
    assert share[len(found) - 1] >= p - 1e-6
    if p < 1 and len(found) > 1:
        assert share[len(found) - 2] < p + 1e-6, "one word fewer would have done"


def test_top_p_of_words_that_are_all_as_likely() -> None:
    row = np.log(np.full(5000, 1 / 5000)).astype(np.float32)
    for top_p in (0.5, 0.9, 1 - 1e-12):
        ids, weights = decoding.shortlist(row, Sampling(1.0, None, top_p))
        assert ids is not None
        assert ids.tolist() == list(range(len(ids))), "lower ids come first"
        assert len(ids) == len(weights) == pytest.approx(5000 * top_p, abs=1)


@given(rows(), st.floats(0, 1, exclude_max=True))
def test_temperature_zero_is_the_likeliest_word(row: NDArray[np.float32], number: float) -> None:
    best = int(row.argmax())
    assert decoding.sample(row, Sampling(0.0), number) == best
    assert decoding.sample(row, Sampling(1.0, 1), number) == best
    assert decoding.sample(row, Sampling(1e-300), number) in np.flatnonzero(row == row.max())


@given(rows(), st.floats(0, 1, exclude_max=True), st.floats(0.01, 100), st.none() | st.floats(0.01, 1))
def test_no_impossible_word_is_drawn(
    row: NDArray[np.float32], number: float, temperature: float, p: float | None
) -> None:
    id = decoding.sample(row, Sampling(temperature, None, p), number)
    assert id is not None
    assert row[id] > -np.inf


def test_nothing_to_draw() -> None:
    assert decoding.sample(np.zeros(1, np.float32), Sampling(), 0.5, without=0) is None
    assert decoding.sample(np.full(3, -np.inf, np.float32), Sampling(1.0, 2), 0.5) is None


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 30))
def test_likeliest_are_the_largest_in_the_order_of_ids(values: list[int], k: int) -> None:
    k = min(k, len(values))
    expected = sorted(range(len(values)), key=lambda place: (-values[place], place))[:k]
    assert decoding.likeliest(np.array(values, np.float64), k).tolist() == expected
