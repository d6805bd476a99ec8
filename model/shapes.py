"""What each kind of network consists of: its parameters' shapes and its state, known without Chainer.

A network is a dictionary: ``{"kind": "lstm_stack", "vocabulary_size": 20000, ...}``, the rest being the arguments of
the class in `model.networks` that defines it. Parameters are named as Chainer names them, Linear matrices are
(out, in), and everything is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from model.runtimes.base import StateTensor

Shapes = dict[str, tuple[int, ...]]

_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "simple_rnn": ("vocabulary_size", "embedding_size", "hidden_size"),
    "deep_rnn": ("vocabulary_size", "embedding_size", "hidden_sizes"),
    "concat_rnn": ("vocabulary_size", "embedding_size", "hidden_size", "output_size"),
    "gru": ("vocabulary_size", "embedding_size", "hidden_sizes"),
    "lstm": ("vocabulary_size", "hidden_size"),
    "lstm_stack": ("vocabulary_size", "embedding_size", "hidden_sizes"),
}
KINDS: tuple[str, ...] = tuple(_ARGUMENTS)

# Far above any network of this family; a damaged file must not make someone allocate a petabyte.
_MOST_UNITS = 1 << 24
_MOST_LAYERS = 64


class NetworkError(ValueError):
    """A network's description that fits none of `KINDS`: one line that says what is wrong."""


def parameter_shapes(network: Mapping[str, Any]) -> Shapes:
    """The shape of every parameter, in the order in which Chainer would list a network's links.

    >>> parameter_shapes({"kind": "simple_rnn", "vocabulary_size": 9, "embedding_size": 2, "hidden_size": 3})["l2/W"]
    (9, 3)

    Raises NetworkError for an unknown kind, an argument that is missing, unknown or out of range, and a tied
    network whose last hidden size is not its embedding size.
    """
    return _SHAPES[checked_network(network)["kind"]](network)


def state_tensors(network: Mapping[str, Any]) -> tuple[StateTensor, ...]:
    """The tensors of a sequence state, in the order of `model.runtimes.base.State`; the last is what is projected.

    Cells are c0, c1, ... and hidden outputs h0, h1, ...; `concat_rnn` has its recurrent units r0 and output units o0.
    Raises NetworkError as `parameter_shapes` does.
    """
    kind = checked_network(network)["kind"]
    if kind == "concat_rnn":
        return StateTensor("r0", network["hidden_size"], 0), StateTensor("o0", network["output_size"], 0)
    if kind == "lstm":
        sizes = [network["hidden_size"]] * 2
    elif kind == "simple_rnn":
        sizes = [network["hidden_size"]]
    else:
        sizes = network["hidden_sizes"]
    letters = "ch" if kind in ("lstm", "lstm_stack") else "h"
    return tuple(StateTensor(f"{letter}{layer}", size, layer) for layer, size in enumerate(sizes) for letter in letters)


