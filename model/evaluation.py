"""Have a model predict texts word by word, and measure how well it does.

Each text is one sequence: it starts where an empty session stands (`Artifact.start`), and the state is carried from its
first word to its last. Every word is a target, predicted from all words before it; probabilities are over the whole
vocabulary, ``<unk>`` and ``<eos>`` included. Several texts are read side by side, a word of each in one step, which
changes no answer. What is found for them adds up, target by target, to what is found for all of them together.

What the figures mean is said in `model.measurement` and `model.keystrokes`.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model import mixture
from model.adaptation import Adaptation, Cache, after
from model.artifact import Artifact
from model.decoding import rank
from model.keystrokes import Typist
from model.measurement import (
    ALL,
    RECALL_AT,
    WITHOUT_SPECIALS,
    WITHOUT_UNKNOWN,
    Calibration,
    Evaluation,
    Figures,
    Measurement,
    summed,
)
from model.runtimes.base import Floats, Ids, Runtime, State
from model.tokenizer import Encoding, Tokenizer

_MOST_ROWS = 64  # positions projected in one product: more of them gain nothing
_MOST_VALUES = 1 << 23  # ... and at most 32 MiB of log-probabilities
_MOST_NATS = 700  # exp of it is a float64
_CHARACTERS_AT_ONCE = 1 << 20
_BETWEEN_TEXTS = "\x00"  # no white space, and no word

Array = NDArray[np.float64]
T = TypeVar("T")


class EvaluationError(ValueError):
    """A text that has nothing to measure, or a model whose answers are no probabilities."""


def evaluate(
    artifact: Artifact,
    runtime: Runtime,
    texts: Mapping[str, str],
    *,
    words: int | None = None,
    streams: int = 1,
    keystrokes: bool = True,
    adaptation: Adaptation | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model on texts, by name, or on the first `words` words of each; `runtime` runs `artifact`.

    streams: read each text in so many equal pieces at once, each starting as the text does: faster, and not exact,
    since the words after a cut are predicted without what stood before it. adaptation: adapt to each text, or to each
    piece, as a session does. progress: called with how many words are done, of how many.
    Raises EvaluationError for a text without words, and for log-probabilities that are not finite or beyond all sense.
    """
    began = time.monotonic()
    if streams < 1 or (words is not None and words < 1):
        raise EvaluationError(f"streams is {streams} and words is {words}; at least 1 is needed")
    whole, encoding, ends = _encode_all(artifact.tokenizer, texts, words)
    N, first = len(encoding.ids), dict(zip(texts, [0, *ends], strict=False))
    typist = Typist(artifact.tokenizer, whole, encoding) if keystrokes else None
    log_probabilities, said = np.empty(N), np.empty(N)
    ranks, likeliest = np.empty(N, np.int64), np.empty(N, np.int64)
    done = 0
    pieces = _pieces(ends, streams)
    for positions, rows in _ahead(_distributions(artifact.start_id, runtime, encoding.ids, pieces, adaptation)):
        each, targets = np.arange(len(rows)), encoding.ids[positions]
        log_probabilities[positions] = rows[each, targets]
        for position, row, target in zip(positions.tolist(), rows, targets.tolist(), strict=True):
            ranks[position] = rank(row, target)
            likeliest[position] = target if ranks[position] == 1 else row.argmax()
        said[positions] = np.exp(rows[each, likeliest[positions]])
        if typist is not None:
            typist.read(positions, rows, ranks[positions])
        done += len(positions)
        if progress is not None:
            progress(done, N)
    if not np.isfinite(log_probabilities).all():
        at = int(np.flatnonzero(~np.isfinite(log_probabilities))[0])
        name = next(name for name, end in zip(texts, ends, strict=True) if at < end)
        raise EvaluationError(
            f"{runtime.name} gave word {at - first[name]} of {name}, "
            f"{artifact.tokenizer.word_of(int(encoding.ids[at]))!r}, the log-probability {log_probabilities[at]}"
        )

    def measured(chosen: slice) -> Measurement:
        ids, given, came = encoding.ids[chosen], likeliest[chosen], log_probabilities[chosen]
        unknown, end = ids == artifact.tokenizer.unknown_id, ids == artifact.tokenizer.end_id
        sets = {ALL: np.ones(len(ids), np.bool_), WITHOUT_UNKNOWN: ~unknown, WITHOUT_SPECIALS: ~(unknown | end)}
        keys = None if typist is None else (typist.without[chosen], typist.given[chosen])
        wrong = ranks[chosen] > 1
        return Measurement(
            len(ids),
            {
                name: _figures(
                    came[among], ranks[chosen][among], None if keys is None else (keys[0][among], keys[1][among])
                )
                for name, among in sets.items()
                if among.any()
            },
            Calibration.of(said[chosen], ~wrong),
            summed(ids, np.ones(len(ids)), len(artifact.tokenizer)),
            summed(ids, -came, len(artifact.tokenizer)),
            Counter(zip(ids[wrong].tolist(), given[wrong].tolist(), strict=True)),
        )

    return Evaluation(
        model=artifact.id,
        runtime=runtime.name,
        device=runtime.device,
        streams=max(Counter(bisect_right(ends, begin) for begin, _ in pieces).values()),
        seconds=time.monotonic() - began,
        texts={name: measured(slice(first[name], end)) for name, end in zip(texts, ends, strict=True)},
        adaptation=adaptation,
    )


