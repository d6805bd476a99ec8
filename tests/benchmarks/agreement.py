"""The agreement benchmark: how far the CPU runtimes are from the Chainer reference, on a text.

The text is read in `STREAMS` pieces at once, each from where a text begins, by every runtime along its own states.
Whole rows of log-probabilities are compared at every position.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import model.runtimes
from model.artifact import Artifact
from model.runtimes.base import Floats, Ids, Runtime, State
from tests.benchmarks import models, report
from tests.benchmarks.harness import BenchmarkError

STREAMS = 64
REFERENCE, FLOAT32, INT8 = "chainer", "cpu-float32", "cpu"
#: Words of one stream that are also read alone.
ALONE = 200


@dataclass(slots=True)
class Difference:
    """|difference in log-probability| from the reference, over some of its values."""

    largest: float = 0.0
    total: float = 0.0
    count: int = 0

    def add(self, differences: Floats) -> None:
        self.largest = max(self.largest, float(differences.max(initial=0)))
        self.total += float(differences.sum(dtype=np.float64))
        self.count += differences.size

    @property
    def mean(self) -> float:
        return self.total / self.count


@dataclass(slots=True)
class Reader:
    """A runtime, where it stands in the text, and what it has found."""

    runtime: Runtime
    state: State
    rows: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    targets: Difference = field(default_factory=Difference)
    whole_rows: Difference = field(default_factory=Difference)
    log_likelihood: float = 0.0
    among_three: int = 0
    words: int = 0

    def expect(self, within: NDArray[np.bool_], words: Ids) -> None:
        """What comes next, in the streams that are not over (S,): the words that do, of those (R,)."""
        self.rows = self.runtime.log_probabilities(self.state[-1][within])  # (R, V)
        of_words = self.rows[np.arange(len(words)), words]
        self.log_likelihood += float(of_words.sum(dtype=np.float64))
        ahead = (self.rows > of_words[:, None]).sum(axis=1)
        # Only where it decides: words that are as likely stand in the order of their ids.
        for row in np.flatnonzero(ahead < 3):
            ahead[row] += int((self.rows[row, : words[row]] == of_words[row]).sum())
        self.among_three += int((ahead < 3).sum())
        self.words += len(words)

    def compare(self, reference: Reader, words: Ids) -> None:
        differences = np.abs(self.rows - reference.rows)
        self.whole_rows.add(differences)
        self.targets.add(differences[np.arange(len(words)), words])

    @property
    def perplexity(self) -> float:
        return math.exp(-self.log_likelihood / self.words)

    @property
    def recall(self) -> float:
        """Recall@3 in percent."""
        return 100 * self.among_three / self.words


def grid(ids: Ids, streams: int) -> Ids:
    """ids (N,) in `streams` pieces: (ceil(N / streams), streams), -1 beyond the end."""
    length = -(-len(ids) // streams)
    padded = np.full(length * streams, -1, np.int64)
    padded[: len(ids)] = ids
    return padded.reshape(streams, length).T.copy()


def read(artifact: Artifact, ids: Ids) -> tuple[dict[str, Reader], dict[str, float]]:
    """Every runtime along the text; and the largest difference between a stream among the others and alone."""
    runtimes = {name: model.runtimes.load(artifact, name) for name in (REFERENCE, FLOAT32, INT8)}
    steps = grid(ids, min(STREAMS, len(ids)))
    streams = steps.shape[1]
    readers = {name: Reader(runtime, _start(artifact, runtime, streams)) for name, runtime in runtimes.items()}
    alone = {name: _start(artifact, runtimes[name], 1) for name in (FLOAT32, INT8)}
    apart = dict.fromkeys(alone, 0.0)
    for number, words in enumerate(steps):
        within = words >= 0
        for name, reader in readers.items():
            reader.expect(within, words[within])
            if name in alone and number < ALONE:
                row = runtimes[name].log_probabilities(alone[name][-1])[0]
                apart[name] = max(apart[name], float(np.abs(row - reader.rows[0]).max()))
                alone[name] = runtimes[name].advance(words[:1], alone[name])
            if name != REFERENCE:
                reader.compare(readers[REFERENCE], words[within])
        for reader in readers.values():
            reader.state = reader.runtime.advance(np.maximum(words, 0), reader.state)
    return readers, apart


def _start(artifact: Artifact, runtime: Runtime, streams: int) -> State:
    state = runtime.zero_state(streams)
    if artifact.start_id is not None:
        state = runtime.advance(np.full(streams, artifact.start_id, np.int64), state)
    return state


def aims(readers: dict[str, Reader]) -> list[report.Aim]:
    reference, float32, int8 = (readers[name] for name in (REFERENCE, FLOAT32, INT8))
    more = 100 * (int8.perplexity / reference.perplexity - 1)
    fewer = reference.recall - int8.recall
    largest = float32.whole_rows.largest
    return [
        report.Aim("cpu-float32, largest |difference| of any word's log-probability", largest, 1e-4, least=False),
        report.Aim("cpu (int8), perplexity above the reference's", more, 0.3, least=False, unit=" %"),
        report.Aim("cpu (int8), recall@3 below the reference's", fewer, 0.1, least=False, unit=" points"),
    ]


def run(command: str, *, model: Path | None, data: Path | None, words: int) -> str:
    """Measure, and write the section. Raises BenchmarkError without a text."""
    if data is None:
        raise BenchmarkError("--data FILE is needed: a text that the model was not trained on")
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        chosen = models.shipped(Path(directory), model)
        artifact = Artifact.load(chosen.path)
    # A few words more than are wanted, whatever the words are.
    with data.open(encoding="utf-8", errors="replace") as file:
        text = file.read(words * 40)
    ids = artifact.tokenizer.encode(text).ids[:words]
    if not len(ids):
        raise BenchmarkError(f"{data} has no words")
    where = report.circumstances(command, ("numpy", "onnxruntime", "chainer"), timed=False)
    readers, apart = read(artifact, ids)
    reference = readers[REFERENCE]
    rows = []
    for name, reader in readers.items():
        cells = [name, f"{reader.perplexity:.3f}", f"{reader.recall:.3f}"]
        if name == REFERENCE:
            rows.append([*cells, *[""] * 7])
            continue
        differences = (reader.targets, reader.whole_rows)
        more = 100 * (reader.perplexity / reference.perplexity - 1)
        cells += [f"{more:+.4f} %", f"{reader.recall - reference.recall:+.3f}"]
        cells += [report.number(value) for one in differences for value in (one.largest, one.mean)]
        rows.append([*cells, report.number(apart[name])])
    head = ["runtime", "perplexity", "recall@3, %", "perplexity, change", "recall@3, points"]
    head += ["target words: largest", "mean", "whole rows: largest", "mean", "alone or among others"]
    return "\n".join(
        [
            "## Agreement with the Chainer reference\n",
            where,
            f"- {chosen.description}",
            f"\n{len(ids):,} words of {data.name} in {min(STREAMS, len(ids))} pieces at once. "
            "Differences are of natural log-probabilities; whole rows: of every word at every position. "
            f"Alone or among others: the first {ALONE} words of one piece, read beside the others and read alone.\n",
            *(aim.line() for aim in aims(readers)),
            f"\n{report.table(head, rows)}",
        ]
    )
