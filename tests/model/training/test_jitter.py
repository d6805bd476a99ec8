from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.batches import ParallelSequentialIterator
from model.training.jitter import LEAST, window_ends


def test_lengths_are_as_published() -> None:
    lengths = np.diff(window_ends(1_000_000, 70, 0, 0), prepend=0)[:-1]
    full = lengths[lengths > 52]
    assert 0.93 < len(full) / len(lengths) < 0.97
    assert abs(full.mean() - 70) < 0.5
    assert abs(full.std() - 5) < 0.3
    assert abs(lengths[lengths <= 52].mean() - 35) < 1


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 90), st.integers(0, 2**32 - 1), st.integers(0, 800))
def test_windows_cover_the_streams_and_depend_on_seed_and_epoch_alone(
    length: int, window: int, seed: int, epoch: int
) -> None:
    ends = window_ends(length, window, seed, epoch)
    lengths = np.diff(ends, prepend=0)
    assert ends[-1] == length
    assert lengths.min() >= 1
    assert (lengths[:-1] >= min(LEAST, window)).all()
    np.testing.assert_array_equal(window_ends(length, window, seed, epoch), ends)
    if len(ends) > 9:
        others = (window_ends(length, window, seed, epoch + 1), window_ends(length, window, seed ^ 1, epoch))
        assert not any(np.array_equal(ends, other) for other in others)


@pytest.mark.parametrize("epochs", [0.4, 1, 2.5])
def test_the_iterator_gives_each_word_once_an_epoch_and_knows_what_comes(epochs: float) -> None:
    ids = np.arange(3 * 200 + 1)
    batches = ParallelSequentialIterator(ids, 3, 12, jitter=7)
    words: list[np.ndarray] = []
    lengths = []
    for _ in range(batches.windows_in(epochs)):
        coming = batches.next_length
        xs, ts = next(batches)
        assert len(xs) == coming
        np.testing.assert_array_equal(ts, xs + 1)
        words.append(xs)
        lengths.append(coming)
    assert batches.epoch_detail == pytest.approx(epochs, abs=0.2)
    assert len(set(lengths)) > 3
    seen, times = np.unique(np.concatenate(words, axis=None), return_counts=True)
    if epochs == 1:
        np.testing.assert_array_equal(seen, np.arange(600))
        assert (times == 1).all()


def test_a_restored_iterator_goes_on_with_the_same_windows() -> None:
    from model.compat import chainer

    ids = np.arange(3 * 200 + 1)
    batches = ParallelSequentialIterator(ids, 3, 12, jitter=7)
    for _ in range(20):
        next(batches)
    restored = ParallelSequentialIterator(ids, 3, 12, jitter=7)
    saved = chainer.serializers.npz.serialize(batches)
    restored.serialize(chainer.serializers.NpzDeserializer(saved))
    for _ in range(40):
        np.testing.assert_array_equal(next(restored)[0], next(batches)[0])
