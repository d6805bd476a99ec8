"""The CUDA runtime: our own kernels and cuBLAS, each size of batch recorded once and launched as one.

Matrices and what they are multiplied by are float16 with float32 sums, or float32 ("cuda-float32"); states, gates and
logits are float32. What a sequence gets does not depend on the others of its batch: a batch is filled up to the next
power of two with rows that nobody reads.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from model.cuda.device import Array, Device
from model.cuda.network import Answers, CudaNetwork, Source
from model.cuda.recordings import Recordings
from model.runtimes.answers import Fetched, joined, likeliest, unpacked, with_words
from model.runtimes.base import DeviceMemoryError, Floats, Ids, Projection, State, SubsetProjection, WordsProjection
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
#: States that come from or go to the host at once.
STAGED = 256
#: Batches whose words may be on their way to the device at the same time.
_AHEAD = 8

T = TypeVar("T")


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
        self.most = most
        self.vocabulary_size = int(artifact.network["vocabulary_size"])
        self.state_tensors = state_tensors(artifact.network)
        self.on = device
        self._lock = threading.RLock()
        self._recordings = Recordings(device)
        self._staged = min(STAGED, most)
        self._narrow = min(WIDTHS[0], self.vocabulary_size)
        self._slabs = itertools.count()
        self.compute(lambda: self._allocate(artifact, float16=float16))
        self._pinned_inputs = deque(device.pinned(12 * most).view(np.int32) for _ in range(_AHEAD))
        self._inputs_sent: deque[Callable[[], None]] = deque()
        self._pinned_answers = device.pinned(4 * most * (2 * WIDTHS[-1] + 4)).view(np.int32)
        self._pinned_states = device.pinned(4 * self._staged * self.network.stride).view(np.float32)
        self._states_sent: Callable[[], None] = lambda: None

    def _allocate(self, artifact: Artifact, *, float16: bool) -> None:
        xp, most = self.on.xp, self.most
        self.network = CudaNetwork(self.on, artifact.network, artifact.weights, float16=float16, most=most)
        stride, H = self.network.stride, self.network.hidden_size
        # One row more than sequences: what fills a batch up is written there.
        self._staging = xp.zeros((self._staged + 1, stride), np.float32)
        self._hidden = Source("hidden", xp.zeros((self._staged, H), np.float32), H, 0)
        self._inputs = xp.zeros(3 * most, np.int32)
        self._input_views: dict[tuple[int, int], tuple[Array, list[Array]]] = {}
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
            for first in range(0, len(ids), self._staged):
                piece = slice(first, first + self._staged)
                rows = np.arange(len(ids[piece]))
                self.write_rows("staging", self._staging, rows, tuple(tensor[piece] for tensor in state))
                self.advance_rows("staging", self._staging, ids[piece], rows, rows)
                for tensor, values in zip(new, self.read_rows(self._staging, rows), strict=True):
                    tensor[piece] = values

        self.compute(work)
        return new

    def project(self, hidden: Floats, *, top_k: int, targets: Ids | None = None) -> Projection:
        def work() -> Projection:
            parts = []
            for first in range(0, max(len(hidden), 1), self._staged):
                piece = slice(first, first + self._staged)
                rows = self._send_hidden(hidden[piece])
                parts.append(self.project_rows(self._hidden, rows, top_k, None if targets is None else targets[piece]))
            return joined(parts)

        return self.compute(work)

    def project_subset(self, hidden: Floats, ids: Ids, *, top_k: int) -> SubsetProjection:
        return likeliest(self.compute(lambda: self._whole(hidden, ids)), ids, top_k)

    def project_words(self, hidden: Floats, words: Ids, *, top_k: int) -> WordsProjection:
        def work() -> WordsProjection:
            parts = []
            for first in range(0, max(len(hidden), 1), self._staged):
                piece = slice(first, first + self._staged)
                rows = self._send_hidden(hidden[piece])
                parts.append(self.words_rows(self._hidden, rows, words[piece], top_k))
            return joined(parts)

        return self.compute(work)

    def log_probabilities(self, hidden: Floats) -> Floats:
        return self.compute(lambda: self._whole(hidden, None))

    def _whole(self, hidden: Floats, ids: Ids | None) -> Floats:
        pieces = [
            self.whole_rows(self._hidden, self._send_hidden(hidden[first : first + self._staged]), ids)
            for first in range(0, len(hidden), self._staged)
        ]
        N = self.vocabulary_size if ids is None else len(ids)
        return np.concatenate(pieces) if pieces else np.empty((0, N), np.float32)

    # ---- On rows of the device, within `compute`. Rows and ids are (B,) int64; a row -1 is the zero state. -----------

    def advance_rows(self, key: str, states: Array, ids: Ids, sources: Ids, rows: Ids) -> None:
        """`CudaNetwork.advance` of at most `most` sequences. `key` names `states`, whose last row is nobody's."""
        n = self._filled(len(ids))
        words, origins, places = self._send(n, (ids, 0), (sources, -1), (rows, len(states) - 1))
        self._recordings.run(("advance", key, n), lambda: self.network.advance(n, words, origins, places, states))

    def project_rows(self, source: Source, rows: Ids, top_k: int, targets: Ids | None) -> Projection:
        width = min(top_k, self.vocabulary_size)
        if width > WIDTHS[-1]:
            return self._wide(source, rows, width, targets)
        K = self._narrow if width <= self._narrow else min(WIDTHS[-1], self.vocabulary_size)
        parts = []
        for first in range(0, max(len(rows), 1), self.most):
            piece = slice(first, first + self.most)
            wanted = np.full(len(rows[piece]), -1) if targets is None else targets[piece]
            parts.append(unpacked(self._project(source, rows[piece], K, wanted), width, scored=targets is not None))
        return joined(parts)

    def _project(self, source: Source, rows: Ids, K: int, targets: Ids) -> Fetched:
        if len(rows) == 0:
            return Fetched(self._pinned_answers[:0], 0, K, 0)
        n = self._filled(len(rows))
        answers = self._answers_for(n, K)
        place, wanted = self._send(n, (rows, -1), (targets, -1))
        fetched = self._pinned_answers[: len(answers.whole)]

        def work() -> None:
            self.network.project(n, K, source, place, wanted, answers)
            self.on.copy_out(fetched, answers.whole)

        self._recordings.run(("project", source.key, n, K), work)
        self.on.mark()()
        return Fetched(fetched, n, K, len(rows))

    def words_rows(self, source: Source, rows: Ids, words: Ids, top_k: int) -> WordsProjection:
        """As `project_rows`, and the log-probabilities of words (R, N)."""
        if words.shape[1] == 1:
            one = self.project_rows(source, rows, top_k, words[:, 0])
            return with_words(one, one.target_log_probabilities[:, None])
        named = np.empty(words.shape, np.float32)
        for piece, n in self._logits_of(source, rows):
            of_piece = self.on.xp.asarray(words[piece].astype(np.int32))
            named[piece] = self._named(len(rows[piece]), n, of_piece, words.shape[1])
        return with_words(self.project_rows(source, rows, top_k, None), named)

    def whole_rows(self, source: Source, rows: Ids, ids: Ids | None) -> Floats:
        """(R, N) log-probabilities of these words, or of all."""
        N = self.vocabulary_size if ids is None else len(ids)
        words = self._all_words if ids is None else self.on.xp.asarray(ids.astype(np.int32))
        whole = np.empty((len(rows), N), np.float32)
        for piece, n in self._logits_of(source, rows):
            whole[piece] = self._named(len(rows[piece]), n, words, N)
        return whole

    def _logits_of(self, source: Source, rows: Ids) -> Iterator[tuple[slice, int]]:
        """A few rows at a time, whose logits are there until the next: which, and the size of their batch."""
        # A batch that is filled up must not be more than the logits have room for.
        step = 1 << (min(WHOLE, self.network.block, self.most).bit_length() - 1)
        for first in range(0, len(rows), step):
            piece = slice(first, first + step)
            fetched = self._project(source, rows[piece], self._narrow, np.full(len(rows[piece]), -1))
            yield piece, fetched.n

    def _named(self, count: int, n: int, words: Array, N: int) -> Floats:
        if N == 0:
            return np.empty((count, 0), np.float32)
        out = self.on.xp.empty((count, N), np.float32)
        self.network.log_probabilities(count, words, self._answers_for(n, self._narrow).normalisers, out)
        fetched = self.on.pinned(out.nbytes).view(np.float32)
        self.on.copy_out(fetched, out)
        self.on.mark()()
        return fetched.reshape(out.shape)

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

    def read_rows(self, states: Array, rows: Ids) -> State:
        """Copies of whole states."""
        stride = self.network.stride
        values = self._fetch(states, rows, 0, stride)
        columns = zip(self.network.columns, self.state_tensors, strict=True)
        return tuple(np.ascontiguousarray(values[:, first : first + tensor.size]) for first, tensor in columns)

    def read_hidden(self, states: Array, rows: Ids) -> Floats:
        return self._fetch(states, rows, self.network.columns[-1], self.network.hidden_size)

    def _fetch(self, states: Array, rows: Ids, column: int, size: int) -> Floats:
        values = np.empty((len(rows), size), np.float32)
        flat = self._staging.reshape(-1)
        for first in range(0, len(rows), self._staged):
            n = len(rows[first : first + self._staged])
            if states is self._staging:
                # Rows 0, 1, ... of it, where nothing needs to be gathered.
                out = self._staging[:n].reshape(-1)
            else:
                (place,) = self._send(n, (rows[first : first + n], -1))
                out = flat[: n * size]
                self.network.read_rows(n, out, states, column, size, place)
            self._states_sent()
            fetched = self._pinned_states[: n * size]
            self.on.copy_out(fetched, out)
            self.on.mark()()
            values[first : first + n] = fetched.reshape(n, size)
        return values

    def write_rows(self, key: str, states: Array, rows: Ids, state: State) -> None:
        """Whole states into these rows."""
        stride = self.network.stride
        for first in range(0, len(rows), self._staged):
            n = len(rows[first : first + self._staged])
            self._states_sent()
            values = self._pinned_states[: n * stride]
            table = values.reshape(n, stride)
            table[:] = 0
            for column, tensor in zip(self.network.columns, state, strict=True):
                table[:, column : column + tensor.shape[1]] = tensor[first : first + n]
            self.on.copy_in(self._staging[:n], values)
            self._states_sent = self.on.mark()
            if key != "staging":
                (place,) = self._send(n, (rows[first : first + n], -1))
                self.network.write_rows(n, states, self._staging, place)

    def _send_hidden(self, hidden: Floats) -> Ids:
        """Put these (R, H) where `_hidden` says; returns their rows."""
        if len(hidden) == 0:
            return np.empty(0, np.int64)
        self._states_sent()
        values = self._pinned_states[: hidden.size]
        values.reshape(hidden.shape)[:] = hidden
        self.on.copy_in(self._hidden.array[: len(hidden)], values)
        self._states_sent = self.on.mark()
        return np.arange(len(hidden))

    def _send(self, n: int, *columns: tuple[Ids, int]) -> list[Array]:
        """Send (B,) integers, each filled up to n with a number, in one copy; returns where they are, (n,) each."""
        if len(self._inputs_sent) == _AHEAD:
            self._inputs_sent.popleft()()
        size = n * len(columns)
        host = self._pinned_inputs[0]
        self._pinned_inputs.rotate(-1)
        for place, (values, fill) in enumerate(columns):
            filled = place * n + len(values)
            host[place * n : filled] = values
            if len(values) < n:
                host[filled : (place + 1) * n] = fill
        whole, parts = self._inputs_for(n, len(columns))
        self.on.copy_in(whole, host[:size])
        self._inputs_sent.append(self.on.mark())
        return parts

    def _inputs_for(self, n: int, columns: int) -> tuple[Array, list[Array]]:
        """Where so many columns go, and each of them. Views of an array on the device take longer than those here."""
        if (n, columns) not in self._input_views:
            parts = [self._inputs[place * n : (place + 1) * n] for place in range(columns)]
            self._input_views[n, columns] = self._inputs[: n * columns], parts
        return self._input_views[n, columns]

    def _answers_for(self, n: int, K: int) -> Answers:
        if (n, K) not in self._layouts:
            self._layouts[n, K] = Answers.within(self._answers, n, K)
        return self._layouts[n, K]

    def _filled(self, count: int) -> int:
        """The size of the recorded batch for so many."""
        return 1 << max(count - 1, 0).bit_length()
