"""What a recurrent network has to beat: an n-gram model with interpolated, modified Kneser-Ney smoothing.

    p_n(w | h) = max(c(h w) - D(c(h w)), 0) / c(h .) + lambda(h) p_{n-1}(w | h without its first word)
    lambda(h) = (D_1 N_1(h .) + D_2 N_2(h .) + D_3+ N_3+(h .)) / c(h .)

where c is the count in the text at the highest order, and below it the number of different words that stand before; p_1
is interpolated with the uniform distribution. The discounts come from the counts of counts of each order. (Chen and
Goodman, "An empirical study of smoothing techniques for language modeling", 1998; what KenLM estimates by default.)

Nothing is pruned. The text is read as a circle, so that every n-gram has a word before it and one after it. It is a
`model.runtimes.base.Runtime`, whose state is the last n - 1 words: what is measured of a network is measured of it by
the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model import decoding
from model.runtimes.base import Floats, Ids, Projection, State, StateTensor, SubsetProjection

_NOTHING = -1.0  # in a state: before the first word


@dataclass(frozen=True, slots=True)
class _Order:
    """The n-grams of one order above the first, sorted by context and then by word.

    keys (G,): place of the context among the n-grams of the order below, times V, plus the word. shares (G,): of the
    context's probability, what the word keeps after the discount. backoff (C,): lambda, by place of the context.
    """

    keys: NDArray[np.int64]
    shares: Floats
    backoff: Floats


class KneserNey:
    """The model of `order` words, estimated from ids (N,) in [0, vocabulary_size)."""

    name = "kneser-ney"
    device = "cpu"

    def __init__(self, ids: Ids, vocabulary_size: int, order: int = 5) -> None:
        self.vocabulary_size = V = vocabulary_size
        self.order = order
        self.state_tensors = (StateTensor("words", order - 1, 0),)
        words = ids.astype(np.int64)
        places = [words]  # for each order: the place of the n-gram that ends at each word (N,)
        keys: list[NDArray[np.int64]] = [np.arange(V)]
        counts: list[NDArray[np.int64]] = []
        for _ in range(order - 1):
            grams = np.roll(places[-1], 1) * V + words
            unique, firsts, place, count = np.unique(grams, return_index=True, return_inverse=True, return_counts=True)
            # Each different n-gram adds one to the shorter one that it ends with.
            counts.append(np.bincount(places[-1][firsts], minlength=len(keys[-1])))
            keys.append(unique)
            places.append(place)
        counts.append(count)
        self._unigram = self._first(counts[0])
        self._orders = [
            _order(keys[n], counts[n], contexts=len(keys[n - 1]), vocabulary_size=V) for n in range(1, order)
        ]

    def _first(self, counts: NDArray[np.int64]) -> Floats:
        discounts = _discounts(counts)
        total = counts.sum()
        taken = discounts[np.minimum(counts, 3)]
        uniform = taken.sum() / total / self.vocabulary_size
        return ((counts - taken) / total + uniform).astype(np.float32)

    def distribution(self, words: Ids) -> Floats:
        """(V,) probabilities of the next word after these (at most `order` - 1 count)."""
        p = self._unigram.copy()
        V = self.vocabulary_size
        for n, order in enumerate(self._orders, start=2):
            if len(words) < n - 1:
                break
            context = self._place(words[len(words) - n + 1 :])
            if context is None:
                break  # then no longer one is in the text either
            start, end = np.searchsorted(order.keys, (context * V, (context + 1) * V))
            p *= order.backoff[context]
            p[order.keys[start:end] - context * V] += order.shares[start:end]
        return p

    def _place(self, words: Ids) -> int | None:
        """The place of an n-gram among those of its order; None: it is not in the text."""
        place = int(words[0])
        for order, word in zip(self._orders, words[1:], strict=False):
            key = place * self.vocabulary_size + int(word)
            place = int(np.searchsorted(order.keys, key))
            if place == len(order.keys) or order.keys[place] != key:
                return None
        return place

    # The seam of the runtimes.

    def zero_state(self, batch: int) -> State:
        return (np.full((batch, self.order - 1), _NOTHING, np.float32),)

    def advance(self, ids: Ids, state: State) -> State:
        return (np.concatenate([state[0][:, 1:], ids[:, None].astype(np.float32)], axis=1),)

    def log_probabilities(self, hidden: Floats) -> Floats:
        rows = [self.distribution(words[words >= 0]) for words in hidden.astype(np.int64)]
        return np.log(np.stack(rows)) if rows else np.empty((0, self.vocabulary_size), np.float32)

    def project(self, hidden: Floats, *, top_k: int, targets: Ids | None = None) -> Projection:
        rows = self.log_probabilities(hidden)
        top_ids = np.stack([decoding.likeliest(row, top_k) for row in rows]) if len(rows) else np.empty((0, top_k), int)
        words = np.zeros(len(rows), np.int64) if targets is None else targets
        of_word = np.take_along_axis(rows, words[:, None], axis=1)
        earlier = np.arange(self.vocabulary_size) < words[:, None]
        return Projection(
            top_ids=top_ids,
            top_log_probabilities=np.take_along_axis(rows, top_ids, axis=1),
            entropies=-(np.exp(rows) * rows).sum(axis=1, dtype=np.float32),
            target_log_probabilities=of_word[:, 0],
            target_ranks=1 + ((rows > of_word) | ((rows == of_word) & earlier)).sum(axis=1),
        )

    def project_subset(self, hidden: Floats, ids: Ids, *, top_k: int) -> SubsetProjection:
        rows = self.log_probabilities(hidden)[:, ids]
        top = np.stack([decoding.likeliest(row, min(top_k, len(ids))) for row in rows])
        return SubsetProjection(ids[top], np.take_along_axis(rows, top, axis=1), np.logaddexp.reduce(rows, axis=1))


def _order(keys: NDArray[np.int64], counts: NDArray[np.int64], *, contexts: int, vocabulary_size: int) -> _Order:
    discounts = _discounts(counts)
    context = keys // vocabulary_size
    totals = np.bincount(context, counts, contexts)
    taken = discounts[np.minimum(counts, 3)]
    # A word of the vocabulary that the text has not leaves all to the order below.
    backoff = np.divide(np.bincount(context, taken, contexts), totals, out=np.ones(contexts), where=totals > 0)
    return _Order(keys, ((counts - taken) / totals[context]).astype(np.float32), backoff.astype(np.float32))


def _discounts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(4,): what is taken from a count of 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (max(int((counts == n).sum()), 1) for n in range(1, 5))
    Y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3])
    # Of a text of a few words the formula can give less than nothing, or more than there is.
    return np.clip(found, 0.0, np.arange(4))
