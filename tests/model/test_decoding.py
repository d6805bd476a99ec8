"""From a distribution to an answer: the pure functions."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import decoding
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
