"""The one fake of these tests: a tiny recurrent model in NumPy at the runtime seam, and its serial oracle."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from model.adaptation import Adaptation
from model.artifact import Artifact
from model.runtimes.base import Floats, Ids, Projection, State, StateTensor, SubsetProjection, WordsProjection
from model.tokenizer import Tokenizer

_TEXT = (
    "the cat sat on mat a dog ran to park and then it was gone we saw them go home in rain with no hat "
    "one two three four five six seven eight nine ten catalogue cater category london paris"
)
PLAIN = _TEXT.split()
WORDS = ["<unk>", "<eos>", *PLAIN]
SIZES = (6, 5)


class FakeRuntime:
    """h1' = tanh(E[id] + h1 A), h2' = tanh(h1' B + h2 C), logits = h2' W, in float64 inside.

    `gate` holds every step up while it is cleared, and clears itself when `hold_at` steps have been taken. `broken` is
    raised by every call, an error by every batch with the id `poisoned`; with `nan` every state is NaN. `batches` are
    the sizes of all steps so far, `products` the rows of all projections.
    """

    name = "fake"
    device = "cpu"
    threads = 1

    def __init__(self, vocabulary_size: int = len(WORDS), seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        first, last = SIZES
        self.vocabulary_size = vocabulary_size
        self.state_tensors = (StateTensor("h1", first, 0), StateTensor("h2", last, 1))
        self._embed = rng.normal(0, 1, (vocabulary_size, first))
        self._a = rng.normal(0, 0.7, (first, first))
        self._b = rng.normal(0, 0.7, (first, last))
        self._c = rng.normal(0, 0.7, (last, last))
        self._output = rng.normal(0, 1.5, (last, vocabulary_size))
        self.gate = threading.Event()
        self.gate.set()
        self.hold_at: int | None = None
        self.broken: Exception | None = None
        self.poisoned: int | None = None
        self.nan = False
        self.batches: list[int] = []
        self.products: list[int] = []

    def zero_state(self, batch: int) -> State:
        return tuple(np.zeros((batch, size), dtype=np.float32) for size in SIZES)

    def advance(self, ids: Ids, state: State) -> State:
        if self.broken is not None:
            raise self.broken
        if self.poisoned is not None and self.poisoned in ids:
            raise FloatingPointError(f"cannot take {self.poisoned}")
        if len(self.batches) == self.hold_at:
            self.gate.clear()
        if not self.gate.wait(30):
            raise TimeoutError("the gate was never opened")
        self.batches.append(len(ids))
        h1 = np.tanh(self._embed[ids] + state[0].astype(np.float64) @ self._a)
        h2 = np.tanh(h1 @ self._b + state[1].astype(np.float64) @ self._c)
        if self.nan:
            h2 = np.full_like(h2, np.nan)
        return h1.astype(np.float32), h2.astype(np.float32)

    def log_probabilities(self, hidden: Floats) -> Floats:
        if self.broken is not None:
            raise self.broken
        logits = hidden.astype(np.float64) @ self._output
        logits -= logits.max(axis=1, keepdims=True)
        return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)

    def project(self, hidden: Floats, *, top_k: int, targets: Ids | None = None) -> Projection:
        self.products.append(len(hidden))
        rows = self.log_probabilities(hidden)
        order = np.argsort(-rows, axis=1, kind="stable")
        top = order[:, :top_k]
        entropies = -(np.exp(rows) * rows).sum(axis=1)
        values = np.zeros(0, dtype=np.float32)
        ranks = np.zeros(0, dtype=np.int64)
        if targets is not None:
            values = rows[np.arange(len(rows)), targets]
            ranks = (order == targets[:, np.newaxis]).argmax(axis=1) + 1
        return Projection(top, np.take_along_axis(rows, top, axis=1), entropies, values, ranks)

    def project_subset(self, hidden: Floats, ids: Ids, *, top_k: int) -> SubsetProjection:
        rows = self.log_probabilities(hidden)[:, ids]
        top = np.argsort(-rows, axis=1, kind="stable")[:, :top_k]
        with np.errstate(divide="ignore"):
            total = np.log(np.exp(rows).sum(axis=1)).astype(np.float32)
        return SubsetProjection(ids[top], np.take_along_axis(rows, top, axis=1), total)

    def project_words(self, hidden: Floats, words: Ids, *, top_k: int) -> WordsProjection:
        self.products.append(len(hidden))
        rows = self.log_probabilities(hidden)
        top = np.argsort(-rows, axis=1, kind="stable")[:, :top_k]
        return WordsProjection(
            top,
            np.take_along_axis(rows, top, axis=1),
            -(np.exp(rows) * rows).sum(axis=1),
            np.take_along_axis(rows, words, axis=1),
        )


def artifact(start: str | None = "<eos>", words: Sequence[str] = WORDS, policy: str = "english") -> Artifact:
    """A model directory's content without the directory; its weights are the fake's own affair."""
    return Artifact(
        name="fake",
        id="fake@0123456789ab",
        network={"kind": "simple_rnn"},
        start=start,
        measured={"perplexity": 12.5},
        tokenizer=Tokenizer.from_vocabulary(words, policy),
        weights={"embed/W": np.zeros((2, 3), dtype=np.float32)},
        card="",
    )


class Oracle:
    """One sequence, one word after the other, alone: what every session's answer must equal."""

    tolerance = 0.0

    def __init__(self, start: str | None = "<eos>", adaptation: Adaptation | None = None) -> None:
        self.runtime = FakeRuntime()
        self.tokenizer = Tokenizer.from_vocabulary(WORDS, "english")
        self.adaptation = adaptation
        self.pairs: list[tuple[Floats, int]] = []  # each word's id, and the hidden output that it came after
        self.state = self.runtime.zero_state(1)
        if start is not None:
            self.consume(start)
            self.pairs.clear()

    def consume(self, *words: str) -> None:
        for word in words:
            id = self.tokenizer.id_of(word)
            ids = np.array([self.tokenizer.unknown_id if id is None else id], dtype=np.int64)
            self.pairs.append((self.state[-1][0], int(ids[0])))
            self.state = self.runtime.advance(ids, self.state)

    def row(self) -> dict[str, float]:
        """The probability of every word of the vocabulary."""
        row = np.exp(self.runtime.log_probabilities(self.state[-1])[0].astype(np.float64))
        adaptation = self.adaptation
        if adaptation is not None and self.pairs:
            scores = {}
            for place, (hidden, _) in enumerate(self.pairs[-adaptation.size :]):
                key = np.rint(hidden.astype(np.float64) * 127) / 127
                query = np.rint(self.state[-1][0].astype(np.float64) * 63) / 63
                scores[place] = np.exp(adaptation.theta * key @ query)
            shares = np.zeros_like(row)
            for place, (_, id) in enumerate(self.pairs[-adaptation.size :]):
                shares[id] += scores[place] / sum(scores.values())
            row = (1 - adaptation.weight) * row + adaptation.weight * shares
        return dict(zip(WORDS, row.tolist(), strict=True))

    def probability(self, word: str) -> float:
        """That this word comes next."""
        return self.row()[word]
