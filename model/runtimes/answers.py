"""What a projection on a device gives, on the host: taken apart, joined, narrowed down."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.runtimes.base import Floats, Ids, Projection, SubsetProjection, WordsProjection


class Fetched(NamedTuple):
    """`Answers`, on the host, of which the first R rows count; overwritten by the next projection."""

    values: NDArray[np.int32]
    n: int
    K: int
    R: int


def unpacked(fetched: Fetched, width: int, *, scored: bool) -> Projection:
    """The likeliest `width` words, and of the named ones what was asked for."""
    values, n, K, R = fetched
    wide = n * K

    def column(number: int) -> NDArray[np.int32]:
        return values[2 * wide + number * n :][:R]

    return Projection(
        top_ids=values[:wide].reshape(n, K)[:R, :width].astype(np.int64),
        top_log_probabilities=values[wide : 2 * wide].view(np.float32).reshape(n, K)[:R, :width].copy(),
        entropies=column(0).view(np.float32).copy(),
        target_log_probabilities=column(1 if scored else 0)[: R if scored else 0].view(np.float32).copy(),
        target_ranks=column(2)[: R if scored else 0].astype(np.int64),
    )


def with_words(projection: Projection, log_probabilities: Floats) -> WordsProjection:
    """The projection, with the log-probabilities (R, N) of other words in the place of the named ones'."""
    p = projection
    return WordsProjection(p.top_ids, p.top_log_probabilities, p.entropies, log_probabilities)


Joined = TypeVar("Joined", Projection, WordsProjection)


def joined(parts: list[Joined]) -> Joined:
    """The rows of all parts, of which there is one at least."""
    if len(parts) == 1:
        return parts[0]
    kind = type(parts[0])
    names = [field.name for field in fields(kind)]
    return kind(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def likeliest(rows: Floats, ids: Ids, top_k: int) -> SubsetProjection:
    """The same from the log-probabilities (R, N) of the words `ids` (N,)."""
    # Equal ones in the order of their ids, as everywhere.
    order = np.argsort(ids)
    top = order[np.argsort(-rows[:, order], axis=1, kind="stable")[:, : min(top_k, len(ids))]]
    with np.errstate(divide="ignore"):
        together = np.log(np.exp(rows).sum(axis=1))
    return SubsetProjection(ids[top], np.take_along_axis(rows, top, axis=1), together)
