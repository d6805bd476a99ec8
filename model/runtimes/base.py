"""The seam between a model and the hardware it runs on.

A sequence state is a small value of fixed size: ``state' = advance(ids, state)``, ``projection = project(hidden)``.
A runtime keeps nothing between two calls, knows no session, and answers every row as if it were alone in its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

#: One (B, size) float32 array for each of `Runtime.state_tensors`, in that order. The last one is the hidden output
#: h_t that the vocabulary is projected from.
State = tuple[Floats, ...]


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One tensor of a sequence state: `size` float32 values a sequence. `layer` counts from 0, for drawing."""

    name: str
    size: int
    layer: int


@dataclass(frozen=True, slots=True)
class Projection:
    """What may come next, for R hidden outputs. Logarithms are natural; probabilities are over the whole vocabulary.

    Words that are equally likely stand in the order of their ids, in `top_ids` and in `target_ranks` alike.
    """

    top_ids: Ids  # (R, K), likeliest first
    top_log_probabilities: Floats  # (R, K)
    entropies: Floats  # (R,), nats
    target_log_probabilities: Floats  # (R,), empty without targets
    target_ranks: Ids  # (R,), 1 is the likeliest word; empty without targets


@dataclass(frozen=True, slots=True)
class SubsetProjection:
    """What may come next among some of the words, for R hidden outputs."""

    top_ids: Ids  # (R, K), likeliest first, ids of the vocabulary
    top_log_probabilities: Floats  # (R, K), over the whole vocabulary: not renormalised over the subset
    log_probabilities: Floats  # (R,), that the next word is any of the subset; -inf for an empty one


@dataclass(frozen=True, slots=True)
class WordsProjection:
    """What may come next, and how likely some words are, which each of the R hidden outputs names for itself."""

    top_ids: Ids  # (R, K), likeliest first
    top_log_probabilities: Floats  # (R, K)
    entropies: Floats  # (R,), nats
    log_probabilities: Floats  # (R, N), of the words named


class StateLostError(RuntimeError):
    """The device failed while it computed this state, so nobody knows it; the one before is as it was."""


class DeviceMemoryError(RuntimeError):
    """The device that computes has no memory left for this; what needs less can still be computed."""


Outputs_contra = TypeVar("Outputs_contra", contravariant=True)


class Projects(Protocol[Outputs_contra]):
    """Says what may come next after R hidden outputs: arrays (R, H) for a runtime, or numbers (R,) under which it keeps
    them where it computes."""

    vocabulary_size: int
    threads: int  # how many cores of the host it keeps busy

    def project(self, outputs: Outputs_contra, /, *, top_k: int, targets: Ids | None = None) -> Projection:
        """`top_k` in [0, vocabulary_size]; targets (R,)."""

    def project_subset(self, outputs: Outputs_contra, ids: Ids, /, *, top_k: int) -> SubsetProjection:
        """The same among the N words `ids` (N,) only, each named once; K is min(top_k, N)."""

    def project_words(self, outputs: Outputs_contra, words: Ids, /, *, top_k: int) -> WordsProjection:
        """As `project`, and the log-probabilities of words (R, N), any of which may be named twice; no ranks."""

    def log_probabilities(self, outputs: Outputs_contra, /) -> Floats:
        """Whole rows (R, vocabulary_size), for sampling and for tests."""


class Runtime(Projects[Floats], Protocol):
    """How the rest of nextword runs a model. All methods are called from one thread at a time.

    Every runtime agrees with the Chainer reference within 1e-4 in log-probability (float32), and a row's answer does
    not depend on the other rows of its batch (within 1e-3).
    """

    name: str  # what --runtime selects: "chainer", "cpu", "cpu-float32", "cuda"
    device: str  # "cpu", "cuda:0"
    state_tensors: tuple[StateTensor, ...]

    def zero_state(self, batch: int) -> State:
        """The state before any word, zeros: one (batch, size) array for each state tensor."""

    def advance(self, ids: Ids, state: State) -> State:
        """Consume one word a row: ids (B,), each in [0, vocabulary_size); returns new arrays, `state` is unchanged."""
