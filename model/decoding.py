"""From a distribution to an answer: small pure functions on what a runtime projects.

Logarithms are natural unless a name says bits. Everything is computed in float64: a runtime's float32 logarithms are
exact enough, but sums and exponentials of them need not lose more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from model.runtimes.base import SubsetProjection

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
