"""How the matrices of an ONNX graph are stored and multiplied: float32 or int8.

- `Float32`: as near to the reference as float32 gets. ONNX Runtime's Sigmoid and Tanh are off by up to 1.6e-7 and
  3.3e-7, in the same direction for the same argument, and an LSTM that holds on to a value adds that up: of 64 texts
  through a trained model, one was 1.8e-4 from float64 in a log-probability after ten words. With exponentials (off by
  up to 9e-8 either way) it was 6e-5, and Chainer's own 2e-5. That takes 2% of a step.
- `Int8`: the rows of W, each with its own scale, are rounded to 127 steps either way. What they are multiplied by lies
  in [-1, 1] by construction and is rounded to 63 steps either way: the h of an LSTM, a GRU or a tanh cell lies there,
  and embeddings are brought there by dividing each dimension by its largest magnitude, which the matrix above is
  multiplied by. The scales never depend on the words of a batch, so a row's answer does not depend on the other rows.

  Why 63. Without VNNI, ONNX Runtime multiplies bytes with `vpmaddubsw`, whose sums of two products saturate at 32,767:
  with 127 steps on both sides and large factors, an AVX2 machine gave logits that were a quarter of the largest one
  off. 2 * 127 * 127 fits (factors are stored unsigned, around 64), so the sums are exact on every CPU, in the fastest
  kernel of each. Both sides unsigned with 127 steps are exact too, and took 1.15 (one row) to 1.3 times (32 rows) as
  long there; both sides signed, 5 times and more; MatMulNBits with 8 bits, 1.3 to 3.2 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.runtimes.base import Floats
from model.runtimes.onnx_graph import MICROSOFT, Graph

_FACTOR_STEPS, _FACTOR_ZERO = np.float32(63), np.uint8(64)
_WEIGHT_STEPS = np.float32(127)


class Arithmetic(Protocol):
    """How matrices are stored and multiplied. Factors are (B, n) tensors as `factor` makes them.

    fine: whether the last digits of a float32 mean anything.
    """

    fine: bool

    def embedding(self, graph: Graph, ids: str, E: Floats) -> tuple[str, Floats]:
        """Rows of E as factors, and what each dimension of them was divided by (E's width,)."""

    def factor(self, graph: Graph, tensor: str) -> str:
        """A float32 tensor in [-1, 1], ready to be multiplied."""

    def product(self, graph: Graph, factors: Sequence[str], W: Floats, b: Floats) -> str:
        """``[factors] W^T + b``, (B, len(b)) float32."""

    def sigmoid(self, graph: Graph, x: str) -> str: ...

    def tanh(self, graph: Graph, x: str) -> str: ...


class Float32:
    """No rounding: see the module's docstring."""

    fine = True

    def embedding(self, graph: Graph, ids: str, E: Floats) -> tuple[str, Floats]:
        return graph.op("Gather", graph.matrix(E), ids), np.ones(E.shape[1], np.float32)

    def factor(self, graph: Graph, tensor: str) -> str:  # noqa: ARG002
        return tensor

    def product(self, graph: Graph, factors: Sequence[str], W: Floats, b: Floats) -> str:
        beside = graph.op("Concat", *factors, axis=1) if len(factors) > 1 else factors[0]
        return graph.op("Gemm", beside, graph.matrix(W), graph.constant(b), transB=1)

    def sigmoid(self, graph: Graph, x: str) -> str:
        """``1 / (1 + exp(-x))``; the exponential may be infinite."""
        e = graph.op("Exp", graph.op("Neg", x))
        return graph.op("Reciprocal", graph.op("Add", e, graph.constant(np.float32(1))))

    def tanh(self, graph: Graph, x: str) -> str:
        """``(1 - e) / (1 + e), e = exp(-2x)``, of x that is no further from 0 than where float32 gives 1."""
        near = graph.op("Clip", x, graph.constant(np.float32(-15)), graph.constant(np.float32(15)))
        e = graph.op("Exp", graph.op("Mul", near, graph.constant(np.float32(-2))))
        one = graph.constant(np.float32(1))
        return graph.op("Div", graph.op("Sub", one, e), graph.op("Add", one, e))


class Int8:
    """Eight bits, fixed scales: see the module's docstring."""

    fine = False

    def embedding(self, graph: Graph, ids: str, E: Floats) -> tuple[str, Floats]:
        largest = _largest(E, axis=0)
        rounded = np.empty(E.shape, np.uint8)
        _round(E, _FACTOR_STEPS / largest, _FACTOR_ZERO, rounded)
        return graph.op("Gather", graph.matrix(rounded), ids), largest

    def factor(self, graph: Graph, tensor: str) -> str:
        return graph.op("QuantizeLinear", tensor, *_factor_scale(graph))

    def product(self, graph: Graph, factors: Sequence[str], W: Floats, b: Floats) -> str:
        beside = graph.op("Concat", *factors, axis=1) if len(factors) > 1 else factors[0]
        largest = _largest(W, axis=1)
        rounded = np.empty(W.shape[::-1], np.int8)  # (in, out)
        _round(W, (_WEIGHT_STEPS / largest)[:, None], np.int8(0), rounded.T)
        step, zero = _factor_scale(graph)
        steps, no_offset = graph.constant(largest / _WEIGHT_STEPS), graph.constant(np.int8(0))
        inputs = (beside, graph.matrix(rounded), step, steps, zero, no_offset, graph.constant(b))
        return graph.op("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)

    def sigmoid(self, graph: Graph, x: str) -> str:
        return graph.op("Sigmoid", x)

    def tanh(self, graph: Graph, x: str) -> str:
        return graph.op("Tanh", x)


def _factor_scale(graph: Graph) -> tuple[str, str]:
    return graph.constant(1 / _FACTOR_STEPS), graph.constant(_FACTOR_ZERO)


def _largest(matrix: Floats, axis: int) -> Floats:
    """Largest magnitudes along an axis, and 1 where all is 0."""
    largest: Floats = np.maximum(matrix.max(axis=axis), -matrix.min(axis=axis))
    largest[largest == 0] = 1
    return largest


def _round(matrix: Floats, scales: Floats, zero: np.integer[Any], out: NDArray[Any]) -> None:
    """``out = round(matrix * scales) + zero``, a piece at a time: fresh memory for more would take longer."""
    scales = np.broadcast_to(scales, matrix.shape)
    for start in range(0, len(matrix), 256):
        rows = slice(start, start + 256)
        out[rows] = np.rint(matrix[rows] * scales[rows]) + zero
