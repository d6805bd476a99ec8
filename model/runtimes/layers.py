"""The networks in one form, whatever each kind calls its parameters: layers of cells over ``[x; h]``, then an output.

``[x; h]`` is the input of a layer beside its own last output, so that a layer is one matrix product (two in a GRU).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from model.runtimes.base import Floats

Network = Mapping[str, Any]
Weights = Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Layer:
    """One recurrent layer. Rows of W are blocks of H: i, f, g, o of an LSTM; r, z, n of a GRU; one block else."""

    cell: Literal["lstm", "gru", "tanh"]
    W: Floats  # (blocks * H, in + H), for [x; h]
    b: Floats  # (blocks * H,)


def layers(network: Network, weights: Weights) -> list[Layer]:
    """The layers of a network, the lowest first, whatever its kind calls its parameters."""

    def beside(*names: str) -> Floats:
        return np.concatenate([weights[name] for name in names], axis=1)

    count = len(network.get("hidden_sizes", ()))
    match network["kind"]:
        case "simple_rnn":
            return [Layer("tanh", beside("l1/W", "r1/W"), weights["l1/b"] + weights["r1/b"])]
        case "deep_rnn":
            blocks = [f"blocks/{layer}" for layer in range(count)]
            return [
                Layer("tanh", beside(f"{block}/l/W", f"{block}/r/W"), weights[f"{block}/l/b"] + weights[f"{block}/r/b"])
                for block in blocks
            ]
        case "concat_rnn":
            return [Layer("tanh", weights["l1/W"], weights["l1/b"])]
        case "gru":
            return [
                Layer("gru", beside(f"layers/{layer}/W_x", f"layers/{layer}/W_h"), weights[f"layers/{layer}/b"])
                for layer in range(count)
            ]
        case "lstm":
            return [
                Layer(
                    "lstm",
                    _in_blocks(beside(f"{name}/upward/W", f"{name}/lateral/W")),
                    _in_blocks(weights[f"{name}/upward/b"]),
                )
                for name in ("l1", "l2")
            ]
        case "lstm_stack":
            return [
                Layer("lstm", beside(f"layers/{layer}/W_x", f"layers/{layer}/W_h"), weights[f"layers/{layer}/b"])
                for layer in range(count)
            ]
        case kind:
            raise ValueError(f"the cpu runtime knows no network of the kind {kind!r}")


def _in_blocks(rows: Floats) -> Floats:
    """Chainer's LSTM has the rows a, i, f, o of the first unit, then of the second, ...; its a is our g."""
    a, i, f, o = (rows[gate::4] for gate in range(4))
    return np.concatenate([i, f, a, o])


def output_layer(network: Network, weights: Weights) -> tuple[Floats, Floats]:
    """W (V, H) and b (V,) of the logits."""
    match network["kind"]:
        case "simple_rnn" | "concat_rnn":
            return weights["l2/W"], weights["l2/b"]
        case "lstm":
            return weights["l3/W"], weights["l3/b"]
        case "lstm_stack":
            return weights["embed/W"], weights["output/b"]
        case _:
            return weights["output/W"], weights["output/b"]
