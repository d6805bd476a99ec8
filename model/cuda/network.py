"""A network's weights on a CUDA device, and what is queued to consume words and to project hidden outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from model.cuda.device import Array, Device
from model.runtimes.base import Floats, Ids
from model.runtimes.layers import Network, Weights, layers, output_layer
from model.shapes import state_tensors

_CELL_THREADS, _ROW_THREADS, _LOOK_THREADS = 256, 256, 256
#: What serving.cu keeps at once of the words that may be among the likeliest.
_KEPT = 1024
#: A row of logits is looked at by as many blocks as make about so many in all, `PARTS` at most.
_BLOCKS, PARTS = 256, 16
#: Logits of one product, in bytes: they are read twice, and should then still be in the chip's cache of 50 MB.
LOGIT_BYTES = 32 << 20
#: Rows and columns of matrices are filled up to a multiple of this, as tensor cores take them.
_ALIGNED = 8
_LARGEST_FLOAT16 = 65504


@dataclass(frozen=True, slots=True)
class _Layer:
    """x: this layer's inputs [x; h], a row a sequence. The columns are the state's."""

    cell: Literal["lstm", "gru", "tanh"]
    W: Array
    b: Array
    x: Array
    below: int  # how many of x come from below
    columns: list[int]  # of its tensors in a state
    sizes: list[int]


class Source(NamedTuple):
    """Hidden outputs on the device: those of row r begin at array[r * stride + column]. `key` names the array."""

    key: str
    array: Array
    stride: int
    column: int


class Moves(NamedTuple):
    """A word each for B sequences: ids, the rows of the states before it, -1 for the zero state, and of those after it.

    All are (B,). A row that is written must not be another sequence's source.
    """

    ids: Ids
    sources: Ids
    rows: Ids


NO_MOVES = Moves(*[np.empty(0, np.int64)] * 3)


@dataclass(frozen=True, slots=True)
class Answers:
    """What `CudaNetwork.project` fills for n rows, and where it lies: one array of 32 bits each."""

    whole: Array
    top_ids: Array
    top_values: Array
    entropies: Array
    scores: Array
    ranks: Array
    normalisers: Array

    @classmethod
    def within(cls, whole: Array, n: int, K: int) -> Answers:
        ends = np.cumsum([n * K, n * K, n, n, n, n]).tolist()
        parts = [whole[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        floats = [part.view(np.float32) for part in parts]
        return cls(whole[: ends[-1]], parts[0], floats[1], floats[2], floats[3], parts[4], floats[5])


class CudaNetwork:
    """Of a state, `stride` float32 values, tensor t begins at `columns[t]`. At most `most` sequences a call, and
    `top_k` likeliest words.

    Raises ValueError for weights that float16 cannot hold.
    """

    def __init__(
        self, device: Device, network: Network, weights: Weights, *, float16: bool, most: int, top_k: int
    ) -> None:
        self._device = device
        self._dtype = np.float16 if float16 else np.float32
        xp = device.xp
        self._kernel = device.kernels("serving", weight="half" if float16 else "float")
        tensors = state_tensors(network)
        ends = np.cumsum([tensor.size for tensor in tensors]).tolist()
        self.columns: list[int] = [0, *ends[:-1]]
        self.stride = _aligned(ends[-1])
        self.hidden_size = tensors[-1].size
        self.vocabulary_size = int(network["vocabulary_size"])

        W, b = output_layer(network, weights)
        embedding = weights["embed/W"]
        self._output, self._output_b = self._matrix(W, rows=_aligned(len(W))), self._vector(b)
        self._embedding = self._output if W is embedding else self._matrix(embedding)
        self._layers: list[_Layer] = []
        moves, first = [], 0
        described = layers(network, weights)
        widths = [_aligned(layer.W.shape[1]) for layer in described]
        self._x = xp.zeros(most * sum(widths), self._dtype)  # the padding is never written, and must be zero
        for number, (layer, width) in enumerate(zip(described, widths, strict=True)):
            own = [place for place, tensor in enumerate(tensors) if tensor.layer == number]
            columns, sizes = [self.columns[place] for place in own], [tensors[place].size for place in own]
            recurrent = 1 if layer.cell == "lstm" else 0  # which of its tensors comes back as h
            below = layer.W.shape[1] - sizes[recurrent]
            x = self._x[first : first + most * width].reshape(most, width)
            self._layers.append(
                _Layer(layer.cell, self._matrix(layer.W), self._vector(layer.b), x, below, columns, sizes)
            )
            moves.append([sizes[recurrent], columns[recurrent], first + below, width])
            first += most * width
        self._moves = xp.asarray(np.array(moves, np.int32))
        self._hidden = xp.zeros((most, _aligned(self.hidden_size)), self._dtype)
        self._gates = xp.empty(most * max(len(layer.b) for layer in described), np.float32)
        padded_V = self._output.shape[0]
        self.block = max(1, min(most, LOGIT_BYTES // (4 * padded_V)))
        self.logits = xp.empty((self.block, padded_V), np.float32)
        # There are n * parts_of(n) pieces.
        self._findings = xp.empty(max(most, _BLOCKS) * (2 * top_k + 4), np.int32)

    def advance(self, n: int, ids: Array, sources: Array, rows: Array, states: Array) -> None:
        """Consume ids (n,) from the states in rows `sources` (n,), -1 for the zero state, into rows `rows` (n,).

        A row that is written must not be another sequence's source. All are int32, `states` (rows, stride) float32.
        """
        kernel = self._kernel
        x0 = self._layers[0].x
        kernel("gather")(
            n,
            _ROW_THREADS,
            self._x,
            self._moves,
            len(self._layers),
            self._embedding,
            self._embedding.shape[1],
            x0.shape[1],
            ids,
            states,
            self.stride,
            sources,
        )
        for number, layer in enumerate(self._layers):
            out = self._hidden if number + 1 == len(self._layers) else self._layers[number + 1].x
            self._cell(layer, n, sources, rows, states, out)

    def _cell(self, layer: _Layer, n: int, sources: Array, rows: Array, states: Array, out: Array) -> None:
        product, kernel, stride = self._device.product, self._kernel, self.stride
        x, W, b = layer.x[:n], layer.W, layer.b
        place = states, stride
        to = sources, rows, out, out.shape[1], n
        H = layer.sizes[-1]
        if layer.cell == "lstm":
            gates = self._gates[: n * 4 * H].reshape(n, 4 * H)
            product(x, W, gates, transpose_b=True)
            kernel("lstm_cell")(_blocks(n * H), _CELL_THREADS, gates, b, *place, *layer.columns, H, *to)
        elif layer.cell == "gru":
            gates = self._gates[: n * 2 * H].reshape(n, 2 * H)
            candidates = self._gates[n * 2 * H : n * 3 * H].reshape(n, H)
            (column,) = layer.columns
            product(x, W[: 2 * H], gates, transpose_b=True)
            reset = x[:, layer.below :], x.shape[1]
            kernel("gru_reset")(_blocks(n * H), _CELL_THREADS, gates, b, *place, column, H, sources, *reset, n)
            product(x, W[2 * H :], candidates, transpose_b=True)
            kernel("gru_cell")(_blocks(n * H), _CELL_THREADS, gates, candidates, b, *place, column, H, *to)
        else:
            N = sum(layer.sizes)
            gates = self._gates[: n * N].reshape(n, N)
            product(x, W, gates, transpose_b=True)
            kernel("tanh_cell")(_blocks(n * N), _CELL_THREADS, gates, b, *place, layer.columns[0], N, N - H, *to[1:])

    def project(self, n: int, K: int, source: Source, rows: Array, targets: Array, answers: Answers) -> None:
        """Fill `answers`, for the hidden outputs in rows `rows` (n,) of the source.

        targets (n,) names a word a row, or -1. With n up to `block`, `logits` are then theirs, without the bias.
        """
        kernel, H = self._kernel, self.hidden_size
        hidden = self._hidden[:n]
        kernel("hidden_rows")(n, _ROW_THREADS, hidden, hidden.shape[1], H, *source[1:], rows)
        parts = parts_of(n, K, self.vocabulary_size)
        values, words, masses, aheads = self._found(n, parts, K)
        for first in range(0, n, self.block):
            logits = self.logits[: min(self.block, n - first)]
            self._device.product(hidden[first : first + len(logits)], self._output, logits, transpose_b=True)
            kernel("look")(
                len(logits) * parts,
                _LOOK_THREADS,
                *(logits, logits.shape[1], self._output_b, self.vocabulary_size, K, parts, targets[first:]),
                *(values[first:], words[first:], masses[first:], aheads[first:], answers.scores[first:]),
            )
        kernel("merge")(
            n,
            min(max(parts * K, 32), _LOOK_THREADS),
            *(values, words, masses, aheads, self.vocabulary_size, K, parts),
            *(answers.top_ids, answers.top_values, answers.entropies),
            *(answers.scores, answers.ranks, answers.normalisers),
        )

    def _found(self, n: int, parts: int, K: int) -> tuple[Array, ...]:
        """What `look` finds: values and words (n, parts * K), masses (n, parts * 3), words ahead (n, parts)."""
        sizes = parts * K, parts * K, parts * 3, parts
        ends = np.cumsum([n * size for size in sizes]).tolist()
        pieces = [self._findings[end - n * size : end].reshape(n, size) for end, size in zip(ends, sizes, strict=True)]
        return pieces[0].view(np.float32), pieces[1], pieces[2].view(np.float32), pieces[3]

    def log_probabilities(self, n: int, words: Array, normalisers: Array, out: Array) -> None:
        """out (n, N), from the logits and normalisers that `project` left: of words (n, N), or (N,) for all rows."""
        kernel, N = self._kernel("log_probabilities"), out.shape[1]
        arrays = out, self.logits, self.logits.shape[1], self._output_b, normalisers, words
        kernel(n, _ROW_THREADS, *arrays, N if words.ndim == 2 else 0, N)

    def read_rows(self, n: int, out: Array, source: Source, column: int, size: int, rows: Array) -> None:
        """out (n, size): so many values from this column of these rows, zeros for -1."""
        self._kernel("read_rows")(n, _ROW_THREADS, out, source.array, source.stride, column, size, rows)

    def write_rows(self, n: int, states: Array, values: Array, rows: Array) -> None:
        """values (n, stride) into these rows."""
        self._kernel("write_rows")(n, _ROW_THREADS, states, values, self.stride, rows)

    def _matrix(self, W: Floats, rows: int | None = None) -> Array:
        """W, its columns filled up with zeros, and its rows up to so many."""
        if self._dtype == np.float16 and np.abs(W).max(initial=0) > _LARGEST_FLOAT16:
            raise ValueError(f"a weight of {np.abs(W).max():.3g} does not fit into float16")
        padded: Any = np.zeros((rows or len(W), _aligned(W.shape[1])), self._dtype)
        padded[: len(W), : W.shape[1]] = W
        return self._device.xp.asarray(padded)

    def _vector(self, b: Floats) -> Array:
        return self._device.xp.asarray(np.ascontiguousarray(b, np.float32))


def parts_of(n: int, K: int, V: int) -> int:
    """In how many pieces each of n rows of V logits is looked at, for K words: of 128 words or more each."""
    return max(1, min(PARTS, _BLOCKS // n, _KEPT // K, V // 128))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _blocks(threads: int) -> int:
    return -(-threads // _CELL_THREADS)
