"""One step of each network, written plainly from its formulas: what runtimes are measured by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runtimes.base import State

Array = NDArray[Any]
Network = dict[str, Any]
Weights = dict[str, NDArray[np.float32]]

Product = Callable[[Array, Array, Array], Array]  # x (B, n), W (m, n), b (m,) -> x W^T + b


def exactly(x: Array, W: Array, b: Array) -> Array:
    return x.astype(np.float64) @ W.astype(np.float64).T + b


def in_integers(x: Array, W: Array, b: Array) -> Array:
    """The product of int8, in integers that cannot overflow: 63 steps to 1 for x, 127 to the largest of a row of W."""
    largest = np.abs(W).max(axis=1)
    largest[largest == 0] = 1
    rounded = np.rint(W * (127 / largest)[:, None]).astype(np.int64)
    product: Array = np.rint(x * np.float32(63)).astype(np.int64) @ rounded.T * (largest / (63.0 * 127.0)) + b
    return product


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(a: Array, i: Array, f: Array, o: Array, c: Array) -> tuple[Array, Array]:
    c = np.tanh(a) * sigmoid(i) + c * sigmoid(f)
    return c, sigmoid(o) * np.tanh(c)


def beside(*arrays: Array) -> Array:
    return np.concatenate(arrays, axis=1)


def step(network: Network, w: Weights, x: Array, state: State, product: Product = exactly) -> list[Array]:
    """The state after a word whose embedding is x."""
    new: list[Array] = []
    match network["kind"]:
        case "simple_rnn":
            new = [np.tanh(product(beside(x, state[0]), beside(w["l1/W"], w["r1/W"]), w["l1/b"] + w["r1/b"]))]
        case "concat_rnn":
            z = np.tanh(product(beside(x, state[0]), w["l1/W"], w["l1/b"]))
            new = [z[:, : network["hidden_size"]], z[:, network["hidden_size"] :]]
        case "deep_rnn":
            for layer, h in enumerate(state):
                block = f"blocks/{layer}"
                W = beside(w[f"{block}/l/W"], w[f"{block}/r/W"])
                x = np.tanh(product(beside(x, h), W, w[f"{block}/l/b"] + w[f"{block}/r/b"]))
                new.append(x)
        case "gru":
            for layer, h in enumerate(state):
                H = h.shape[1]
                W, b = beside(w[f"layers/{layer}/W_x"], w[f"layers/{layer}/W_h"]), w[f"layers/{layer}/b"]
                gates = sigmoid(product(beside(x, h), W[: 2 * H], b[: 2 * H]))
                r, z = gates[:, :H], gates[:, H:]
                n = np.tanh(product(beside(x, r * h), W[2 * H :], b[2 * H :]))
                x = (1 - z) * h + z * n
                new.append(x)
        case "lstm":
            for layer, (c, h) in enumerate(zip(state[::2], state[1::2], strict=True), start=1):
                W = beside(w[f"l{layer}/upward/W"], w[f"l{layer}/lateral/W"])
                gates = product(beside(x, h), W, w[f"l{layer}/upward/b"]).reshape(len(x), -1, 4)
                c, x = lstm(gates[..., 0], gates[..., 1], gates[..., 2], gates[..., 3], c)
                new += [c, x]
        case "lstm_stack":
            for layer, (c, h) in enumerate(zip(state[::2], state[1::2], strict=True)):
                W = beside(w[f"layers/{layer}/W_x"], w[f"layers/{layer}/W_h"])
                i, f, g, o = np.split(product(beside(x, h), W, w[f"layers/{layer}/b"]), 4, axis=1)
                c, x = lstm(g, i, f, o, c)
                new += [c, x]
    return new


def log_softmax(logits: Array) -> Array:
    moved = logits - logits.max(axis=1, keepdims=True)
    rows: Array = moved - np.log(np.exp(moved).sum(axis=1, keepdims=True))
    return rows
