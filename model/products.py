"""Products of queries with the keys of many sequences, each with its own: ONNX Runtime's int8 kernels.

It multiplies a row by a matrix straight from memory, without packing it first, where the row is unsigned and without a
zero point, and the matrix signed. So keys are columns, and what a zero point would take away is `offsets_of`. Queries
have 63 steps, as all factors of `model.runtimes.arithmetic` have, so that sums saturate on no CPU.

Several sequences are one graph with an input each: to copy their keys together takes as long as to multiply them. One
thread, for each product is too small to be shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.runtimes.base import Floats

if TYPE_CHECKING:
    import onnxruntime

#: Steps from 0 to 1 in a key, and in a query, which is stored unsigned, around `_ZERO`.
KEY_STEPS, QUERY_STEPS = 127, 63
_ZERO = 64

#: The product of a query and a key that are 1.0 in one place and 0.0 elsewhere.
ONE = KEY_STEPS * QUERY_STEPS

Keys = NDArray[np.int8]
Queries = NDArray[np.uint8]

#: So many sequences are multiplied in one run: as many as fit, the most first.
_TOGETHER = (16, 4, 1)


def keys_of(hidden: Floats) -> Keys:
    """(B, H) hidden outputs as keys.

    >>> keys_of(np.array([[1.0, -0.5, 0.003]], np.float32)).tolist()
    [[127, -64, 0]]
    """
    with np.errstate(invalid="ignore"):  # what is not a number is noticed by who asks for probabilities
        keys: Keys = _steps(hidden, KEY_STEPS).astype(np.int8)
    return keys


def queries_of(hidden: Floats) -> Queries:
    """(B, H) hidden outputs as queries.

    >>> queries_of(np.array([[1.0, -0.5, 0.003]], np.float32)).tolist()
    [[127, 32, 64]]
    """
    with np.errstate(invalid="ignore"):
        queries: Queries = (_steps(hidden, QUERY_STEPS) + np.float32(_ZERO)).astype(np.uint8)
    return queries


def offsets_of(keys: Keys) -> NDArray[np.int32]:
    """By how much `products` of keys (..., H) are too large: (...)."""
    offsets: NDArray[np.int32] = keys.sum(axis=-1, dtype=np.int32) * np.int32(_ZERO)
    return offsets


def products(queries: Queries, keys: Sequence[Keys]) -> NDArray[np.int32]:
    """Of query b (H,) with the columns of keys b (H, n_b), one after the other: (n_1 + n_2 + ...,).

    Each is larger by what `offsets_of` says of its key.
    """
    found, first = [], 0
    while first < len(keys):
        count = next(count for count in _TOGETHER if count <= len(keys) - first)
        feed: dict[str, NDArray[Any]] = {f"keys{place}": keys[first + place] for place in range(count)}
        feed["queries"] = queries[first : first + count]
        found.append(_session(count).run(None, feed)[0][0])
        first += count
    return found[0] if len(found) == 1 else np.concatenate(found)


def _steps(hidden: Floats, steps: int) -> Floats:
    whole: Floats = np.rint(np.clip(hidden, -1, 1) * np.float32(steps))
    return whole


@cache
def _session(count: int) -> onnxruntime.InferenceSession:
    from onnx import TensorProto, helper

    from model.runtimes.cpu import session
    from model.runtimes.onnx_graph import Graph

    graph = Graph()
    inputs = [helper.make_tensor_value_info("queries", TensorProto.UINT8, [count, "H"])]
    rows = graph.ops("Split", "queries", outputs=count, axis=0, num_outputs=count)
    for place in range(count):
        inputs.append(helper.make_tensor_value_info(f"keys{place}", TensorProto.INT8, ["H", f"n{place}"]))
    of_each = [graph.op("MatMulInteger", row, f"keys{place}") for place, row in enumerate(rows)]
    graph.op("Concat", *of_each, output="products", axis=1)
    outputs = [helper.make_tensor_value_info("products", TensorProto.INT32, [1, None])]
    return session(graph.model(inputs, outputs), 1)
