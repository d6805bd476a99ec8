"""What a runtime says of a batch, mixed with what the caches of its sequences say: exact, whatever is asked for.

`outputs` are R hidden outputs as the model takes them: a runtime arrays (R, H), a slab numbers (R,). `caches` has one
for each row, None for a sequence that does not adapt. A row whose cache is missing or without pairs is answered as the
runtime answers it, to the bit. Caches are kept and looked through on the host: the hidden outputs of rows that have one
come there, and the log-probabilities of the words in them, of the others neither.

With m_w, `weight` times the cache's share of w, p'(w) = (1 - weight) p(w) + m_w. Only words with m_w > 0 come forward,
so the k likeliest are among the model's k likeliest and the words of the cache. Logarithms are mixed in float32, as
the model's own are, by the same operations for whatever is asked (`_mixed`): words that are then equally likely stand
in the order of their ids.

Most of what it costs is memory: the keys of 64 sequences of 500 words are 8 MB, and a step of the model that ships has
filled the processor's cache before it comes to them again. To read them once, and nothing else, made its step 1.11 to
1.19 times as long on a machine with 32 MB of that cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from model import decoding
from model.adaptation import Cache
from model.cores import available
from model.products import BLOCK, ONE, products
from model.runtimes.base import Floats, Ids, Projection, Projects, SubsetProjection, WordsProjection
from model.runtimes.slab import KeepsOutputs

Caches = Sequence[Cache | None]
O = TypeVar("O", Floats, Ids)  # noqa: E741

#: From so many rows on, the products of keys and queries are computed beside those of the runtime, on a core that it
#: leaves free. Where it leaves none, that took 1.14 times the processor time for a word in the service that the one
#: after the other took (two cores, 64 sessions).
_MANY = 8
_CORES = available()
_beside = ThreadPoolExecutor(1, "nextword-recall")


def project_words(model: Projects[O], outputs: O, caches: Caches, words: Ids, *, top_k: int) -> WordsProjection:
    """`Projects.project_words` of the mixture: words (R, N)."""
    found = _adapting(caches, words)
    if found is None:
        return model.project_words(outputs, words, top_k=top_k)
    rows, N = found.rows, found.named
    hidden = _hidden(model, outputs[rows])
    beside = len(hidden) >= _MANY and model.threads < _CORES
    summing = _beside.submit(found.masses, hidden) if beside else None
    plain = model.project_words(outputs, found.asked, top_k=top_k)
    masses = found.masses(hidden) if summing is None else summing.result()
    of_asked = _mixed(plain.log_probabilities[rows] + found.log_rest, masses)
    of_words = plain.log_probabilities[:, :N].copy()
    of_words[rows] = of_asked.logarithms[:, :N]
    mixed = _Mixed(*(values[:, N:] for values in of_asked))  # the words of the caches, (A, G)
    top_ids, top_values = plain.top_ids.copy(), plain.top_log_probabilities.copy()
    top_ids[rows], top_values[rows] = _likeliest(
        found, top_ids[rows], top_values[rows], masses[:, N:], mixed.logarithms
    )
    entropies = plain.entropies.copy()
    entropies[rows] = _entropies(found, entropies[rows], mixed)
    return WordsProjection(top_ids, top_values, entropies, of_words)


def project(model: Projects[O], outputs: O, caches: Caches, targets: Ids, *, top_k: int) -> Projection:
    """`Projects.project` of the mixture, ranks and all: targets (R,)."""
    adapting, plain = _split(caches)
    if not len(adapting):
        return model.project(outputs, top_k=top_k, targets=targets)
    R = len(outputs)
    tops = np.empty((R, top_k), np.int64), np.empty((R, top_k), np.float32)
    result = Projection(*tops, np.empty(R, np.float32), np.empty(R, np.float32), np.empty(R, np.int64))
    if len(plain):
        part = model.project(outputs[plain], top_k=top_k, targets=targets[plain])
        result.top_ids[plain], result.top_log_probabilities[plain] = part.top_ids, part.top_log_probabilities
        result.entropies[plain] = part.entropies
        result.target_log_probabilities[plain] = part.target_log_probabilities
        result.target_ranks[plain] = part.target_ranks
    whole = log_probabilities(model, outputs[adapting], [caches[row] for row in adapting])
    for row, values in zip(adapting.tolist(), whole, strict=True):
        target = int(targets[row])
        top = decoding.likeliest(values, top_k) if top_k else np.empty(0, np.int64)
        result.top_ids[row], result.top_log_probabilities[row] = top, values[top]
        result.entropies[row] = -np.vdot(np.exp(values, dtype=np.float64), values)
        result.target_log_probabilities[row] = values[target]
        result.target_ranks[row] = decoding.rank(values, target)
    return result


def project_subset(model: Projects[O], outputs: O, caches: Caches, ids: Ids, *, top_k: int) -> SubsetProjection:
    """`Projects.project_subset` of the mixture: among the words `ids` (N,)."""
    adapting, plain = _split(caches)
    if not len(adapting):
        return model.project_subset(outputs, ids, top_k=top_k)
    R, K = len(outputs), min(top_k, len(ids))
    result = SubsetProjection(np.empty((R, K), np.int64), np.empty((R, K), np.float32), np.empty(R, np.float32))
    if len(plain):
        part = model.project_subset(outputs[plain], ids, top_k=top_k)
        result.top_ids[plain], result.top_log_probabilities[plain] = part.top_ids, part.top_log_probabilities
        result.log_probabilities[plain] = part.log_probabilities
    ordered = np.sort(ids)
    whole = log_probabilities(model, outputs[adapting], [caches[row] for row in adapting])
    for row, values in zip(adapting.tolist(), whole[:, ordered], strict=True):
        top = decoding.likeliest(values, K) if K else np.empty(0, np.int64)
        result.top_ids[row], result.top_log_probabilities[row] = ordered[top], values[top]
        with np.errstate(divide="ignore"):
            result.log_probabilities[row] = np.log(np.exp(values.astype(np.float64)).sum())
    return result


def log_probabilities(model: Projects[O], outputs: O, caches: Caches) -> Floats:
    """`Projects.log_probabilities` of the mixture: whole rows (R, V)."""
    whole = model.log_probabilities(outputs)
    found = _adapting(caches, np.empty((len(outputs), 0), np.int64))
    if found is None:
        return whole
    masses = found.masses(_hidden(model, outputs[found.rows]))
    for place, row in enumerate(np.arange(len(outputs))[found.rows].tolist()):
        own = masses[place] > 0
        words = found.words[place, own]
        whole[row] += found.log_rest[place]
        whole[row, words] = _mixed(whole[row, words], masses[place, own]).logarithms
    return whole


def _hidden(model: Projects[Any], outputs: NDArray[Any]) -> Floats:
    """The hidden outputs themselves, on the host, where the caches are."""
    return model.hidden(outputs) if isinstance(model, KeepsOutputs) else outputs


def _split(caches: Caches) -> tuple[Ids, Ids]:
    """The places of rows that remember something, and of those that do not."""
    remembering = np.array([bool(cache) for cache in caches], np.bool_)
    return np.flatnonzero(remembering), np.flatnonzero(~remembering)


@dataclass(frozen=True, slots=True)
class _Adapting:
    """The A rows of a batch of R that remember something.

    Of each row some words are asked for: the `named` ones that all rows are asked for, N, and then those that the row
    has, up to the G of the row with most. Word 0 stands beside the words of a row with fewer, and has no mass there.
    """

    caches: Sequence[Cache]
    rows: Ids | slice  # (A,), their places in the batch: a slice where all do, so that nothing is copied
    named: int
    asked: Ids  # (R, N + G)
    words: Ids  # (A, G)
    weights: NDArray[np.float64]  # (A, 1)
    log_rest: Floats  # (A, 1), log(1 - weight)

    def masses(self, hidden: Floats) -> Floats:
        """(A, N + G) m_w, from the hidden outputs (A, H) of these rows."""
        caches, N, (A, G) = self.caches, self.named, self.words.shape
        blocks, lengths = [cache.blocks for cache in caches], [len(cache) for cache in caches]
        found, own, place = products(hidden, blocks), [], 0
        for cache, length, keys in zip(caches, lengths, blocks, strict=True):
            first = place + cache.first % BLOCK
            own.append(found[first : first + length])
            place += len(keys) * BLOCK
        # Of the pairs of all rows, one row after the other: (T,).
        numbers, offsets = np.concatenate([cache.table for cache in caches], axis=1)
        scores = (np.concatenate(own) - offsets).astype(np.float32)
        scores *= np.repeat(np.array([cache.adaptation.theta / ONE for cache in caches], np.float32), lengths)
        highest = np.maximum.reduceat(scores, np.cumsum([0, *lengths[:-1]]))
        scores -= np.repeat(highest, lengths)
        numbers += np.repeat(np.arange(N, A * (N + G), N + G, dtype=np.int32), lengths)
        np.exp(scores, out=scores)
        sums = np.bincount(numbers, scores, A * (N + G)).reshape(A, N + G)
        sums *= self.weights / sums.sum(axis=1, keepdims=True)
        masses = sums.astype(np.float32)
        for place, named in enumerate(self.asked[self.rows, :N].T):
            # One at most of a row's words is this one and has mass.
            masses[:, place] = np.vecdot(masses[:, N:], (self.words == named[:, np.newaxis]).astype(np.float32))
        return masses


class _Mixed(NamedTuple):
    """Of some words (A, N): log (1 - weight) p, the same as p, and p' as it is and as a logarithm."""

    log_rest: Floats
    rest: Floats
    probabilities: Floats
    logarithms: Floats


