"""A speech by itself: what it says, what it holds back, where it stops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import Engine, Job
from app.speech import ROWS, Said, Speech, _sampled, _sampled_among, _width, draw
from app.states import START, States
from model import decoding
from model.decoding import Sampling
from model.runtimes.base import Floats
from tests.app.fake_runtime import FakeRuntime


def speech(max_words: int = 10, **fields: object) -> Speech:
    return Speech([], max_words, Sampling(), 0, **fields)  # type: ignore[arg-type]


def said(id: int) -> Said:
    return Said(id, -1.0, 1, [], [])


@given(
    st.lists(st.integers(0, 2), max_size=25),
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), max_size=3),
)
def test_stop_sequences(drawn: list[int], stop: list[tuple[int, ...]]) -> None:
    """Told is what stands before the first stop sequence that comes up, and nothing of that is ready before."""
    growing = speech(20, stop=stop)
    expected: list[int] = []
    stopped = False
    for number, id in enumerate(drawn):
        if not growing.goes_on:
            break
        before = growing.ready
        growing.take(said(id))
        heard = drawn[: number + 1]
        assert before <= growing.ready, "what was told cannot be taken back"
        ending = [sequence for sequence in stop if tuple(heard[-len(sequence) :]) == sequence]
        if ending:
            stopped = True
            assert growing.ready in {len(heard) - len(sequence) for sequence in ending}
            expected = heard[: growing.ready]
            break
        expected = heard
        assert growing.ids == heard
    assert growing.stopped == stopped
    if stopped:
        assert not growing.goes_on
    elif len(drawn) >= 20:
        assert growing.ready == 20, "at the end nothing is held back"
        assert not growing.goes_on
    assert [word.id for word in growing.said[: growing.ready]] == expected[: growing.ready]


def test_what_may_begin_a_stop_sequence_is_held_back() -> None:
    growing = speech(5, stop=[(1, 2, 3)])
    ready = []
    for id in (0, 1, 2, 0, 1):
        growing.take(said(id))
        ready.append(growing.ready)
    assert ready == [1, 1, 1, 4, 5]


def test_long_stop_sequences_cost_no_more_than_short_ones() -> None:
    """They are looked for between the steps that all sessions share."""

    class Counted(int):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return isinstance(other, int) and int(self) == int(other)

        def __ne__(self, other: object) -> bool:
            return not self == other

        __hash__ = int.__hash__

    same, other = Counted(7), Counted(8)
    growing = speech(1000, stop=[(*[same] * 499, Counted(100 + i)) for i in range(16)])
    Counted.compared = 0
    for number in range(900):
        growing.take(said(other if number % 450 == 449 else same))
    assert Counted.compared <= 16 * 900 * 4
    assert growing.ready == 900


def test_what_was_said_before_may_begin_a_stop_sequence() -> None:
    growing = speech(9, stop=[(1, 2, 1, 3)], said=[said(1), said(2)])
    for id in (1, 2, 1):
        growing.take(said(id))
    assert (len(growing.said), growing.ready) == (5, 2)
    growing.take(said(3))
    assert (growing.stopped, growing.ready) == (True, 2)


def test_no_word_that_could_be_said_ends_it() -> None:
    runtime = FakeRuntime(vocabulary_size=1)
    hidden = np.zeros((2, 5), np.float32)
    speeches = [speech(), Speech([], 3, Sampling(0.0), 0)]
    drawn = draw(runtime, hidden, [None] * len(speeches), speeches, unknown_id=0)
    assert drawn == [None, None]
    speeches[0].take(None)
    assert (speeches[0].stopped, speeches[0].goes_on, speeches[0].ready) == (True, False, 0)


@given(
    logits=st.lists(st.integers(-6, 3), min_size=1, max_size=40),
    top_k=st.integers(1, 45),
    top_p=st.none() | st.floats(0.01, 1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    unknown_id=st.integers(0, 39),
    tops=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_few_words_are_drawn_as_from_the_whole_distribution(
    logits: list[int], top_k: int, top_p: float | None, temperature: float, unknown_id: int, tops: int, seed: int
) -> None:
    row = np.array(logits, np.float32)  # of few kinds: many words are equally likely
    row -= np.log(np.exp(row).sum())
    speaking = Speech([], 3, Sampling(temperature, top_k, top_p), seed, tops=min(tops, len(row)))
    order = np.argsort(-row, kind="stable")[: int(_width(speaking))]
    if unknown_id < len(row):
        whole = _sampled(row, speaking, unknown_id)
        assert _sampled_among(order, row[order], speaking, unknown_id) == whole


def test_distributions_are_held_a_few_at_a_time() -> None:
    runtime = FakeRuntime()
    hidden = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    speeches = [Speech([], 3, Sampling(1.0 if row % 2 else 0.0), row, tops=row % 4) for row in range(100)]
    asked: list[int] = []
    whole = runtime.log_probabilities

    def noting(rows: Floats) -> Floats:
        asked.append(len(rows))
        return whole(rows)

    runtime.log_probabilities = noting  # type: ignore[method-assign]
    drawn = draw(runtime, hidden, [None] * len(speeches), speeches, unknown_id=0)
    assert asked == [50, ROWS, 50 - ROWS]  # the first is the fake's own projection
    for row, word in enumerate(drawn):
        assert word is not None
        values = whole(hidden[row : row + 1])[0]
        if row % 2:
            assert word.id == decoding.sample(values, Sampling(), decoding.uniform(row, 0), without=0)
        else:
            assert word.id == 1 + int(values[1:].argmax())
        assert word.log_probability == pytest.approx(values[word.id], abs=1e-6)
        assert word.top_ids == np.argsort(-values, kind="stable")[: row % 4].tolist()


def test_a_tick_a_word_and_no_product_after_the_last_one() -> None:
    runtime = FakeRuntime()
    states = States(runtime, 4)
    engine = Engine(runtime, states, unknown_id=0, start_id=1, max_batch=4)
    runtime.batches.clear()
    runtime.products.clear()
    growing = Speech([2, 3], 4, Sampling(0.0), 0)
    job = Job(growing.ids, START, states.take(), 0, speech=growing)
    engine.join(job)
    ticks = 0
    while not engine.tick():
        ticks += 1
    assert ticks == 5  # and one: two words given, four said, each consumed in a step of its own
    assert runtime.batches == [1] * 6
    assert runtime.products == [1] * 4
    assert (len(growing.said), growing.ready, len(growing.ids)) == (4, 4, 6)