def _figures(log_probabilities: Array, ranks: Ids, keys: tuple[Ids, Ids] | None) -> Figures:
    nats = -float(log_probabilities.sum())
    if nats > _MOST_NATS * len(ranks):
        raise EvaluationError(
            f"a word takes {nats / len(ranks):.0f} nats on average, which is no perplexity: the model has diverged"
        )
    hits = {k: int((ranks <= k).sum()) for k in RECALL_AT}
    return Figures(len(ranks), nats, hits, None if keys is None else (int(keys[0].sum()), int(keys[1].sum())))


def _pieces(ends: Sequence[int], streams: int) -> list[tuple[int, int]]:
    """Where the pieces of the texts that end at `ends` begin and end; the longest ones first."""
    pieces = []
    for first, end in zip([0, *ends], ends, strict=False):
        length = -(-(end - first) // min(streams, end - first))
        pieces += [(begin, min(begin + length, end)) for begin in range(first, end, length)]
    return sorted(pieces, key=lambda piece: piece[0] - piece[1])


def _ahead(blocks: Iterator[T]) -> Iterator[T]:
    """The blocks; each is computed, in a thread of its own, while whoever takes them is busy with the one before it."""
    with ThreadPoolExecutor(1, "nextword-evaluation") as computing:
        coming = computing.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = computing.submit(next, blocks, None)
            yield block


def _distributions(
    start: int | None,
    runtime: Runtime,
    ids: Ids,
    pieces: Sequence[tuple[int, int]],
    adaptation: Adaptation | None,
) -> Iterator[tuple[Ids, Floats]]:
    """Blocks of positions (R,) of the ids, and the log-probabilities (R, V) of all words there.

    Whole ones: a typist looks at most of them, and whatever else is asked for is soon found in them.
    """
    for positions, hidden, caches in _hidden_outputs(start, runtime, ids, pieces, adaptation):
        yield positions, mixture.log_probabilities(runtime, hidden, caches)


def _hidden_outputs(
    start: int | None,
    runtime: Runtime,
    ids: Ids,
    pieces: Sequence[tuple[int, int]],
    adaptation: Adaptation | None,
) -> Iterator[tuple[Ids, Floats, list[Cache | None]]]:
    """Blocks of positions (R,) of the ids, at most `_MOST_ROWS`, and the hidden outputs (R, H) and the caches that the
    words there are predicted from.
    """
    begins = np.array([begin for begin, _ in pieces], np.int64)
    lengths = np.array([end - begin for begin, end in pieces], np.int64)
    at, live = 0, len(pieces)
    state: State = runtime.zero_state(live)
    if start is not None:
        state = runtime.advance(np.full(live, start, np.int64), state)
    current: list[Cache | None] = [None if adaptation is None else Cache(adaptation) for _ in pieces]
    rows = max(1, min(_MOST_ROWS, _MOST_VALUES // runtime.vocabulary_size))
    while live:
        positions, hidden, caches = [], [], list[Cache | None]()
        for _ in range(max(1, rows // live)):
            positions.append(begins[:live] + at)
            hidden.append(state[-1])
            caches += current[:live]
            if adaptation is not None:
                current = after(current[:live], state[-1], ids[positions[-1]].tolist())
            at += 1
            live = int((lengths > at).sum())
            if not live:
                break
            # The pieces that are over stand last.
            state = runtime.advance(ids[positions[-1][:live]], tuple(tensor[:live] for tensor in state))
        block = np.concatenate(positions), np.concatenate(hidden)
        for first in range(0, len(caches), rows):
            part = slice(first, first + rows)
            yield block[0][part], block[1][part], caches[part]


def _encode_all(tokenizer: Tokenizer, texts: Mapping[str, str], words: int | None) -> tuple[str, Encoding, list[int]]:
    """The texts as one, its words, and how many of them there are up to the end of each text.

    Raises EvaluationError for a text without words.
    """
    found: list[Encoding] = []
    ends: list[int] = []
    base = 0
    for name, text in texts.items():
        encoding = _encode(tokenizer, text, words)
        if not len(encoding.ids):
            raise EvaluationError(f"{name}: the text has no words")
        found.append(Encoding(encoding.ids, encoding.starts + base, encoding.ends + base))
        ends.append(len(encoding.ids) + (ends[-1] if ends else 0))
        base += len(text) + len(_BETWEEN_TEXTS)
    if not found:
        raise EvaluationError("there is no text")
    return _BETWEEN_TEXTS.join(texts.values()), _concatenated(found), ends


def _concatenated(pieces: Sequence[Encoding]) -> Encoding:
    empty = np.empty(0, np.int64)
    columns = zip(*((piece.ids, piece.starts, piece.ends) for piece in pieces), strict=True)
    ids, starts, ends = (np.concatenate(column) for column in columns) if pieces else (empty, empty, empty)
    return Encoding(ids, starts, ends)


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
    whole = _concatenated(pieces)
    return Encoding(whole.ids[:words], whole.starts[:words], whole.ends[:words])


def _cut(text: str, earliest: int) -> int:
    """Where a text can be cut without changing its words: before a letter or digit that begins a line."""
    at = text.find("\n", earliest) + 1
    while at and at < len(text) and not text[at].isalnum():
        at = text.find("\n", at) + 1
    return at or len(text)
