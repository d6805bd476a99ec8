"""Products against NumPy's, in integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import products as products_module
from model.products import (
    BLOCK,
    KEY_STEPS,
    ONE,
    QUERY_STEPS,
    Keys,
    blocks_of,
    keys_in,
    keys_of,
    offsets_of,
    products,
)


def check(hidden: np.ndarray, keys: list[Keys]) -> None:
    """hidden (B, H), keys b (n_b, H): what is found is exact."""
    blocks = [blocks_of(rows) for rows in keys]
    found = products(hidden, blocks)
    assert found.dtype == np.int32
    steps = np.rint(hidden.astype(np.float64) * QUERY_STEPS).astype(np.int64)
    first = 0
    for query, rows, own in zip(steps, keys, blocks, strict=True):
        n, room = len(rows), len(own) * BLOCK
        np.testing.assert_array_equal(found[first : first + n] - offsets_of(rows), rows.astype(np.int64) @ query)
        assert (found[first + n : first + room] == 0).all()
        first += room
    assert first == len(found)


def queries(hidden: np.ndarray) -> np.ndarray:
    """What hidden outputs (B, H) are multiplied as: each by keys that are 1.0 in one place."""
    B, H = hidden.shape
    ones = np.eye(H, dtype=np.int8) * np.int8(KEY_STEPS)
    found = products(hidden, [blocks_of(ones)] * B).reshape(B, -1)[:, :H]
    return (found - offsets_of(ones)) / ONE


@given(
    rooms=st.lists(st.one_of(st.integers(1, 4), st.sampled_from([31, 64, 65, 130, 628])), min_size=1, max_size=40),
    width=st.sampled_from([1, 3, 5, 32, 257]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_they_are_exact_however_many_there_are(rooms: list[int], width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    keys = [random.integers(-KEY_STEPS, KEY_STEPS + 1, (room, width)).astype(np.int8) for room in rooms]
    # Whole steps, which it does not matter how one rounds.
    hidden = random.integers(-QUERY_STEPS, QUERY_STEPS + 1, (len(rooms), width)) / QUERY_STEPS
    check(hidden.astype(np.float32), keys)


@pytest.mark.parametrize("key", [-1, 1])
@pytest.mark.parametrize("query", [-1, 1])
def test_the_largest_do_not_saturate(query: int, key: int) -> None:
    keys = np.full((70, 1150), key * KEY_STEPS, np.int8)
    hidden = np.full((1, 1150), query, np.float32)
    check(hidden, [keys])
    found = products(hidden, [blocks_of(keys)])[: len(keys)]
    assert (found - offsets_of(keys) == query * key * 1150 * ONE).all()


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 500])
def test_blocks_are_keys_side_by_side(count: int) -> None:
    keys = np.random.default_rng(count).integers(-KEY_STEPS, KEY_STEPS + 1, (count, 5)).astype(np.int8)
    blocks = blocks_of(keys)
    assert blocks.flags.c_contiguous
    assert blocks.shape[1:] == (5, BLOCK)
    np.testing.assert_array_equal(keys_in(blocks)[:count], keys)
    for number, key in enumerate(keys):
        np.testing.assert_array_equal(blocks[number // BLOCK, :, number % BLOCK], key)


def test_keys_are_hidden_outputs_in_127_steps_either_way() -> None:
    hidden = np.random.default_rng(0).uniform(-1, 1, (20, 30)).astype(np.float32)
    keys = keys_of(hidden)
    assert keys.dtype == np.int8
    np.testing.assert_allclose(keys / 127, hidden, atol=0.5 / 127 + 1e-6)
    assert keys_of(np.array([[-1, 1, 5, -5]], np.float32)).tolist() == [[-127, 127, 127, -127]]


def test_queries_are_hidden_outputs_in_63_steps_either_way() -> None:
    hidden = np.random.default_rng(0).uniform(-1, 1, (20, 30)).astype(np.float32)
    np.testing.assert_allclose(queries(hidden), hidden, atol=0.5 / 63 + 1e-6)
    assert queries(np.array([[-1, 1, 5, -5]], np.float32)).tolist() == [[-1, 1, 1, -1]]


def test_what_is_not_a_number_is_for_others_to_notice() -> None:
    hidden = np.full((1, 2), np.nan, np.float32)
    assert keys_of(hidden).shape == queries(hidden).shape == (1, 2)


def test_warmed_up_nothing_is_made_at_the_first_call() -> None:
    products_module._session.cache_clear()
    products_module.warm_up(3)
    made = products_module._session.cache_info().misses
    for count in (1, 2, 5, 16, 33):
        check(np.zeros((count, 3), np.float32), [np.ones((7, 3), np.int8)] * count)
    assert products_module._session.cache_info().misses == made
