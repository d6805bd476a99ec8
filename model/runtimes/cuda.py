"""The CUDA runtime: our own kernels and cuBLAS, each size of batch recorded once and launched as one.

A step is one launch: the words that are consumed and the rows that are asked about go to the device in one copy, and
what may come next comes back in one. Matrices and what they are multiplied by are float16 with float32 sums, or float32
("cuda-float32"); states, gates and logits are float32. What a sequence gets does not depend on the others of its batch:
a batch is filled up to the next power of two with rows that nobody reads.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from model.cuda.device import Device
from model.cuda.network import NO_MOVES, Answers, CudaNetwork, Moves, Source
from model.cuda.recordings import Recordings
from model.runtimes.answers import Fetched, joined, likeliest, unpacked, with_words
from model.runtimes.base import DeviceMemoryError, Floats, Ids, Projection, State, SubsetProjection, WordsProjection
from model.runtimes.cuda_copies import CudaCopies
from model.runtimes.cuda_slab import CudaSlab
from model.shapes import state_tensors

if TYPE_CHECKING:
    from model.artifact import Artifact

#: The most sequences of one launch; larger batches are several.
MOST = 4096
#: The widths of top-k that are recorded; a wider one is found on the host.
WIDTHS = (16, 128)
#: Rows whose whole distributions are fetched at once.
WHOLE = 64

T = TypeVar("T")


_NOBODY = NO_MOVES.rows


class CudaRuntime:
    """`model.runtimes.base.Runtime` on a CUDA device, with states that stay there (`slab`).

    Methods may be called from several threads; one waits for the other. Raises DeviceMemoryError where the model does
    not fit, ValueError for weights that float16 cannot hold.
    """

    def __init__(
        self, artifact: Artifact, device: Device, *, float16: bool = True, most: int = MOST, name: str = "cuda:0"
    ) -> None:
        self.name = "cuda" if float16 else "cuda-float32"
        self.device = name
        self.threads = 1
        self.most = most
        self.vocabulary_size = int(artifact.network["vocabulary_size"])
        self.state_tensors = state_tensors(artifact.network)
        self.on = device
        self._lock = threading.RLock()
        self._recordings = Recordings(device)
        self._narrow = min(WIDTHS[0], self.vocabulary_size)
        self._slabs = itertools.count()
        self.compute(lambda: self._allocate(artifact, float16=float16))
        self._pinned_answers = device.pinned(4 * most * (2 * WIDTHS[-1] + 4)).view(np.int32)

    def _allocate(self, artifact: Artifact, *, float16: bool) -> None:
        xp, most = self.on.xp, self.most
        self.network = CudaNetwork(
            self.on, artifact.network, artifact.weights, float16=float16, most=most, top_k=WIDTHS[-1]
        )
        self.copies = CudaCopies(self.on, self.network, self.state_tensors, most)
        self._layouts: dict[tuple[int, int], Answers] = {}
        self._answers = xp.zeros(most * (2 * WIDTHS[-1] + 4), np.int32)
        self._all_words = xp.asarray(np.arange(self.vocabulary_size, dtype=np.int32))

    def compute(self, work: Callable[[], T]) -> T:
        """`work`, in the device's own queue. Where memory runs out, what is held for later is given back first.

        Raises DeviceMemoryError where that is not enough.
        """
        with self._lock, self.on.running():
            try:
                return work()
            except self.on.memory_errors:
                self.on.release()
            try:
                return work()
            except self.on.memory_errors as error:
                raise DeviceMemoryError(f"{self.device} has no memory left: {error}") from error

    def try_out(self) -> None:
        """Compute: plainly, recorded and replayed. Raises whatever the device does; ArithmeticError for NaN."""
        ids, state = np.zeros(1, np.int64), self.zero_state(1)
        for _ in range(3):
            state = self.advance(ids, state)
            projection = self.project(state[-1], top_k=1, targets=ids)
            if not np.isfinite(projection.target_log_probabilities).all():
                raise ArithmeticError("log-probabilities that are not finite")

    def slab(self, slots: int) -> CudaSlab:
        """Room for so many states, as many of them on the device as fit into what is free of its memory."""
        return self.compute(lambda: CudaSlab(self, slots, f"slab {next(self._slabs)}"))

    def zero_state(self, batch: int) -> State:
        return tuple(np.zeros((batch, tensor.size), np.float32) for tensor in self.state_tensors)

    def advance(self, ids: Ids, state: State) -> State:
        new = self.zero_state(len(ids))

        def work() -> None:
            for first in range(0, len(ids), self.copies.staged):
                piece = slice(first, first + self.copies.staged)
                rows = np.arange(len(ids[piece]))
                self.copies.write_rows(self.copies.staging, rows, tuple(tensor[piece] for tensor in state))
                self.advance_rows(self.copies.staging, Moves(ids[piece], rows, rows))
                for tensor, values in zip(new, self.copies.read_rows(self.copies.staging, rows), strict=True):
                    tensor[piece] = values

        self.compute(work)
        return new

    def project(self, hidden: Floats, *, top_k: int, targets: Ids | None = None) -> Projection:
        def work() -> Projection:
            parts = []
            for first in range(0, max(len(hidden), 1), self.copies.staged):
                piece = slice(first, first + self.copies.staged)
                rows = self.copies.write_hidden(hidden[piece])
                parts.append(
                    self.project_rows(self.copies.hidden, rows, top_k, None if targets is None else targets[piece])
                )
            return joined(parts)

        return self.compute(work)

    def project_subset(self, hidden: Floats, ids: Ids, *, top_k: int) -> SubsetProjection:
        return likeliest(self.compute(lambda: self._whole(hidden, ids)), ids, top_k)

    def project_words(self, hidden: Floats, words: Ids, *, top_k: int) -> WordsProjection:
        def work() -> WordsProjection:
            parts = []
            for first in range(0, max(len(hidden), 1), self.copies.staged):
                piece = slice(first, first + self.copies.staged)
                rows = self.copies.write_hidden(hidden[piece])
                parts.append(self.words_rows(self.copies.hidden, rows, words[piece], top_k))
            return joined(parts)

        return self.compute(work)

    def log_probabilities(self, hidden: Floats) -> Floats:
        return self.compute(lambda: self._whole(hidden, None))

    def _whole(self, hidden: Floats, ids: Ids | None) -> Floats:
        pieces = [
            self.whole_rows(
                self.copies.hidden, self.copies.write_hidden(hidden[first : first + self.copies.staged]), ids
            )
            for first in range(0, len(hidden), self.copies.staged)
        ]
        N = self.vocabulary_size if ids is None else len(ids)
        return np.concatenate(pieces) if pieces else np.empty((0, N), np.float32)

    # ---- On rows of the device, within `compute`. Rows and ids are (B,) int64; a row -1 is the zero state. -----------

    def advance_rows(self, source: Source, moves: Moves) -> None:
        """At most `most` sequences, in states whose last row is nobody's."""
        self._step(source, moves, _NOBODY, _NOBODY, 0)

    def project_rows(
        self, source: Source, rows: Ids, top_k: int, targets: Ids | None, moves: Moves = NO_MOVES
    ) -> Projection:
        """What may come after the outputs in these rows, once the moves, at most `most`, are made in the same array.

        Only what is recorded takes moves.
        """
        width = min(top_k, self.vocabulary_size)
        if not self.recorded(top_k, 0):
            return self._wide(source, rows, width, targets)
        parts = []
        for first in range(0, max(len(rows), 1), self.most):
            piece = slice(first, first + self.most)
            wanted = np.full(len(rows[piece]), -1) if targets is None else targets[piece]
            fetched = self._step(source, moves if first == 0 else NO_MOVES, rows[piece], wanted, self._width(width))
            parts.append(unpacked(fetched, width, scored=targets is not None))
        return joined(parts)

    def words_rows(self, source: Source, rows: Ids, words: Ids, top_k: int, moves: Moves = NO_MOVES) -> WordsProjection:
        """As `project_rows`, and the log-probabilities of words (R, N)."""
        N = words.shape[1]
        if N <= 1:
            projection = self.project_rows(source, rows, top_k, words[:, 0] if N else None, moves)
            return with_words(projection, projection.target_log_probabilities.reshape(words.shape))
        if not self.recorded(top_k, 0):
            named = self._named_rows(source, rows, words)
            return with_words(self.project_rows(source, rows, top_k, None), named)
        width, parts = min(top_k, self.vocabulary_size), []
        for piece, fetched in self._logits_of(source, rows, self._width(width)):
            projection = unpacked(fetched, width, scored=False)
            parts.append(with_words(projection, self._named(fetched, words[piece])))
        return joined(parts)

    def recorded(self, top_k: int, named: int) -> bool:
        """Whether so many likeliest words, and so many that are named, are found by one launch."""
        return min(top_k, self.vocabulary_size) <= WIDTHS[-1] and named <= 1

    def _step(self, source: Source, moves: Moves, rows: Ids, targets: Ids, K: int) -> Fetched:
        """Make the moves and, if anything is asked about, wait for the K likeliest words after `rows` and for targets.

        One launch, with one copy in and one out; everything else that a launch does is the same each time.
        """
        n, r = self._filled(len(moves.ids)), self._filled(len(rows))
        states, fetched = source.array, self._pinned_answers[:0]
        if n + r:
            host, inputs, columns = self.copies.prepare(
                *((n, moves.ids, 0), (n, moves.sources, -1), (n, moves.rows, len(states) - 1)),
                *((r, rows, -1), (r, targets, -1)),
            )
            words, origins, places, asked, wanted = columns
            answers = self._answers_for(r, K) if r else None
            if answers is not None:
                fetched = self._pinned_answers[: len(answers.whole)]

            def work() -> None:
                self.on.copy_in(inputs, host)
                if n:
                    self.network.advance(n, words, origins, places, states)
                if answers is not None:
                    self.network.project(r, K, source, asked, wanted, answers)
                    self.on.copy_out(fetched, answers.whole)

            self._recordings.run((source.key, n, r, K), work)
            done = self.copies.prepared_sent()
            if r:
                done()
        return Fetched(fetched, r, K, len(rows))

    def _width(self, width: int) -> int:
        """Of what is recorded, the least that holds as many words."""
        return self._narrow if width <= self._narrow else min(WIDTHS[-1], self.vocabulary_size)

    def whole_rows(self, source: Source, rows: Ids, ids: Ids | None) -> Floats:
        """(R, N) log-probabilities of these words, or of all."""
        return self._named_rows(source, rows, self._all_words if ids is None else ids)

    def _named_rows(self, source: Source, rows: Ids, words: Ids) -> Floats:
        """(R, N) log-probabilities of words (R, N), or (N,) for all rows."""
        whole = np.empty((len(rows), words.shape[-1]), np.float32)
        for piece, fetched in self._logits_of(source, rows, self._narrow):
            whole[piece] = self._named(fetched, words if words.ndim == 1 else words[piece])
        return whole

    def _logits_of(self, source: Source, rows: Ids, K: int) -> Iterator[tuple[slice, Fetched]]:
        """A few rows at a time, whose logits are there until the next: which, and what was fetched of them."""
        # A batch that is filled up must not be more than the logits have room for.
        step = 1 << (min(WHOLE, self.network.block, self.most).bit_length() - 1)
        for first in range(0, max(len(rows), 1), step):
            piece = slice(first, first + step)
            yield piece, self._step(source, NO_MOVES, rows[piece], np.full(len(rows[piece]), -1), K)

    def _named(self, fetched: Fetched, words: Ids) -> Floats:
        """(R, N), of the rows whose logits are there."""
        count, N = fetched.R, words.shape[-1]
        if count * N == 0:
            return np.empty((count, N), np.float32)
        out = self.on.xp.empty((count, N), np.float32)
        there = words if words is self._all_words else self.on.xp.asarray(words.astype(np.int32))
        self.network.log_probabilities(count, there, self._answers_for(fetched.n, fetched.K).normalisers, out)
        values = self.on.pinned(out.nbytes).view(np.float32)
        self.on.copy_out(values, out)
        self.on.mark()()
        return values.reshape(out.shape)

    def _wide(self, source: Source, rows: Ids, width: int, targets: Ids | None) -> Projection:
        """More words than are recorded: found on the host, a few rows at a time."""
        parts = []
        for first in range(0, max(len(rows), 1), WHOLE):
            piece = slice(first, first + WHOLE)
            narrow = self.project_rows(source, rows[piece], 1, None if targets is None else targets[piece])
            whole = self.whole_rows(source, rows[piece], None)
            top = np.argsort(-whole, axis=1, kind="stable")[:, :width]
            values = np.take_along_axis(whole, top, axis=1)
            parts.append(replace(narrow, top_ids=top, top_log_probabilities=values))
        return joined(parts)

    def _answers_for(self, n: int, K: int) -> Answers:
        if (n, K) not in self._layouts:
            self._layouts[n, K] = Answers.within(self._answers, n, K)
        return self._layouts[n, K]

    def _filled(self, count: int) -> int:
        """The size of the recorded batch for so many."""
        return 1 << (count - 1).bit_length() if count else 0