def _mixed(log_rest: Floats, masses: Floats) -> _Mixed:
    rest = np.exp(log_rest)
    probabilities = rest + masses
    np.minimum(probabilities, 1, out=probabilities)
    with np.errstate(divide="ignore"):
        logarithms = np.log(probabilities * (masses > 0))
    # Where there is no mass, to the bit; and elsewhere not less, for rounding may have taken something away.
    np.maximum(logarithms, log_rest, out=logarithms)
    return _Mixed(log_rest, rest, probabilities, logarithms)


def _adapting(caches: Caches, words: Ids) -> _Adapting | None:
    """None where nobody remembers anything. words (R, N): those that are asked for of every row."""
    remembering = [row for row, cache in enumerate(caches) if cache]
    if not remembering:
        return None
    found = [cache for cache in caches if cache]
    R, N = words.shape
    asked = np.zeros((R, N + max(cache.count for cache in found)), np.int64)
    asked[:, :N] = words
    for row, cache in zip(remembering, found, strict=True):
        asked[row, N : N + cache.count] = cache.words
    rows = slice(None) if len(found) == R else np.array(remembering)
    weights = np.array([[cache.adaptation.weight] for cache in found])
    return _Adapting(found, rows, N, asked, asked[rows, N:], weights, np.log1p(-weights).astype(np.float32))


