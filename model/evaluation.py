"""How well a model predicts a text: perplexity, recall, calibration, and the keys a typist saves.

The text is one sequence: it starts where an empty session stands (`Artifact.start`), and the state is carried from its
first word to its last. Every word is a target, predicted from all words before it; probabilities are over the whole
vocabulary, ``<unk>`` and ``<eos>`` included.

*Perplexity* is exp of the mean negative log-likelihood of the targets; *bits* is its base-2 logarithm.

*Recall@k* is the share of targets that are among the k likeliest words; ``<unk>``, ``<eos>`` and punctuation count like
any other word.

*Calibration error* (Guo et al. 2017) is the mean, over all targets, of the distance between how likely the likeliest
word was said to be and how often it was right, in ten equal bins of that probability.

*Keystroke savings* are 1 - keys with / keys without suggestions. Without: each character of a word is one key, and so
are the white space after it and a line end. With: before each key, the three likeliest words that the characters typed
so far may become (`Tokenizer.prefix_ids`) are offered, never ``<unk>`` or ``<eos>``, and the typist accepts the word as
soon as it is offered and that takes fewer keys than going on; accepting is one key and brings the white space after
the word, which vanishes by itself where the text has none. A word outside the vocabulary is typed in full, at the
length it has in the text, and a line end is one key. Punctuation is a word. Capitals need no key of their own.

Each figure but the calibration error is given for three sets of targets, the contexts being the same: "all words",
"without <unk>" (targets that are not in the vocabulary left out), and "without <unk> and <eos>".
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.artifact import Artifact
from model.runtimes.base import Floats, Ids, Runtime, State
from model.tokenizer import Encoding, Tokenizer

RECALL_AT = (1, 3, 5, 10)
SUGGESTIONS = 3
ALL, WITHOUT_UNKNOWN, WITHOUT_SPECIALS = "all words", "without <unk>", "without <unk> and <eos>"

_BINS = 10
_SPECIALS = 2  # <unk> and <eos>: never offered, so that many more words have to be looked at
_MOST_ROWS = 256  # positions projected in one product
_MOST_VALUES = 1 << 23  # ... and at most 32 MiB of log-probabilities
_MOST_NATS = 700  # exp of it is a float64
_CHARACTERS_AT_ONCE = 1 << 20
# Where line ends are words, the one that follows a word is not its white space.
_BLANKS, _BLANKS_WITHOUT_LINE_END = re.compile(r"[^\S\n\r\v\f\x85\u2028\u2029]"), re.compile(r"\s")


class EvaluationError(ValueError):
    """A text that has nothing to measure, or a model whose answers are no probabilities."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was found for one set of targets. recall: for each k of `RECALL_AT`. keystroke_savings: None where it was
    not asked for.
    """

    targets: int
    perplexity: float
    bits: float
    recall: dict[int, float]
    keystroke_savings: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found for a text of `words` words. figures: by the names `ALL`, `WITHOUT_UNKNOWN`, `WITHOUT_SPECIALS`; a
    set without targets is absent. streams: in how many pieces the text was read, 1 being exact.
    """

    model: str
    runtime: str
    device: str
    words: int
    streams: int
    seconds: float
    calibration_error: float
    figures: dict[str, Figures]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the keys of a recall are strings, as JSON wants them."""
        figures = {
            name: {
                "targets": found.targets,
                "perplexity": found.perplexity,
                "bits": found.bits,
                "recall": {str(k): share for k, share in found.recall.items()},
                "keystroke_savings": found.keystroke_savings,
            }
            for name, found in self.figures.items()
        }
        return {
            "model": self.model,
            "runtime": self.runtime,
            "device": self.device,
            "words": self.words,
            "streams": self.streams,
            "suggestions": SUGGESTIONS,
            "seconds": self.seconds,
            "calibration_error": self.calibration_error,
            "figures": figures,
        }


def evaluate(
    artifact: Artifact,
    runtime: Runtime,
    text: str,
    *,
    words: int | None = None,
    streams: int = 1,
    keystrokes: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model on a text, or on its first `words` words; `runtime` runs `artifact`.

    streams: read the text in so many equal pieces at once, each starting as the text does: faster, and not exact, since
    the words after a cut are predicted without what stood before it. progress: called with how many words are done, of
    how many.
    Raises EvaluationError for a text without words, and for log-probabilities that are not finite or beyond all sense.
    """
    began = time.monotonic()
    if streams < 1 or (words is not None and words < 1):
        raise EvaluationError(f"streams is {streams} and words is {words}; at least 1 is needed")
    encoding = _encode(artifact.tokenizer, text, words)
    N = len(encoding.ids)
    if N == 0:
        raise EvaluationError("the text has no words")
    streams = min(streams, N)
    typist = _Typist(artifact.tokenizer, text, encoding, runtime) if keystrokes else None
    log_probabilities = np.empty(N)
    ranks = np.empty(N, np.int64)
    confidences, right = np.empty(N), np.empty(N, np.bool_)
    done = 0
    for positions, hidden in _hidden_outputs(artifact.start_id, runtime, encoding.ids, streams):
        targets = encoding.ids[positions]
        top_k = min(SUGGESTIONS + _SPECIALS, runtime.vocabulary_size)
        projection = runtime.project(hidden, top_k=top_k, targets=targets)
        log_probabilities[positions] = projection.target_log_probabilities
        ranks[positions] = projection.target_ranks
        confidences[positions] = np.exp(projection.top_log_probabilities[:, 0])
        right[positions] = projection.target_ranks == 1
        if typist is not None:
            typist.read(positions, hidden, projection.top_ids, projection.target_ranks)
        done += len(positions)
        if progress is not None:
            progress(done, N)
    if not np.isfinite(log_probabilities).all():
        first = int(np.flatnonzero(~np.isfinite(log_probabilities))[0])
        raise EvaluationError(
            f"{runtime.name} gave word {first} ({artifact.tokenizer.word_of(int(encoding.ids[first]))!r}) "
            f"the log-probability {log_probabilities[first]}"
        )
    unknown = encoding.ids == artifact.tokenizer.unknown_id
    end = encoding.ids == artifact.tokenizer.end_id
    sets = {ALL: np.ones(N, np.bool_), WITHOUT_UNKNOWN: ~unknown, WITHOUT_SPECIALS: ~(unknown | end)}
    return Evaluation(
        model=artifact.id,
        runtime=runtime.name,
        device=runtime.device,
        words=N,
        streams=streams,
        seconds=time.monotonic() - began,
        calibration_error=_calibration_error(confidences, right),
        figures={
            name: _figures(log_probabilities[chosen], ranks[chosen], typist.savings(chosen) if typist else None)
            for name, chosen in sets.items()
            if chosen.any()
        },
    )


