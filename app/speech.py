"""What a job says: words drawn one after the other, each consumed before the next one is drawn.

Many speeches go on in the same steps, and each is as it would be alone: its random numbers depend on its seed and on
how many words it has said, on nothing else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from model import decoding, mixture
from model.decoding import Sampling
from model.mixture import Caches, O
from model.runtimes.base import Floats, Ids, Projects

#: So many distributions are held at once: whole rows over the vocabulary are large.
ROWS = 32
#: Who draws among fewer words than this needs no whole distribution. A GPU finds so many likeliest ones at most.
FEW = 128


class Said(NamedTuple):
    """A word that was said. Log-probabilities are those over all words, however the word was drawn."""

    id: int
    log_probability: float
    rank: int  # 1: no word was likelier
    top_ids: list[int]  # the likeliest words there, as many as were asked for
    top_log_probabilities: list[float]


@dataclass(slots=True, eq=False)
class Speech:
    """At most `max_words` words, `said` included; fewer when one of the `stop` sequences comes up.

    The engine thread writes, the event loop reads. `ids` are all words that the job consumes: those it was given, then
    what is said, but for the last word of a stop sequence. The first `ready` words of `said` are certain to be part of
    the answer; those after them may turn out to begin a stop sequence, which is no part of it.
    """

    ids: list[int]
    max_words: int
    sampling: Sampling
    seed: int
    stop: Sequence[tuple[int, ...]] = ()
    tops: int = 0  # how many of the likeliest words to name beside each word
    said: list[Said] = field(default_factory=list)
    heard: asyncio.Event | None = None  # set on the event loop when there is more to read
    ready: int = field(init=False)
    stopped: bool = False
    _ends: list[_End] = field(init=False)

    def __post_init__(self) -> None:
        self.ready = len(self.said)
        self._ends = [_End(sequence) for sequence in self.stop]
        for word in self.said:
            for end in self._ends:
                end.take(word.id)

    @property
    def goes_on(self) -> bool:
        """Whether another word is to be drawn."""
        return not self.stopped and len(self.said) < self.max_words

    def take(self, word: Said | None) -> None:
        """Say this word; None: there is none that could be said."""
        if word is None:
            self.stopped = True
            self.ready = len(self.said)
            return
        for end in self._ends:
            if end.take(word.id):
                self.ready = len(self.said) + 1 - len(end.sequence)
                self.stopped = True
                return
        self.said.append(word)
        self.ids.append(word.id)
        held = 0 if len(self.said) == self.max_words else max((end.begun for end in self._ends), default=0)
        self.ready = len(self.said) - held


class _End:
    """A stop sequence, and with how many of its first words what was taken so far ends: `begun`.

    A word costs a constant time on average, however long the sequence is (Knuth, Morris, Pratt 1977): this runs between
    the steps that everybody waits for.
    """

    __slots__ = ("_borders", "begun", "sequence")

    def __init__(self, sequence: Sequence[int]) -> None:
        self.sequence = sequence
        self.begun = 0
        # For each length of a beginning: with how many of its first words, but not all, it ends, too.
        self._borders = [0]
        for id in sequence[1:]:
            self.take(id)
            self._borders.append(self.begun)
        self.begun = 0

    def take(self, id: int) -> bool:
        """Whether this word completes the sequence."""
        begun = self.begun
        if begun == len(self.sequence):
            begun = self._borders[begun - 1]
        while begun and self.sequence[begun] != id:
            begun = self._borders[begun - 1]
        self.begun = begun + (self.sequence[begun] == id)
        return self.begun == len(self.sequence)


def draw(
    model: Projects[O], outputs: O, caches: Caches, speeches: Sequence[Speech], unknown_id: int
) -> list[Said | None]:
    """The next word of each speech, from the hidden outputs and the caches where they stand; never <unk>.

    Who draws among few words needs no more than the likeliest ones; whole distributions are for the others.
    Raises FloatingPointError when the model's answer is not a number.
    """
    drawn: list[Said | None] = [None] * len(speeches)
    few = [row for row, speech in enumerate(speeches) if _width(speech) <= FEW]
    if few:
        width = int(min(max(_width(speeches[row]) for row in few), model.vocabulary_size))
        nothing = np.empty((len(few), 0), np.int64)
        projection = mixture.project_words(model, outputs[few], [caches[row] for row in few], nothing, top_k=width)
        _refuse_nan(projection.entropies)
        for row, ids, values in zip(few, projection.top_ids, projection.top_log_probabilities, strict=True):
            drawn[row] = _sampled_among(ids, values, speeches[row], unknown_id)
    others = sorted(set(range(len(speeches))).difference(few))
    for first in range(0, len(others), ROWS):
        some = others[first : first + ROWS]
        distributions = mixture.log_probabilities(model, outputs[some], [caches[row] for row in some])
        _refuse_nan(distributions.min(axis=1))
        for row, distribution in zip(some, distributions, strict=True):
            drawn[row] = _sampled(distribution, speeches[row], unknown_id)
    return drawn


def _width(speech: Speech) -> float:
    """How many of the likeliest words it needs: one more than it draws from, of which one may be <unk>."""
    among = 1 if speech.sampling.greedy else speech.sampling.top_k
    return math.inf if among is None else max(among + 1, speech.tops)


def _sampled(row: Floats, speech: Speech, unknown_id: int) -> Said | None:
    number = decoding.uniform(speech.seed, len(speech.said))
    id = decoding.sample(row, speech.sampling, number, without=unknown_id)
    if id is None:
        return None
    tops = decoding.likeliest(row, min(speech.tops, len(row))) if speech.tops else np.empty(0, np.int64)
    return Said(id, float(row[id]), decoding.rank(row, id), tops.tolist(), row[tops].tolist())


def _sampled_among(top_ids: Ids, top_values: Floats, speech: Speech, unknown_id: int) -> Said | None:
    """As `_sampled`, from the likeliest words (K,), which have all that can be drawn."""
    places = np.flatnonzero(top_ids != unknown_id)
    if speech.sampling.greedy:
        drawn = int(places[0]) if len(places) else None
    else:
        # In the order of ids and beside a word that is impossible, as in a whole distribution: the same number draws
        # the same word.
        places = places[np.argsort(top_ids[places])]
        row = np.append(top_values[places], np.float32(-np.inf))
        found = decoding.sample(row, speech.sampling, decoding.uniform(speech.seed, len(speech.said)))
        drawn = None if found is None else int(places[found])
    if drawn is None:
        return None
    tops = slice(speech.tops)
    return Said(
        int(top_ids[drawn]), float(top_values[drawn]), drawn + 1, top_ids[tops].tolist(), top_values[tops].tolist()
    )


def _refuse_nan(values: Floats) -> None:
    if np.isnan(values).any():
        raise FloatingPointError("the runtime answered NaN")
