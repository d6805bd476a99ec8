"""From a distribution to an answer: small pure functions on what a runtime projects.

Logarithms are natural unless a name says bits. Everything is computed in float64: a runtime's float32 logarithms are
exact enough, but sums and exponentials of them need not lose more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runtimes.base import Floats, Ids, SubsetProjection

_BITS_PER_NAT = 1.0 / math.log(2.0)


def candidates(top_k: int, vocabulary_size: int, *, include_unknown: bool) -> int:
    """How many words to ask a runtime for, so that `top_k` are left (or all there are) once <unk> is taken out.

    >>> candidates(10, 20_000, include_unknown=False), candidates(10, 20_000, include_unknown=True)
    (11, 10)
    >>> candidates(1000, 5, include_unknown=False), candidates(0, 5, include_unknown=False)
    (5, 0)
    """
    if top_k <= 0:
        return 0
    return min(top_k + (0 if include_unknown else 1), vocabulary_size)


def ranking(
    ids: Iterable[int], log_probabilities: Iterable[float], top_k: int, *, without: int | None = None
) -> list[tuple[int, float, float]]:
    """At most `top_k` of one row's words as (id, probability, log_probability), in the order given, `without` one.

    >>> ranking([3, 0, 7], [-1.0, -2.0, -3.0], 2, without=0)
    [(3, 0.36787944117144233, -1.0), (7, 0.049787068367863944, -3.0)]
    """
    exp = math.exp
    kept = [(i, exp(value), value) for i, value in zip(ids, log_probabilities, strict=True) if i != without]
    del kept[max(top_k, 0) :]
    return kept


def renormalised(subset: SubsetProjection) -> NDArray[np.float64]:
    """(R, K) log-probabilities of the subset's best words given that the next word is one of the subset.

    A subset without words, or of words that are all impossible, has no such distribution: its rows are -inf.
    """
    top = subset.top_log_probabilities.astype(np.float64)
    total = subset.log_probabilities.astype(np.float64)[:, np.newaxis]
    possible = np.isfinite(total)
    return np.where(possible, top - np.where(possible, total, 0.0), -np.inf)


def probability(log_probability: float) -> float:
    """exp, and exactly 0 for -inf; never above 1, where float32 rounding had left the logarithm a hair above 0.

    >>> probability(float("-inf")), probability(1e-8)
    (0.0, 1.0)
    """
    return min(math.exp(log_probability), 1.0)


def bits(nats: float) -> float:
    """An entropy in bits from one in nats.

    >>> bits(math.log(2))
    1.0
    """
    return nats * _BITS_PER_NAT


def surprisal_bits(log_probability: float) -> float:
    """-log2 of the probability whose natural logarithm is given: how many bits the word told.

    >>> surprisal_bits(math.log(0.25))
    2.0
    """
    return -log_probability * _BITS_PER_NAT


def rank(row: Floats, id: int) -> int:
    """The place of word `id` in a distribution (V,), 1 for the likeliest; equally likely ones stand by their ids.

    >>> [rank(np.log([0.2, 0.5, 0.2, 0.1]), id) for id in range(4)]
    [2, 1, 3, 4]
    """
    value = row[id]
    return 1 + int(np.count_nonzero(row > value)) + int(np.count_nonzero(row[:id] == value))


# --- Which word to say ------------------------------------------------------------------------------------------------

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

#: 1 / temperature at most: all but the likeliest words are impossible then, and 0 times it is still 0.
_GREATEST_RATE = 1e30


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a word is drawn from a distribution: p^(1/temperature), then the `top_k` likeliest, then of those the fewest
    that hold at least `top_p` of what is left. temperature >= 0, and 0 is the likeliest word; top_k >= 1; 0 < top_p.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    @property
    def greedy(self) -> bool:
        """Whether it is always the likeliest word."""
        return self.temperature == 0 or self.top_k == 1


def uniform(seed: int, counter: int) -> float:
    """Number `counter` of the sequence `seed`, in [0, 1): a function, so that nothing but these two decides about it.

    SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), its upper 53 bits.

    >>> uniform(0, 0) == (0xE220A8397B1DCDAF >> 11) / 2**53
    True
    """
    return (_mixed((seed + (counter + 1) * _GOLDEN) & _MASK) >> 11) * 2.0**-53


def branch(seed: int, number: int) -> int:
    """The seed of the `number`th of several sequences that one seed is for; that of the first one is `seed` itself.

    >>> branch(7, 0), branch(7, 1) != branch(7, 2)
    (7, True)
    """
    return _mixed((seed ^ _mixed(number)) & _MASK) if number else seed


def _mixed(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


def sample(row: Floats, sampling: Sampling, number: float, *, without: int | None = None) -> int | None:
    """The id of a word drawn from one distribution: row (V,) log-probabilities, `number` in [0, 1).

    `without` is never drawn, as if it were not in the vocabulary. None if no word is possible.
    """
    ids, weights = shortlist(row, sampling, without=without)
    cumulative = weights.cumsum(dtype=np.float64)
    if not len(cumulative) or not cumulative[-1] > 0:
        return None
    place = int(cumulative.searchsorted(number * cumulative[-1], side="right"))
    return int(ids[place]) if ids is not None else place


def shortlist(row: Floats, sampling: Sampling, *, without: int | None = None) -> tuple[Ids | None, Floats]:
    """The words that may be drawn, (N,), and their weights (N,), which sum to anything; None for the ids of all words.

    Of equally likely words at the edge those with the lower ids are taken.
    """
    logits = row.copy()
    if without is not None:
        logits[without] = -np.inf
    best = logits.max(initial=-np.inf)
    if best == -np.inf:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    if sampling.temperature == 0:
        return np.array([logits.argmax()]), np.ones(1, np.float32)
    logits -= best
    rate = np.float32(min(1 / sampling.temperature, _GREATEST_RATE))
    V = len(logits)
    k = V if sampling.top_k is None else min(sampling.top_k, V)
    p = 1.0 if sampling.top_p is None else sampling.top_p
    if k == V and p >= 1:
        return None, _weights(logits, rate)
    # Values alone are sorted many times faster than the places of values.
    ordered = np.sort(logits if k == V else np.partition(logits, V - k)[V - k :])[::-1]
    count = k
    if p < 1:
        held = _weights(ordered, rate).cumsum(dtype=np.float64)
        count = int(held.searchsorted(p * held[-1])) + 1
    edge = ordered[count - 1]
    ahead = np.flatnonzero(logits > edge)
    ids = np.concatenate([ahead, np.flatnonzero(logits == edge)[: count - len(ahead)]])
    return ids, _weights(logits[ids], rate)


def _weights(logits: Floats, rate: np.float32) -> Floats:
    with np.errstate(over="ignore"):  # of a temperature next to nothing: -inf is right
        weights: Floats = np.exp(logits * rate)
    return weights


def likeliest(values: NDArray[np.floating[Any]], k: int) -> Ids:
    """The places (k,) of the k largest of values (N,), largest first, equal ones in rising order; k <= N."""
    if k < len(values):
        edge = np.partition(values, len(values) - k)[len(values) - k] if k else np.inf
        above = np.flatnonzero(values > edge)
        places = np.concatenate([above, np.flatnonzero(values == edge)[: k - len(above)]])
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")]