def _figures(log_probabilities: NDArray[np.float64], ranks: Ids, savings: float | None) -> Figures:
    nats = -float(log_probabilities.mean())
    if nats > _MOST_NATS:
        raise EvaluationError(
            f"a word takes {nats:.0f} nats on average, which is no perplexity: the model has diverged"
        )
    return Figures(
        targets=len(ranks),
        perplexity=math.exp(nats),
        bits=nats / math.log(2),
        recall={k: float((ranks <= k).mean()) for k in RECALL_AT},
        keystroke_savings=savings,
    )


def _calibration_error(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidences * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=confidences - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(right))


def _hidden_outputs(start: int | None, runtime: Runtime, ids: Ids, streams: int) -> Iterator[tuple[Ids, Floats]]:
    """Blocks of positions (R,) of the text and the hidden outputs (R, H) that the words there are predicted from."""
    N = len(ids)
    length = -(-N // streams)
    grid = np.arange(length)[:, None] + length * np.arange(streams)[None, :]  # (length, streams) positions
    state: State = runtime.zero_state(streams)
    if start is not None:
        state = runtime.advance(np.full(streams, start, np.int64), state)
    rows = max(1, min(_MOST_ROWS, _MOST_VALUES // runtime.vocabulary_size))
    block = max(1, rows // streams)
    for first in range(0, length, block):
        positions = grid[first : first + block]
        hidden = []
        for at in positions:  # (streams,)
            hidden.append(state[-1])
            # The last pieces may be shorter: beyond the text any word will do.
            state = runtime.advance(ids[np.minimum(at, N - 1)], state)
        within = positions.reshape(-1) < N
        yield positions.reshape(-1)[within], np.concatenate(hidden)[within]


def _encode(tokenizer: Tokenizer, text: str, words: int | None) -> Encoding:
    """The same as `tokenizer.encode`, or its first `words` words; the library never holds a whole book's tokens."""
    pieces: list[Encoding] = []
    start, count = 0, 0
    while start < len(text) and (words is None or count < words):
        end = _cut(text, start + _CHARACTERS_AT_ONCE)
        piece = tokenizer.encode(text[start:end])
        pieces.append(Encoding(piece.ids, piece.starts + start, piece.ends + start))
        count += len(piece.ids)
        start = end
    empty = np.empty(0, np.int64)
    return Encoding(
        np.concatenate([empty, *(piece.ids for piece in pieces)])[:words],
        np.concatenate([empty, *(piece.starts for piece in pieces)])[:words],
        np.concatenate([empty, *(piece.ends for piece in pieces)])[:words],
    )


def _cut(text: str, earliest: int) -> int:
    """Where a text can be cut without changing its words: before a letter or digit that begins a line."""
    at = text.find("\n", earliest) + 1
    while at and at < len(text) and not text[at].isalnum():
        at = text.find("\n", at) + 1
    return at or len(text)


class _Typist:
    """Types a text with and without suggestions, and counts the keys for each word."""

    def __init__(self, tokenizer: Tokenizer, text: str, encoding: Encoding, runtime: Runtime) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._encoding = encoding
        self._runtime = runtime
        specials = [id for id in (tokenizer.unknown_id, tokenizer.end_id) if id is not None]
        self._specials = np.array(specials, np.int64)
        self._line_end = encoding.ids == (-1 if tokenizer.end_id is None else tokenizer.end_id)
        after = (text[end : end + 1] for end in encoding.ends.tolist())
        blanks = _BLANKS_WITHOUT_LINE_END if tokenizer.end_id is None else _BLANKS
        spaces = np.array([bool(blanks.match(character)) for character in after])
        self._without: Ids = np.where(self._line_end, 1, encoding.ends - encoding.starts + spaces)
        self._with: Ids = self._without.copy()
        # Few thousand beginnings make up a language; the tokenizer's own cache is for one word at a time.
        self._beginnings: dict[str, Ids] = {}

    def savings(self, chosen: NDArray[np.bool_]) -> float:
        """1 - keys with / keys without, over the chosen words."""
        return 1 - float(self._with[chosen].sum()) / float(self._without[chosen].sum())

    def read(self, positions: Ids, hidden: Floats, top_ids: Ids, ranks: Ids) -> None:
        """Type the words at `positions` (R,): their hidden outputs (R, H), likeliest words (R, 5) and ranks (R,)."""
        targets = self._encoding.ids[positions]
        likelier = np.arange(top_ids.shape[1]) < ranks[:, None] - 1  # (R, 5)
        passed_over = (np.isin(top_ids, self._specials) & likelier).sum(axis=1)
        typed = ~np.isin(targets, self._specials) & (self._without[positions] > 1)
        at_once = typed & (ranks - passed_over <= SUGGESTIONS)
        self._with[positions[at_once]] = 1
        rest = np.flatnonzero(typed & ~at_once & (self._without[positions] > 2))
        if not len(rest):
            return
        rows = self._runtime.log_probabilities(hidden[rest])
        for row, position in zip(rows, positions[rest].tolist(), strict=True):
            self._with[position] = self._keys(row, position)

    def _keys(self, row: Floats, position: int) -> int:
        """Keys for a word that is not offered before its first letter: row (V,) log-probabilities."""
        target = int(self._encoding.ids[position])
        start, most = int(self._encoding.starts[position]), int(self._without[position])
        log_probability = row[target]
        for typed in range(1, most - 1):
            among = self._words(self._text[start : start + typed])
            at = int(np.searchsorted(among, target))
            if at == len(among) or among[at] != target:
                continue
            values = row[among]
            # Equally likely words stand in the order of their ids.
            ahead = np.count_nonzero(values > log_probability) + np.count_nonzero(values[:at] == log_probability)
            if ahead < SUGGESTIONS:
                return typed + 1
        return most

    def _words(self, beginning: str) -> Ids:
        found = self._beginnings.get(beginning)
        if found is None:
            found = self._beginnings[beginning] = self._tokenizer.prefix_ids(beginning)
        return found
