"""Products of queries with the keys of many sequences, each with its own: ONNX Runtime's int8 kernels.

It multiplies a row by a matrix straight from memory, without packing it first, where the row is unsigned and without a
zero point, and the matrix signed. So keys are columns, and what a zero point would take away is `offsets_of`. Queries
have 63 steps, as all factors of `model.runtimes.arithmetic` have, so that sums saturate on no CPU.

The kernel goes down some columns at a time. In one wide matrix each step down is a jump in memory, which no processor
foresees: with keys that are not in its cache, matrices of `BLOCK` columns, each in one piece, took 2.2 ms where one of
640 took 3.8 (64 sequences, 256 values, AVX2).

Several sequences are one graph with an input each: to copy their keys together takes as long as to multiply them. Each
product is too small to be shared by threads, and graphs that run beside each other wait for the same memory.
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

#: So many keys are side by side in memory.
BLOCK = 32

Keys = NDArray[np.int8]
Blocks = NDArray[np.int8]

#: So many sequences are multiplied in one run: as many as fit, the most first.
_TOGETHER = (64, 16, 4, 1)


def keys_of(hidden: Floats) -> Keys:
    """(B, H) hidden outputs as keys.

    >>> keys_of(np.array([[1.0, -0.5, 0.003]], np.float32)).tolist()
    [[127, -64, 0]]
    """
    with np.errstate(invalid="ignore"):  # what is not a number is noticed by who asks for probabilities
        keys: Keys = np.rint(np.clip(hidden, -1, 1) * np.float32(KEY_STEPS)).astype(np.int8)
    return keys


def offsets_of(keys: Keys) -> NDArray[np.int32]:
    """By how much `products` of keys (..., H) are too large: (...)."""
    offsets: NDArray[np.int32] = keys.sum(axis=-1, dtype=np.int32) * np.int32(_ZERO)
    return offsets


def block_count(keys: int) -> int:
    """In how many blocks so many keys have room."""
    return -(-keys // BLOCK)


def blocks_of(keys: Keys) -> Blocks:
    """Keys (n, H) as `products` wants them, (n over BLOCK, H, BLOCK): the last ones filled up with zeros."""
    n, H = keys.shape
    rows = np.zeros((block_count(n), BLOCK, H), np.int8)
    rows.reshape(-1, H)[:n] = keys
    return np.ascontiguousarray(rows.swapaxes(1, 2))


def keys_in(blocks: Blocks) -> Keys:
    """Keys (n, H) from blocks (n over BLOCK, H, BLOCK)."""
    count, H, _ = blocks.shape
    return blocks.swapaxes(1, 2).reshape(count * BLOCK, H)


def products(hidden: Floats, blocks: Sequence[Blocks]) -> NDArray[np.int32]:
    """Of hidden output b (H,), the query, with the keys in blocks b (n_b, H, BLOCK), one after the other:
    ((n_1 + n_2 + ...) BLOCK,).

    Each is larger by what `offsets_of` says of its key.
    """
    found, first = [], 0
    while first < len(blocks):
        count = next(count for count in _TOGETHER if count <= len(blocks) - first)
        feed: dict[str, NDArray[Any]] = {f"keys{place}": blocks[first + place] for place in range(count)}
        feed["hidden"] = hidden[first : first + count]
        found.append(_session(count).run(None, feed)[0].reshape(-1))
        first += count
    return found[0] if len(found) == 1 else np.concatenate(found)


def warm_up(width: int) -> None:
    """Have made what first calls make, for hidden outputs (H,) of this width."""
    for count in _TOGETHER:
        products(np.zeros((count, width), np.float32), [np.zeros((1, width, BLOCK), np.int8)] * count)


@cache
def _session(count: int) -> onnxruntime.InferenceSession:
    from onnx import TensorProto, helper

    from model.runtimes.cpu import session
    from model.runtimes.onnx_graph import Graph

    graph = Graph()
    inputs = [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [count, "H"])]
    # Where it has to be, unless a state came from elsewhere.
    within = graph.op("Clip", "hidden", graph.constant(np.float32(-1)), graph.constant(np.float32(1)))
    steps, zero = graph.constant(np.float32(1 / QUERY_STEPS)), graph.constant(np.uint8(_ZERO))
    rows = graph.ops("Split", graph.op("QuantizeLinear", within, steps, zero), outputs=count, axis=0, num_outputs=count)
    for place in range(count):
        inputs.append(helper.make_tensor_value_info(f"keys{place}", TensorProto.INT8, [f"n{place}", "H", BLOCK]))
    of_each = [graph.op("MatMulInteger", row, f"keys{place}") for place, row in enumerate(rows)]
    graph.op("Concat", *of_each, output="products", axis=0)
    outputs = [helper.make_tensor_value_info("products", TensorProto.INT32, [None, 1, BLOCK])]
    return session(graph.model(inputs, outputs), 1)