def _entropies(found: _Adapting, entropies: Floats, mixed: _Mixed) -> Floats:
    """(A,), from the model's (A,): in the sum over all words (1 - weight) p is put right where a cache has the word.

    - sum (1 - weight) p log((1 - weight) p) = (1 - weight) (H - log(1 - weight)).
    """
    log_rest = found.log_rest[:, 0]
    of_all = np.exp(log_rest) * (entropies - log_rest)
    # Word by word, so that the words beside a row's own, as many as the longest row asks for, change nothing.
    changes = mixed.rest * mixed.log_rest - mixed.probabilities * mixed.logarithms
    entropy: Floats = np.maximum(of_all + changes.sum(axis=1), 0)
    return entropy


def _likeliest(found: _Adapting, top_ids: Ids, top_values: Floats, masses: Floats, mixed: Floats) -> tuple[Ids, Floats]:
    """The k likeliest (A, k) and their log p', from the model's and the words of the caches with their m_w and `mixed`,
    both (A, G)."""
    K = top_ids.shape[1]
    if not K:
        return top_ids, top_values
    top_values = top_values + found.log_rest
    # So likely are K words at least, without what the cache adds: what is less likely is not among the first K.
    A, G = mixed.shape
    rows, places = np.divmod(np.flatnonzero((masses > 0) & (mixed >= top_values[:, -1:])), G)
    counts = np.bincount(rows, minlength=A)
    C = int(counts.max())
    order = np.full((A, C + K), _LAST)
    columns = np.arange(len(rows)) - (counts.cumsum() - counts)[rows]
    order[rows, columns] = _ranked(found.words[rows, places], mixed[rows, places])
    # A word of both counts with what it has in the cache. One that is left out in spite of being in the cache is less
    # likely than those K with that already.
    own_ids = order[:, :C].astype(np.int32)
    both = (top_ids[:, :, np.newaxis].astype(np.int32) == own_ids[:, np.newaxis]).any(axis=2)
    order[:, C:] = np.where(both, _LAST, _ranked(top_ids, top_values))
    order.sort(axis=1)
    order = order[:, :K]
    return order & 0xFFFFFFFF, -(order >> 32).astype(np.int32).view(np.float32)


#: Behind all words in the order of `_ranked`, and the id of none.
_LAST = np.iinfo(np.int64).max


def _ranked(ids: Ids, values: Floats) -> Ids:
    """Words by their log p as one integer each, the likeliest first: -log p before the id, for the bits of positive
    floats are in the order of the floats."""
    return (-values).view(np.int32).astype(np.int64) << 32 | ids