def checked_network(network: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a network's description that is known to be complete and in range.

    Raises NetworkError as `parameter_shapes` does.
    """
    kind = network.get("kind")
    if not isinstance(kind, str) or kind not in _ARGUMENTS:
        raise NetworkError(f"unknown kind of network {kind!r}; known: {', '.join(KINDS)}")
    arguments = _ARGUMENTS[kind]
    given = set(network) - {"kind"}
    if missing := [name for name in arguments if name not in given]:
        raise NetworkError(f"{kind} lacks {', '.join(missing)}; it takes {', '.join(arguments)}")
    if unknown := sorted(given - set(arguments)):
        raise NetworkError(f"{kind} has no argument {', '.join(map(repr, unknown))}; it takes {', '.join(arguments)}")
    checked: dict[str, Any] = {"kind": kind}
    for name in arguments:
        value = network[name]
        if name != "hidden_sizes":
            checked[name] = _checked_size(kind, name, value)
            continue
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= _MOST_LAYERS:
            raise NetworkError(f"{kind}: hidden_sizes is a list of 1 to {_MOST_LAYERS} sizes, not {value!r:.80}")
        checked[name] = [_checked_size(kind, name, size) for size in value]
    if kind == "lstm_stack" and checked["hidden_sizes"][-1] != checked["embedding_size"]:
        raise NetworkError(
            f"lstm_stack: the last of hidden_sizes is {checked['hidden_sizes'][-1]} and embedding_size is "
            f"{checked['embedding_size']}; they must be equal, for the output is the embedding matrix"
        )
    return checked


def _checked_size(kind: str, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_UNITS:
        raise NetworkError(f"{kind}: {name} is a number from 1 to {_MOST_UNITS}, not {value!r:.80}")
    return value


def _simple_rnn(network: Mapping[str, Any]) -> Shapes:
    V, E, H = network["vocabulary_size"], network["embedding_size"], network["hidden_size"]
    return {
        "embed/W": (V, E),
        "l1/W": (H, E),
        "l1/b": (H,),
        "r1/W": (H, H),
        "r1/b": (H,),
        "l2/W": (V, H),
        "l2/b": (V,),
    }


def _deep_rnn(network: Mapping[str, Any]) -> Shapes:
    V, E = network["vocabulary_size"], network["embedding_size"]
    shapes: Shapes = {"embed/W": (V, E)}
    below = E
    for layer, H in enumerate(network["hidden_sizes"]):
        block = f"blocks/{layer}"
        shapes |= {f"{block}/l/W": (H, below), f"{block}/l/b": (H,), f"{block}/r/W": (H, H), f"{block}/r/b": (H,)}
        below = H
    return shapes | {"output/W": (V, below), "output/b": (V,)}


def _concat_rnn(network: Mapping[str, Any]) -> Shapes:
    V, E = network["vocabulary_size"], network["embedding_size"]
    R, O = network["hidden_size"], network["output_size"]  # noqa: E741
    return {"embed/W": (V, E), "l1/W": (R + O, E + R), "l1/b": (R + O,), "l2/W": (V, O), "l2/b": (V,)}


def _gated_layers(network: Mapping[str, Any], gates: int) -> Shapes:
    shapes: Shapes = {"embed/W": (network["vocabulary_size"], network["embedding_size"])}
    below = network["embedding_size"]
    for layer, H in enumerate(network["hidden_sizes"]):
        shapes[f"layers/{layer}/W_x"] = (gates * H, below)
        shapes[f"layers/{layer}/W_h"] = (gates * H, H)
        shapes[f"layers/{layer}/b"] = (gates * H,)
        below = H
    return shapes


def _gru(network: Mapping[str, Any]) -> Shapes:
    V = network["vocabulary_size"]
    return _gated_layers(network, 3) | {"output/W": (V, network["hidden_sizes"][-1]), "output/b": (V,)}


def _lstm(network: Mapping[str, Any]) -> Shapes:
    V, H = network["vocabulary_size"], network["hidden_size"]
    shapes: Shapes = {"embed/W": (V, H)}
    for layer in ("l1", "l2"):
        shapes[f"{layer}/upward/W"] = (4 * H, H)
        shapes[f"{layer}/upward/b"] = (4 * H,)
        shapes[f"{layer}/lateral/W"] = (4 * H, H)
    return shapes | {"l3/W": (V, H), "l3/b": (V,)}


def _lstm_stack(network: Mapping[str, Any]) -> Shapes:
    return _gated_layers(network, 4) | {"output/b": (network["vocabulary_size"],)}


_SHAPES: dict[str, Callable[[Mapping[str, Any]], Shapes]] = {
    "simple_rnn": _simple_rnn,
    "deep_rnn": _deep_rnn,
    "concat_rnn": _concat_rnn,
    "gru": _gru,
    "lstm": _lstm,
    "lstm_stack": _lstm_stack,
}
