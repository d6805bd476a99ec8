"""The CPU runtime: ONNX Runtime on graphs made straight from a model's weights, in int8 or float32.

No export tool and no Chainer stand between: see `model.runtimes.graphs`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.cores import available
from model.runtimes import RuntimeUnavailableError
from model.runtimes.base import Floats, Ids, Projection, State, SubsetProjection, WordsProjection
from model.shapes import state_tensors

if TYPE_CHECKING:
    from model.artifact import Artifact

# It would keep a data base of what it does in the home directory, and send that to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import onnxruntime

    from model.runtimes.arithmetic import Float32, Int8
    from model.runtimes.graphs import RESULTS, advance_graph, after, projection_graph
    from model.runtimes.onnx_graph import Model
except ImportError as error:
    raise RuntimeUnavailableError(
        f"the cpu runtimes need onnx and onnxruntime ({error}); install them, or take another runtime"
    ) from error

#: Rows are projected at most so many at a time: their logits stay in the cache, and a long text that is scored takes
#: no more memory than a short one.
ROWS = 64

_TRUE, _FALSE = np.array([True]), np.array([False])
_SCORED = {"plain": _FALSE, "scored": _TRUE}
_NAMED = {"plain": _FALSE, "named": _TRUE}
_AMONG = {"plain": _FALSE, "among": _TRUE}
_WHOLE = {"plain": _FALSE, "k": np.zeros(1, np.int64)}
_ERROR = 3  # ONNX Runtime's level: no warnings


class CpuRuntime:
    """`model.runtimes.base.Runtime` on ONNX Runtime: "cpu", quantised to int8, or "cpu-float32".

    threads: how many ONNX Runtime may use, the caller's own among them; None leaves it to `default_threads`.
    Raises ValueError for fewer than one.
    """

    device = "cpu"

    def __init__(self, artifact: Artifact, *, quantised: bool, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it is 1 or more, or left out")
        network, weights = artifact.network, artifact.weights
        arithmetic = Int8() if quantised else Float32()
        self.name = "cpu" if quantised else "cpu-float32"
        self.threads = threads or default_threads()
        self.vocabulary_size = int(network["vocabulary_size"])
        self.state_tensors = state_tensors(network)
        self._before = tuple(tensor.name for tensor in self.state_tensors)
        self._after = [after(tensor) for tensor in self.state_tensors]
        self._advance = session(advance_graph(network, weights, arithmetic), self.threads)
        self._project = session(projection_graph(network, weights, arithmetic), self.threads)

    def zero_state(self, batch: int) -> State:
        return tuple(np.zeros((batch, tensor.size), np.float32) for tensor in self.state_tensors)

    def advance(self, ids: Ids, state: State) -> State:
        if len(ids) == 0:
            return self.zero_state(0)
        return tuple(self._advance.run(self._after, {"ids": ids, **dict(zip(self._before, state, strict=True))}))

    def project(self, hidden: Floats, *, top_k: int, targets: Ids | None = None) -> Projection:
        k = np.array([top_k], np.int64)
        if targets is None:
            parts = [self._run({"hidden": rows, "k": k}) for rows in _pieces(hidden)]
        else:
            pairs = zip(_pieces(hidden), _pieces(targets), strict=True)
            parts = [self._run({"hidden": rows, "k": k, "words": words, **_SCORED}) for rows, words in pairs]
        return Projection(*_joined(parts)) if parts else _nothing(top_k)

    def project_subset(self, hidden: Floats, ids: Ids, *, top_k: int) -> SubsetProjection:
        if len(ids) == 0 or len(hidden) == 0:
            K = min(top_k, len(ids))
            shape = (len(hidden), K)
            impossible = np.full(len(hidden), -np.inf, np.float32)
            return SubsetProjection(np.empty(shape, np.int64), np.empty(shape, np.float32), impossible)
        subset = {"k": np.array([min(top_k, len(ids))], np.int64), "words": np.sort(ids), **_AMONG}
        parts = [self._run({"hidden": rows, **subset}) for rows in _pieces(hidden)]
        return SubsetProjection(*_joined(parts)[:3])

    def project_words(self, hidden: Floats, words: Ids, *, top_k: int) -> WordsProjection:
        k = np.array([top_k], np.int64)
        pairs = zip(_pieces(hidden), _pieces(words), strict=True)
        parts = [self._run({"hidden": rows, "k": k, "named_words": named, **_NAMED}) for rows, named in pairs]
        if not parts:
            nothing = _nothing(top_k)
            values = np.empty((0, words.shape[1]), np.float32)
            return WordsProjection(nothing.top_ids, nothing.top_log_probabilities, nothing.entropies, values)
        return WordsProjection(*_joined(parts)[:4])

    def log_probabilities(self, hidden: Floats) -> Floats:
        V = self.vocabulary_size
        parts = (self._run({"hidden": piece, **_WHOLE})[1][:, :V] for piece in _pieces(hidden))
        if 0 < len(hidden) <= ROWS:
            return next(parts)  # nothing is copied
        rows, done = np.empty((len(hidden), V), np.float32), 0
        for part in parts:
            rows[done : done + len(part)] = part
            done += len(part)
        return rows

    def _run(self, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        results: list[Any] = self._project.run(RESULTS, feed)
        return results


def default_threads() -> int:
    """One core is left to whoever calls, save for one of two: there it would stand idle while the caller waits for the
    other. Small matrices gain little from more than four."""
    cores = available()
    return max(min(2, cores), min(4, cores - 1))


def session(model: Model, threads: int) -> onnxruntime.InferenceSession:
    """A graph ready to run in so many threads, which do not spin when they have nothing to do."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERROR
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    matrices = [onnxruntime.OrtValue.ortvalue_from_numpy(matrix) for matrix in model.matrices.values()]
    options.add_external_initializers(list(model.matrices), matrices)
    return onnxruntime.InferenceSession(model.graph, options, providers=["CPUExecutionProvider"])


def _pieces(rows: NDArray[Any]) -> list[NDArray[Any]]:
    """At most `ROWS` at a time, and about as many each time."""
    if len(rows) <= ROWS:
        return [rows] if len(rows) else []
    return np.array_split(rows, -(-len(rows) // ROWS))


def _joined(parts: list[list[Any]]) -> list[Any]:
    return parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]


def _nothing(top_k: int) -> Projection:
    floats, ids = np.empty(0, np.float32), np.empty(0, np.int64)
    return Projection(ids.reshape(0, top_k), floats.reshape(0, top_k), floats, floats, ids)
