import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.compat import chainer
from model.training.batches import ParallelSequentialIterator
from model.training.processes import Processes

UNHURRIED = settings(deadline=None)  # the machine may be busy with other things
SIZES = {"words": st.integers(2, 400), "streams": st.integers(1, 30), "window": st.integers(1, 60)}


def text(words: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Words that all differ, so that a place in the text is known by its word."""
    return np.arange(100, 100 + words, dtype=np.int32)


@UNHURRIED
@given(**SIZES)
def test_each_epoch_consumes_every_word_once_and_the_target_is_the_word_that_follows(
    words: int, streams: int, window: int
) -> None:
    if words <= streams:
        with pytest.raises(ValueError, match=f"^{words} words are too few for {streams} streams .*: use a smaller"):
            ParallelSequentialIterator(text(words), streams, window)
        return
    batches = ParallelSequentialIterator(text(words), streams, window)
    for epoch in (1, 2):
        consumed = []
        while batches.epoch < epoch:
            xs, ts = next(batches)
            assert xs.dtype == ts.dtype == np.int32
            assert (ts == xs + 1).all()
            consumed.append(xs)
        of_streams = np.concatenate(consumed)  # (words of a stream, streams)
        assert of_streams.T.ravel().tolist() == text(words)[: batches.words_an_epoch].tolist()
        # What is left out: the last word, which nothing follows, and what does not make all streams longer.
        assert words - batches.words_an_epoch == 1 + (words - 1) % streams
        assert len(consumed) == batches.windows_in(1)


@UNHURRIED
@given(**SIZES)
def test_windows_are_full_but_the_last_and_say_where_they_stand(words: int, streams: int, window: int) -> None:
    words += streams  # enough for all
    length = (words - 1) // streams
    batches = ParallelSequentialIterator(text(words), streams, window)
    assert (batches.epoch, batches.epoch_detail, batches.is_new_epoch) == (0, 0, False)
    done = 0
    for turn in range(1, 2 * batches.windows_in(1) + 1):
        xs, _ = next(batches)
        last = turn % batches.windows_in(1) == 0
        assert xs.shape == ((length - 1) % window + 1 if last else window, streams)
        done += len(xs)
        assert batches.is_new_epoch == last
        assert batches.epoch == done // length
        assert batches.epoch_detail == pytest.approx(done / length)


@UNHURRIED
@given(**SIZES, turns=st.integers(0, 50))
def test_one_restored_in_the_middle_goes_on_the_same(words: int, streams: int, window: int, turns: int) -> None:
    words += streams
    batches = ParallelSequentialIterator(text(words), streams, window)
    for _ in range(turns):
        next(batches)
    saved = chainer.serializers.npz.serialize(batches)
    restored = ParallelSequentialIterator(text(words), streams, window)
    restored.serialize(chainer.serializers.NpzDeserializer(saved))
    for _ in range(batches.windows_in(1) + 1):
        assert (restored.epoch, restored.epoch_detail) == (batches.epoch, batches.epoch_detail)
        assert restored.is_new_epoch == batches.is_new_epoch
        np.testing.assert_array_equal(next(restored), next(batches))


def test_without_repeat_it_ends_after_one_epoch() -> None:
    batches = ParallelSequentialIterator(text(101), 10, 4, repeat=False)
    assert [xs.shape for xs, _ in batches] == [(4, 10), (4, 10), (2, 10)]


def test_a_hundred_million_words_are_not_copied() -> None:
    ids = np.zeros(100_000_000, np.int32)
    tracemalloc.start()
    try:
        batches = ParallelSequentialIterator(ids, 64, 35)
        for _ in range(100):
            xs, ts = next(batches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert np.may_share_memory(xs, ids)
    assert np.may_share_memory(ts, ids)


class _One(Processes):
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_divide_the_streams_and_nothing_else(size: int) -> None:
    ids = np.arange(100)
    whole = ParallelSequentialIterator(ids, 6, 7)
    parts = [ParallelSequentialIterator(ids, 6, 7, processes=_One(rank, size)) for rank in range(size)]
    for _ in range(5):
        window = next(whole)
        shares = [next(part) for part in parts]
        for array, arrays in zip(window, zip(*shares, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(arrays, axis=1), array)
        for part in parts:
            assert (part.epoch_detail, part.is_new_epoch) == (whole.epoch_detail, whole.is_new_epoch)
            assert (part.words_an_epoch, part.windows_in(1)) == (whole.words_an_epoch, whole.windows_in(1))
            assert part.batch_size * size == 6


def test_streams_that_cannot_be_divided_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="6 streams cannot be divided evenly among 4 processes"):
        ParallelSequentialIterator(np.arange(100), 6, 7, processes=_One(0, 4))
