"""Continuous batching: the words of many sequences, one each, go through the model in one step.

An `Engine` is plain and synchronous, and belongs to one thread; `app.scheduler` runs it beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.histogram import PARTS, ROWS, SECONDS, Histogram
from app.speech import Speech, draw
from app.states import START, States
from model import decoding, mixture, products
from model.adaptation import Cache, after
from model.runtimes.base import Floats, Ids, Runtime

#: So many hidden outputs that wait for a score are projected in one product. More would hold up the other sequences
#: of a tick, fewer would waste the product.
SCORE_ROWS = 64

T = TypeVar("T")


class RuntimeFailedError(RuntimeError):
    """The runtime does not work any more, not even for a sequence known to be good."""


class JobError(RuntimeError):
    """This one request could not be computed; the others are not affected."""


class Scores(NamedTuple):
    """How likely each scored word was, N words."""

    log_probabilities: list[float]
    ranks: list[int]  # 1 is the likeliest word
    #: The likeliest words there and their log-probabilities, each (K,), where they were asked for.
    tops: list[tuple[Ids, Floats]] | None = None

    @classmethod
    def blank(cls, count: int, tops: int = 0) -> Scores:
        return cls([0.0] * count, [0] * count, [_NO_TOPS] * count if tops else None)


_NO_TOPS = (np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(slots=True, eq=False, repr=False)
class Job:
    """Consume words from a state, then say what may come next.

    `source` is the slot to begin at, which is only read; `slot` is where the states after it are written, and is of
    no concern when there are no words.
    """

    ids: Sequence[int]
    source: int
    slot: int
    candidates: int  # how many of the likeliest words to name
    prefix: str = ""
    prefix_ids: NDArray[np.int64] | None = None  # only words among these, if given
    score_from: int | None = None  # score ids[score_from:], into `scores`
    score_tops: int = 0  # how many of the likeliest words to name beside each score
    speech: Speech | None = None  # what to say after the words given; `ids` are then its `ids`
    cache: Cache | None = None  # of a sequence that adapts, at `source`; afterwards that of the state in `slot`

    # Where it stands.
    cursor: int = 0
    queued_at: float = 0.0  # `perf_counter` when it was handed in, 0.0 once a step has begun with it
    abandoned: bool = False  # set on the event loop: nobody waits for the answer any more
    delivered: bool = False
    error: BaseException | None = None
    future: asyncio.Future[None] = field(init=False)

    # The answer.
    top_ids: list[int] = field(default_factory=list)
    top_log_probabilities: list[float] = field(default_factory=list)  # over `prefix_ids` only, where those are given
    prefix_log_probability: float = 0.0
    unknown_log_probability: float = 0.0
    entropy: float = 0.0  # nats
    scores: Scores = field(init=False)

    def __post_init__(self) -> None:
        self.scores = Scores.blank(0 if self.score_from is None else len(self.ids) - self.score_from, self.score_tops)

    @property
    def at(self) -> int:
        """The slot of the state after the words consumed so far."""
        return self.slot if self.cursor else self.source

    @property
    def scores_next(self) -> bool:
        """Whether the next word is one of those to be scored; what a job says by itself stands behind them."""
        return self.score_from is not None and 0 <= self.cursor - self.score_from < len(self.scores.ranks)


@dataclass(slots=True, eq=False)
class _Scored:
    """One word whose score is still to be projected: from the output before it, which was put aside in this place."""

    job: Job
    index: int
    target: int
    place: int
    cache: Cache | None


class Engine:
    """Runs jobs together. `join` adds one, `tick` takes every job a word further and returns those that are over."""

    def __init__(
        self, runtime: Runtime, states: States, *, unknown_id: int, start_id: int | None, max_batch: int
    ) -> None:
        self.runtime = runtime
        self.states = states
        self.max_batch = max_batch
        self.ticks = 0
        # What the service tells about itself. Written here only, read from anywhere.
        self.running = 0
        self.queue_seconds = Histogram(SECONDS)
        self.step_seconds = Histogram(SECONDS)
        self.step_words = Histogram(ROWS)
        self.step_fill = Histogram(PARTS)
        self._unknown_id = unknown_id
        self._jobs: deque[Job] = deque()
        self._unscored: list[_Scored] = []
        self._aside = states.slab.aside(SCORE_ROWS + max_batch)
        self.heard: list[asyncio.Event] = []  # of the speeches that went on, for somebody to set
        start = runtime.zero_state(1)
        if start_id is not None:
            start = runtime.advance(np.array([start_id], dtype=np.int64), start)
        states.write([START], start)

    @property
    def idle(self) -> bool:
        return not self._jobs

    def join(self, job: Job) -> None:
        """Take part from the next tick on."""
        self._jobs.append(job)

    def warm_up(self) -> None:
        """Touch every path once, at the smallest and at the largest batch: first calls are slow ones."""
        width = decoding.candidates(10, self.runtime.vocabulary_size, include_unknown=False)
        slab = self.states.slab
        slab.warm_up(self.max_batch, top_k=width)
        for batch in (1, self.max_batch):
            ids, slots = np.zeros(batch, dtype=np.int64), np.full(batch, START, dtype=np.int64)
            self.runtime.advance(ids, self.states.read(slots))
            slab.project_words(slots, ids[:, np.newaxis], top_k=width)
            self._aside.project(np.arange(batch), top_k=width, targets=ids)
            slab.project_subset(slots, ids[:1], top_k=1)
        slab.log_probabilities(slots[:1])
        products.warm_up(self.states.width)

    def well(self) -> bool:
        """Whether the runtime still computes a sequence that is known to be good."""
        try:
            state = self.runtime.advance(np.zeros(1, dtype=np.int64), self.states.read([START]))
            return bool(np.isfinite(self.runtime.project(state[-1], top_k=0).entropies).all())
        except Exception:
            return False

    def tick(self) -> list[Job]:
        """One step for at most `max_batch` jobs, those first that have waited longest.

        Returns the jobs that are over: answered, failed (`error` is set) or abandoned. Raises `RuntimeFailedError`
        when the runtime is at fault; all jobs are then still to be answered (`give_up`).
        """
        self.ticks += 1
        began = perf_counter()
        over: list[Job] = []
        batch: list[Job] = []
        while self._jobs and len(batch) < self.max_batch:
            job = self._jobs.popleft()
            if job.queued_at:
                self.queue_seconds.observe(began - job.queued_at)
                job.queued_at = 0.0
            (over if job.abandoned else batch).append(job)
        self.running = len(batch)
        try:
            self._run(batch)
        except BaseException:
            self._jobs.extend(over)
            self._jobs.extend(batch)
            raise
        finally:
            self.running = 0
            self.step_seconds.observe(perf_counter() - began)
            self.step_fill.observe(len(batch) / self.max_batch)
        for job in batch:
            (self._jobs if job.error is None and job.cursor < len(job.ids) else over).append(job)
        return over

    def give_up(self, error: BaseException) -> list[Job]:
        """All jobs, each with `error`."""
        jobs = list(self._jobs)
        self._jobs.clear()
        self._unscored.clear()
        for job in jobs:
            job.error = error
        return jobs

    def _run(self, batch: Sequence[Job]) -> None:
        joined = [job.slot for job in batch if job.cursor == 0 and job.ids]
        if joined:
            self.states.clear(joined)
        moving = [job for job in batch if job.cursor < len(job.ids)]
        self.step_words.observe(len(moving))
        self._each(moving, self._advance, lambda job: job)
        ending = [job for job in batch if job.error is None and job.cursor == len(job.ids)]
        if len(self._unscored) >= SCORE_ROWS or any(job.score_from is not None for job in ending):
            self._flush_scores()
        widths: dict[int, list[Job]] = {}
        prefixes: dict[str, list[Job]] = {}
        speaking: list[Job] = []
        for job in ending:
            if job.speech is not None:
                if job.speech.goes_on:
                    speaking.append(job)
            elif job.prefix_ids is None:
                # Those that ask for a few more than others share a product, one that asks for a thousand has its own.
                width = job.candidates if job.candidates > 16 else 16
                widths.setdefault(width.bit_length(), []).append(job)
            else:
                widths.setdefault(0, []).append(job)
                prefixes.setdefault(job.prefix, []).append(job)
        for jobs in widths.values():
            self._each(jobs, self._project, lambda job: job)
        for jobs in prefixes.values():
            ids = jobs[0].prefix_ids
            if ids is not None:
                well = [job for job in jobs if job.error is None]
                self._each(well, partial(self._project_prefix, ids), lambda job: job)
        self._each(speaking, self._speak, lambda job: job)

    def _each(self, items: Sequence[T], work: Callable[[Sequence[T]], None], job_of: Callable[[T], Job]) -> None:
        """`work` on all of them at once; if that fails, one after the other, so that only those at fault fail."""
        if not items:
            return
        try:
            work(items)
        except Exception as error:
            if len(items) > 1:
                for item in items:
                    self._each([item], work, job_of)
                return
            if not self.well():
                raise RuntimeFailedError(f"the runtime {self.runtime.name} failed: {error}") from error
            job_of(items[0]).error = error

    def _advance(self, jobs: Sequence[Job]) -> None:
        ids = np.array([job.ids[job.cursor] for job in jobs], dtype=np.int64)
        if ids.min() < 0 or ids.max() >= self.runtime.vocabulary_size:
            raise JobError(f"a word id is outside of the vocabulary of {self.runtime.vocabulary_size} words")
        sources = np.array([job.at for job in jobs], dtype=np.int64)
        slots = np.array([job.slot for job in jobs], dtype=np.int64)
        # The outputs before the words, where somebody needs them: a state may be overwritten by the one after it.
        scored = [row for row, job in enumerate(jobs) if job.scores_next]
        adapting = [row for row, job in enumerate(jobs) if job.cache is not None]
        place = len(self._unscored)
        if scored:
            self._aside.put(sources[scored], place)
        # Before anything has changed: caches are values, and if the states cannot move on, the old ones count.
        caches = [job.cache for job in jobs]
        if adapting:
            hidden = self.states.read_hidden(sources[adapting])
            moved = after([caches[row] for row in adapting], hidden, ids[adapting].tolist())
            for row, cache in zip(adapting, moved, strict=True):
                caches[row] = cache
        self.states.slab.advance(ids, sources, slots)
        for row in scored:
            job = jobs[row]
            index = job.cursor - (job.score_from or 0)
            self._unscored.append(_Scored(job, index, job.ids[job.cursor], place, job.cache))
            place += 1
        for job, cache in zip(jobs, caches, strict=True):
            job.cache = cache
            job.cursor += 1

    def _flush_scores(self) -> None:
        waiting, self._unscored = self._unscored, []
        waiting = [entry for entry in waiting if entry.job.error is None and not entry.job.abandoned]
        for first in range(0, len(waiting), SCORE_ROWS):
            self._each(waiting[first : first + SCORE_ROWS], self._score, lambda entry: entry.job)

    def _score(self, entries: Sequence[_Scored]) -> None:
        places = np.array([entry.place for entry in entries], dtype=np.int64)
        targets = np.array([entry.target for entry in entries], dtype=np.int64)
        width = max(entry.job.score_tops for entry in entries)
        caches = [entry.cache for entry in entries]
        projection = mixture.project(self._aside, places, caches, targets, top_k=width)
        values = projection.target_log_probabilities.tolist()
        for row, (entry, value, rank) in enumerate(zip(entries, values, projection.target_ranks.tolist(), strict=True)):
            scores = entry.job.scores
            scores.log_probabilities[entry.index] = value
            scores.ranks[entry.index] = rank
            if scores.tops is not None:
                top = slice(entry.job.score_tops)
                # Copies: a view would keep the others of the product alive.
                tops = (projection.top_ids[row, top].copy(), projection.top_log_probabilities[row, top].copy())
                scores.tops[entry.index] = tops

    def _speak(self, jobs: Sequence[Job]) -> None:
        slots = np.array([job.at for job in jobs], dtype=np.int64)
        speeches = [job.speech for job in jobs if job.speech is not None]
        drawn = draw(self.states.slab, slots, [job.cache for job in jobs], speeches, self._unknown_id)
        for speech, word in zip(speeches, drawn, strict=True):
            speech.take(word)
            if speech.heard is not None:
                self.heard.append(speech.heard)

    def _project(self, jobs: Sequence[Job]) -> None:
        slots = np.array([job.at for job in jobs], dtype=np.int64)
        width = max(0 if job.prefix_ids is not None else job.candidates for job in jobs)
        # By name, not as targets: their ranks, which nobody asks for here, take half as long as all the rest.
        unknown = np.full((len(jobs), 1), self._unknown_id, dtype=np.int64)
        caches = [job.cache for job in jobs]
        projection = mixture.project_words(self.states.slab, slots, caches, unknown, top_k=width)
        self._refuse_nan(projection.entropies)
        rows = zip(
            jobs,
            projection.top_ids.tolist(),
            projection.top_log_probabilities.tolist(),
            projection.entropies.tolist(),
            projection.log_probabilities[:, 0].tolist(),
            strict=True,
        )
        for job, ids, values, entropy, log_unknown in rows:
            job.top_ids, job.top_log_probabilities = ids[: job.candidates], values[: job.candidates]
            job.entropy, job.unknown_log_probability = entropy, log_unknown

    def _project_prefix(self, prefix_ids: NDArray[np.int64], jobs: Sequence[Job]) -> None:
        slots = np.array([job.at for job in jobs], dtype=np.int64)
        caches, width = [job.cache for job in jobs], max(job.candidates for job in jobs)
        subset = mixture.project_subset(self.states.slab, slots, caches, prefix_ids, top_k=width)
        self._refuse_nan(subset.log_probabilities)
        rows = zip(
            jobs,
            subset.top_ids.tolist(),
            decoding.renormalised(subset).tolist(),
            subset.log_probabilities.tolist(),
            strict=True,
        )
        for job, ids, values, total in rows:
            job.top_ids, job.top_log_probabilities = ids[: job.candidates], values[: job.candidates]
            job.prefix_log_probability = total

    def _refuse_nan(self, values: Floats) -> None:
        # A state that has become NaN would stay NaN for the rest of its session.
        broken = np.isnan(values)
        if broken.any():
            raise JobError(f"the runtime {self.runtime.name} answered NaN for {int(broken.sum())} rows")
