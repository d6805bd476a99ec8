"""Continuous batching, tick by tick: no threads, no clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from app.engine import SCORE_ROWS, Engine, Job, JobError, RuntimeFailedError
from app.states import START, States, StatesFullError
from tests.app.fake_runtime import WORDS, FakeRuntime, Oracle


class Bench:
    """An engine with a fake runtime, and jobs for it."""

    def __init__(self, max_batch: int = 8, slots: int = 64) -> None:
        self.runtime = FakeRuntime()
        self.states = States(self.runtime, slots)
        self.engine = Engine(self.runtime, self.states, unknown_id=0, start_id=1, max_batch=max_batch)
        self.runtime.batches.clear()

    def join(self, ids: Sequence[int], source: int = START, candidates: int = 3, score_from: int | None = None) -> Job:
        slot = self.states.take() if ids else START
        job = Job(ids, source, slot, candidates, score_from=score_from)
        self.engine.join(job)
        return job

    def finish(self, jobs: int) -> list[list[Job]]:
        """Ticks until so many jobs are over: those of each tick."""
        ticks: list[list[Job]] = []
        while sum(map(len, ticks)) < jobs:
            assert len(ticks) < 100_000
            ticks.append(self.engine.tick())
        return ticks


@pytest.fixture
def bench() -> Bench:
    return Bench()


def assert_right(bench: Bench, job: Job, words: Sequence[int]) -> None:
    oracle = Oracle()
    oracle.consume(*(WORDS[id] for id in words))
    row = oracle.row()
    best = sorted(row, key=lambda word: -row[word])[: job.candidates]
    assert [WORDS[id] for id in job.top_ids] == best
    assert np.exp(job.top_log_probabilities) == pytest.approx([row[word] for word in best], rel=1e-5)


def test_a_job_takes_one_tick_a_word(bench: Bench) -> None:
    job = bench.join([2, 3, 4])
    assert [len(over) for over in bench.finish(1)] == [0, 0, 1]
    assert_right(bench, job, [2, 3, 4])


def test_no_words_take_no_step(bench: Bench) -> None:
    job = bench.join([])
    assert bench.engine.tick() == [job]
    assert bench.runtime.batches == []
    assert_right(bench, job, [])


def test_a_job_that_joins_takes_part_from_the_next_tick(bench: Bench) -> None:
    long = bench.join([2, 3, 4, 5, 6])
    bench.engine.tick()
    short = bench.join([7])
    assert bench.engine.tick() == [short]
    assert bench.runtime.batches == [1, 2]
    bench.finish(1)
    assert_right(bench, long, [2, 3, 4, 5, 6])
    assert_right(bench, short, [7])


def test_long_text_does_not_hold_up_one_word_requests() -> None:
    """A 10,000-word text and, at every tick, fresh one-word requests: each of these is over in its first tick."""
    bench = Bench(max_batch=8)
    words = [2 + i % 40 for i in range(10_000)]
    long = bench.join(words)
    for tick in range(1000):
        shorts = [bench.join([2 + (tick + i) % 40]) for i in range(7)]
        assert set(bench.engine.tick()) == set(shorts)
        assert long.cursor == tick + 1
        for job in shorts:
            bench.states.free(job.slot)


def test_more_than_a_batch_take_turns() -> None:
    """20 jobs of 10 words, 8 a step: nobody is ever more than a word ahead of anybody."""
    bench = Bench(max_batch=8)
    jobs = [bench.join([2 + (i + j) % 40 for j in range(10)]) for i in range(20)]
    over = 0
    ticks = 0
    while over < len(jobs):
        over += len(bench.engine.tick())
        ticks += 1
        cursors = [job.cursor for job in jobs]
        assert max(cursors) - min(cursors) <= 1
    assert ticks == 20 * 10 // 8
    assert set(bench.runtime.batches) == {8}
    for i, job in enumerate(jobs):
        assert_right(bench, job, [2 + (i + j) % 40 for j in range(10)])


def test_one_word_requests_pass_a_crowd_of_long_texts() -> None:
    """30 texts of 1,000 words, 8 a step: a newcomer waits for one round, not for the texts."""
    bench = Bench(max_batch=8)
    for i in range(30):
        bench.join([2 + (i + j) % 40 for j in range(1000)])
    for _ in range(50):
        bench.engine.tick()
    newcomer = bench.join([5])
    waited = 1
    while newcomer not in bench.engine.tick():
        waited += 1
    assert waited <= 30 // 8 + 1
    assert_right(bench, newcomer, [5])


def test_an_abandoned_job_is_dropped_at_the_next_tick(bench: Bench) -> None:
    left, stays = bench.join([2] * 100), bench.join([3, 4])
    bench.engine.tick()
    left.abandoned = True
    assert set(bench.engine.tick()) == {left, stays}
    assert bench.runtime.batches == [2, 1]
    assert left.cursor == 1


def test_a_slot_is_cleared_before_reuse(bench: Bench) -> None:
    """Whatever a slot held before, NaN included, is gone when another sequence gets it."""
    size = sum(tensor.size for tensor in bench.runtime.state_tensors)
    slots = [bench.states.take() for _ in range(20)]
    junk = tuple(np.full((20, tensor.size), np.nan, dtype=np.float32) for tensor in bench.runtime.state_tensors)
    bench.states.write(slots, junk)
    for slot in slots:
        bench.states.free(slot)
    bench.runtime.poisoned = 4  # this job gets a slot and fails before it has written anything to it
    failing = bench.join([4])
    jobs = [bench.join([10 + i, 3, 5]) for i in range(10)]
    assert {failing.slot, *(job.slot for job in jobs)} <= set(slots)
    bench.finish(11)
    assert isinstance(failing.error, FloatingPointError)
    assert not np.concatenate(bench.states.read([failing.slot]), axis=1).any(), f"{size} values of a stranger"
    for i, job in enumerate(jobs):
        assert_right(bench, job, [10 + i, 3, 5])


def test_a_state_somebody_points_at_is_never_written(bench: Bench) -> None:
    first = bench.join([2, 3])
    bench.finish(1)
    before = [tensor.copy() for tensor in bench.states.read([START, first.slot])]
    for word in range(4, 12):
        bench.join([word], source=first.slot)
    bench.finish(8)
    for tensor, kept in zip(bench.states.read([START, first.slot]), before, strict=True):
        np.testing.assert_array_equal(tensor, kept)


def test_an_id_outside_the_vocabulary_fails_alone(bench: Bench) -> None:
    jobs = [bench.join([2, 3]), bench.join([4, len(WORDS)]), bench.join([5, -1]), bench.join([6, 7])]
    bench.finish(4)
    assert [job.error is None for job in jobs] == [True, False, False, True]
    assert isinstance(jobs[1].error, JobError)
    assert_right(bench, jobs[0], [2, 3])
    assert_right(bench, jobs[3], [6, 7])


def test_a_runtime_that_fails_on_one_sequence_fails_that_one(bench: Bench) -> None:
    bench.runtime.poisoned = 9
    jobs = [bench.join([id, id + 1]) for id in (4, 8, 12)]
    bench.finish(3)
    assert [job.error is None for job in jobs] == [True, False, True]
    assert_right(bench, jobs[2], [12, 13])


def test_a_runtime_that_fails_on_every_sequence_is_reported(bench: Bench) -> None:
    jobs = [bench.join([2, 3]), bench.join([4, 5])]
    bench.engine.tick()
    bench.runtime.broken = MemoryError("out of memory")
    with pytest.raises(RuntimeFailedError, match="out of memory"):
        bench.engine.tick()
    failure = RuntimeError("failed")
    assert set(bench.engine.give_up(failure)) == set(jobs)
    assert all(job.error is failure for job in jobs)
    assert bench.engine.idle
    bench.runtime.broken = None
    again = bench.join([2, 3])
    bench.finish(1)
    assert_right(bench, again, [2, 3])


def test_nan_is_an_error_not_an_answer(bench: Bench) -> None:
    job = bench.join([2])
    bench.engine.tick()
    clean = bench.join([], source=job.slot)
    hurt = bench.states.take()
    bench.states.write([hurt], tuple(np.full((1, t.size), np.nan, np.float32) for t in bench.runtime.state_tensors))
    poisoned = bench.join([], source=hurt)
    assert set(bench.engine.tick()) == {clean, poisoned}
    assert isinstance(poisoned.error, JobError)
    assert clean.error is None


def test_many_scores_share_a_product(bench: Bench) -> None:
    jobs = [bench.join([2 + (i + j) % 40 for j in range(50)], score_from=10) for i in range(8)]
    bench.runtime.products.clear()
    bench.finish(8)
    assert max(bench.runtime.products) <= SCORE_ROWS
    assert len(bench.runtime.products) <= 8 * 40 // SCORE_ROWS + 3
    for i, job in enumerate(jobs):
        oracle = Oracle()
        for j in range(50):
            id = 2 + (i + j) % 40
            row = oracle.row()
            if j >= 10:
                assert np.exp(job.scores.log_probabilities[j - 10]) == pytest.approx(row[WORDS[id]], rel=1e-4)
                better = sum(value > row[WORDS[id]] * (1 + 1e-6) for value in row.values())
                assert job.scores.ranks[j - 10] == better + 1
            oracle.consume(WORDS[id])


def test_a_thousand_candidates_do_not_widen_everybodys_product(bench: Bench) -> None:
    wide, narrow = bench.join([2], candidates=len(WORDS)), [bench.join([3 + i], candidates=5) for i in range(4)]
    bench.runtime.products.clear()
    bench.finish(5)
    assert sorted(bench.runtime.products) == [1, 4]
    assert len(wide.top_ids) == len(WORDS)
    assert all(len(job.top_ids) == 5 for job in narrow)


def test_slots_run_out_with_an_error() -> None:
    states = States(FakeRuntime(), 2)
    one, two = states.take(), states.take()
    assert START not in (one, two)
    with pytest.raises(StatesFullError, match="all 2 state slots"):
        states.take()
    states.free(one)
    states.free(START)
    assert states.take() == one
    assert states.in_use == 2


def test_a_runtime_that_answers_nan_to_everybody_has_failed(bench: Bench) -> None:
    bench.join([2])
    bench.runtime.nan = True
    with pytest.raises(RuntimeFailedError, match="NaN"):
        bench.engine.tick()
