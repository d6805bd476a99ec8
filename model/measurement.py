"""What was found when a model predicted texts. All of it adds up, so that several texts give the figures of one.

*Perplexity* is exp of the mean negative log-likelihood of the targets; *bits* is its base-2 logarithm.

*Recall@k* is the share of targets that are among the k likeliest words; ``<unk>``, ``<eos>`` and punctuation count like
any other word.

*Calibration error* (Guo et al. 2017) is the mean, over all targets, of the distance between how likely the likeliest
word was said to be and how often it was right, in ten equal bins of that probability.

*Keystroke savings*: see `model.keystrokes`.

Each figure but the calibration error is given for three sets of targets, the contexts being the same: "all words",
"without <unk>" (targets that are not in the vocabulary left out), and "without <unk> and <eos>".
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.adaptation import Adaptation
from model.keystrokes import SUGGESTIONS
from model.runtimes.base import Ids

RECALL_AT = (1, 3, 5, 10)
ALL, WITHOUT_UNKNOWN, WITHOUT_SPECIALS = "all words", "without <unk>", "without <unk> and <eos>"
BINS = 10

Floats64 = NDArray[np.float64]


def summed(places: Ids, values: NDArray[Any], size: int) -> Floats64:
    """(size,): at each place the sum of the values (N,) that belong there, by `places` (N,)."""
    return np.asarray(np.bincount(places, values, size), np.float64)


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums over one set of targets, which add up, and what they come to.

    nats: their negative log-likelihood. hits: for each k of `RECALL_AT`, how many are among the k likeliest words.
    keys: without suggestions and with them; None where that was not asked for.
    """

    targets: int
    nats: float
    hits: dict[int, int]
    keys: tuple[int, int] | None

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.targets + other.targets,
            self.nats + other.nats,
            {k: count + other.hits[k] for k, count in self.hits.items()},
            None
            if self.keys is None or other.keys is None
            else (self.keys[0] + other.keys[0], self.keys[1] + other.keys[1]),
        )

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats / self.targets)

    @property
    def bits(self) -> float:
        """A word."""
        return self.nats / self.targets / math.log(2)

    @property
    def recall(self) -> dict[int, float]:
        """For each k of `RECALL_AT`, a share."""
        return {k: count / self.targets for k, count in self.hits.items()}

    @property
    def keystroke_savings(self) -> float | None:
        """A share; None where it was not asked for."""
        return None if self.keys is None else 1 - self.keys[1] / self.keys[0]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the keys of the recall are strings, as JSON wants them."""
        return {
            "targets": self.targets,
            "perplexity": self.perplexity,
            "bits": self.bits,
            "recall": {str(k): share for k, share in self.recall.items()},
            "keystroke_savings": self.keystroke_savings,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was said of the likeliest words and what came, in `BINS` equal bins of the probability that was said.

    counts: how many targets, (BINS,). said: the sum of the probabilities, (BINS,). right: how often the word came,
    (BINS,).
    """

    counts: Floats64
    said: Floats64
    right: Floats64

    @classmethod
    def of(cls, said: Floats64, right: NDArray[np.bool_]) -> Calibration:
        """From the probability of the likeliest word at each of N targets (N,), and whether it was the one (N,)."""
        bins = np.minimum((said * BINS).astype(np.int64), BINS - 1)
        return cls(*(summed(bins, values, BINS) for values in (np.ones(len(bins)), said, right)))

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(self.counts + other.counts, self.said + other.said, self.right + other.right)

    @property
    def error(self) -> float:
        return float(np.abs(self.said - self.right).sum() / self.counts.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What was found for a text of `words` words, or for several together.

    figures: by the names `ALL`, `WITHOUT_UNKNOWN`, `WITHOUT_SPECIALS`; a set without targets is absent. counts, costs:
    how often each word of the vocabulary was a target, and how many nats that took, (V,). mistakes: how often a word
    came where another was likelier than anything else: (what came, the likeliest word), by id.
    """

    words: int
    figures: dict[str, Figures]
    calibration: Calibration
    counts: Floats64
    costs: Floats64
    mistakes: Counter[tuple[int, int]]

    def __add__(self, other: Measurement) -> Measurement:
        figures = dict(self.figures)
        for name, found in other.figures.items():
            figures[name] = figures[name] + found if name in figures else found
        return Measurement(
            self.words + other.words,
            {name: figures[name] for name in (ALL, WITHOUT_UNKNOWN, WITHOUT_SPECIALS) if name in figures},
            self.calibration + other.calibration,
            self.counts + other.counts,
            self.costs + other.costs,
            self.mistakes + other.mistakes,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "words": self.words,
            "calibration_error": self.calibration.error,
            "figures": {name: found.to_json() for name, found in self.figures.items()},
        }


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What was found for each of some texts, by name. streams: in how many pieces each was read, 1 being exact;
    adaptation: how the model adapted to each, if it did. words_limit: how many words of each were read at most, if not
    all.
    """

    model: str
    runtime: str
    device: str
    streams: int
    seconds: float
    texts: dict[str, Measurement]
    adaptation: Adaptation | None = None
    words_limit: int | None = None

    @property
    def together(self) -> Measurement:
        """All texts as one."""
        return reduce(add, self.texts.values())

    def to_json(self) -> dict[str, Any]:
        """As plain values: all texts together, then each."""
        return {
            "model": self.model,
            "runtime": self.runtime,
            "device": self.device,
            "streams": self.streams,
            "words_limit": self.words_limit,
            "adaptation": None if self.adaptation is None else asdict(self.adaptation),
            "suggestions": SUGGESTIONS,
            "seconds": self.seconds,
            **self.together.to_json(),
            "texts": {name: found.to_json() for name, found in self.texts.items()},
        }
