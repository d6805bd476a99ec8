"""ONNX graphs of the networks, built from their weights: one that consumes words, one that says what may come next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from model.runtimes.arithmetic import Arithmetic
from model.runtimes.base import Floats, StateTensor
from model.runtimes.layers import Network, Weights, layers, output_layer
from model.runtimes.onnx_graph import Graph, Model
from model.shapes import state_tensors

#: Logits are computed in groups of this many words. The likeliest words are looked for among the groups with the
#: greatest maxima only, which is a third of the cost of TopK over the row for 10 of 33,278 words.
GROUP = 64
# The logit of the words that fill the last group: no probability, and finite, for 0 * -inf is not a number.
_NEVER = np.float32(-1e30)


def advance_graph(network: Network, weights: Weights, arithmetic: Arithmetic) -> Model:
    """ids (B,) int64 and the state's tensors -> the state's tensors after that word, named ``NAME_next``."""
    graph = Graph()
    tensors = state_tensors(network)
    x, scale = arithmetic.embedding(graph, "ids", weights["embed/W"])
    for number, layer in enumerate(layers(network, weights)):
        own = [tensor for tensor in tensors if tensor.layer == number]
        W = layer.W
        if number == 0 and not (scale == 1).all():
            W = W.copy()
            W[:, : len(scale)] *= scale
        x = _CELLS[layer.cell](graph, arithmetic, x if number == 0 else arithmetic.factor(graph, x), W, layer.b, own)
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B"])]
    inputs += [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, ["B", t.size]) for t in tensors]
    outputs = [helper.make_tensor_value_info(after(t), TensorProto.FLOAT, ["B", t.size]) for t in tensors]
    return graph.model(inputs, outputs)


def after(tensor: StateTensor) -> str:
    """What the graph calls a state tensor once the word is consumed."""
    return f"{tensor.name}_next"


def _lstm(graph: Graph, arithmetic: Arithmetic, x: str, W: Floats, b: Floats, state: list[StateTensor]) -> str:
    """``c' = f c + i g``; ``h' = o tanh(c')``."""
    c, h = state
    gates = arithmetic.product(graph, [x, arithmetic.factor(graph, h.name)], W, b)
    i, f, g, o = graph.split(gates, [h.size] * 4)
    i, f, o = (arithmetic.sigmoid(graph, gate) for gate in (i, f, o))
    g = arithmetic.tanh(graph, g)
    cell = graph.op("Add", graph.op("Mul", f, c.name), graph.op("Mul", i, g), output=after(c))
    return graph.op("Mul", o, arithmetic.tanh(graph, cell), output=after(h))


def _gru(graph: Graph, arithmetic: Arithmetic, x: str, W: Floats, b: Floats, state: list[StateTensor]) -> str:
    """``n = tanh(W_n [x; r h] + b_n)``; ``h' = (1 - z) h + z n``."""
    (h,) = state
    H = h.size
    gates = arithmetic.product(graph, [x, arithmetic.factor(graph, h.name)], W[: 2 * H], b[: 2 * H])
    r, z = graph.split(arithmetic.sigmoid(graph, gates), [H, H])
    reset = arithmetic.factor(graph, graph.op("Mul", r, h.name))
    n = arithmetic.tanh(graph, arithmetic.product(graph, [x, reset], W[2 * H :], b[2 * H :]))
    change = graph.op("Mul", z, graph.op("Sub", n, h.name))
    return graph.op("Add", h.name, change, output=after(h))


def _tanh(graph: Graph, arithmetic: Arithmetic, x: str, W: Floats, b: Floats, state: list[StateTensor]) -> str:
    """``h' = tanh(W [x; h] + b)``; where the layer has a second tensor, it is the units that do not recur."""
    gates = arithmetic.product(graph, [x, arithmetic.factor(graph, state[0].name)], W, b)
    pieces = graph.split(arithmetic.tanh(graph, gates), [tensor.size for tensor in state])
    return [graph.op("Identity", piece, output=after(tensor)) for piece, tensor in zip(pieces, state, strict=True)][-1]


_CELLS: dict[str, Callable[[Graph, Arithmetic, str, Floats, Floats, list[StateTensor]], str]] = {
    "lstm": _lstm,
    "gru": _gru,
    "tanh": _tanh,
}

#: What the projection graph gives: ids and values (R, K); totals (R,); scores (R,) or (R, N) and ranks (R,), empty
#: where no word was named.
RESULTS = ("ids", "values", "totals", "scores", "ranks")
_TYPES = (TensorProto.INT64, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)


def projection_graph(network: Network, weights: Weights, arithmetic: Arithmetic) -> Model:
    """hidden (R, H) float32 and k (1,) int64 -> `RESULTS`, in one of five ways.

    - As it is: the k likeliest words, their log-probabilities, the entropies.
    - ``plain`` false, ``scored`` true, ``words`` (R,): the same, and log-probability and rank of one word a row.
    - ``plain`` false, ``named`` true, ``named_words`` (R, N): the same, and log-probabilities of N words a row.
    - ``plain`` false, ``among`` true, ``words`` (N,), k <= N: the k likeliest of these words, their
      log-probabilities, the log-probability that it is any of them.
    - ``plain`` false: every log-probability in `values`, (R, V) and what fills the last group up.

    One graph, for a matrix that several sessions share is packed, and held, by each of them.
    """
    graph = Graph()
    W, b = output_layer(network, weights)
    V = len(b)
    groups = -(-V // GROUP)
    missing = groups * GROUP - V
    if missing:
        W = np.concatenate([W, np.zeros((missing, W.shape[1]), np.float32)])
        b = np.concatenate([b, np.full(missing, _NEVER)])
    logits = arithmetic.product(graph, [arithmetic.factor(graph, "hidden")], W, b)  # (R, groups * GROUP)
    grouping = graph.integers(0, groups, GROUP)
    grouped = graph.op("Reshape", logits, grouping)
    maxima = graph.op("ReduceMax", grouped, graph.integers(2), keepdims=0)  # (R, groups)
    last, flat = graph.integers(1), graph.integers(0, -1)
    ids = np.arange(groups * GROUP, dtype=np.int64)
    grouped_ids = graph.constant(ids.reshape(groups, GROUP))
    all_ids = graph.constant(ids.astype(np.int32))  # compared in half the time that int64 takes
    no_scores, no_ranks = graph.constant(np.zeros(0, np.float32)), graph.integers()

    def total(branch: Graph, words: str) -> str:
        """The sum over the words of a row (R, 1), group by group: 20,000 float32 one by one lose four digits."""
        parts = branch.op("Reshape", words, grouping)
        return branch.op("ReduceSum", branch.op("ReduceSum", parts, branch.integers(2), keepdims=0), last)

    def distribution(branch: Graph) -> tuple[str, str | None, str]:
        """Probabilities, their sum (R, 1), and log Z (R, 1): x - log p of any word, and the likeliest one's p is large.

        Softmax divides by a sum that it added up one by one, so that of the probabilities is not quite 1.
        """
        p = branch.op("Softmax", logits, axis=1)
        log_p = branch.op("Log", branch.op("ReduceMax", p, last))
        log_Z = branch.op("Sub", branch.op("ReduceMax", maxima, last), log_p)
        if not arithmetic.fine:
            return p, None, log_Z
        mass = total(branch, p)
        return p, mass, branch.op("Add", log_Z, branch.op("Log", mass))

    def likely(branch: Graph, p: str, mass: str | None, log_Z: str) -> list[str]:
        """Each of the k likeliest words is in one of the k groups with the greatest maxima: any group ahead of its own
        holds a word ahead of it. TopK prefers the lower place among equals, so ids decide, here and there.
        """
        count = branch.op("Min", "k", branch.integers(groups))
        _, best = branch.ops("TopK", maxima, count, outputs=2, sorted=0)
        best, _ = branch.ops("TopK", best, count, outputs=2, largest=0)  # in the order of ids
        kept = branch.op("GatherND", grouped, branch.op("Unsqueeze", best, branch.integers(2)), batch_dims=1)
        values, places = branch.ops("TopK", branch.op("Reshape", kept, flat), "k", outputs=2)
        kept_ids = branch.op("Reshape", branch.op("Gather", grouped_ids, best), flat)
        expected = total(branch, branch.op("Mul", p, logits))
        if mass is not None:
            expected = branch.op("Div", expected, mass)
        entropies = branch.op("Relu", branch.op("Sub", log_Z, expected))  # rounding may leave it below 0
        return [
            branch.op("GatherElements", kept_ids, places, axis=1),
            branch.op("Sub", values, log_Z),
            branch.op("Squeeze", entropies, last),
        ]

    def plain(branch: Graph) -> list[str]:
        return [*likely(branch, *distribution(branch)), no_scores, no_ranks]

    def scored(branch: Graph) -> list[str]:
        p, mass, log_Z = distribution(branch)
        targets = branch.op("Unsqueeze", "words", last)
        logit = branch.op("GatherElements", logits, targets, axis=1)
        earlier = branch.op("Less", all_ids, branch.op("Cast", targets, to=TensorProto.INT32))
        as_likely = branch.op("And", branch.op("Equal", logits, logit), earlier)
        ahead = branch.op("Or", branch.op("Greater", logits, logit), as_likely)
        ahead = branch.op("ReduceSum", branch.op("Cast", ahead, to=TensorProto.FLOAT), last, keepdims=0)
        rank = branch.op("Add", branch.op("Cast", ahead, to=TensorProto.INT64), last)
        return [*likely(branch, p, mass, log_Z), branch.op("Squeeze", branch.op("Sub", logit, log_Z), last), rank]

    def named(branch: Graph) -> list[str]:
        p, mass, log_Z = distribution(branch)
        logit = branch.op("GatherElements", logits, "named_words", axis=1)
        return [*likely(branch, p, mass, log_Z), branch.op("Sub", logit, log_Z), no_ranks]

    def among(branch: Graph) -> list[str]:
        *_, log_Z = distribution(branch)
        rows = branch.op("Sub", branch.op("Gather", logits, "words", axis=1), log_Z)  # (R, N)
        values, places = branch.ops("TopK", rows, "k", outputs=2)
        chosen = branch.op("Gather", "words", places)
        return [chosen, values, branch.op("ReduceLogSumExp", rows, last, keepdims=0), no_scores, no_ranks]

    def whole(branch: Graph) -> list[str]:
        *_, log_Z = distribution(branch)
        rows = branch.op("Sub", logits, log_Z)
        return [branch.constant(np.zeros((0, 0), np.int64)), rows, no_scores, no_scores, no_ranks]

    def apart_from_plain(branch: Graph) -> list[str]:
        return branch.choose("scored", scored, apart_from_scored, _TYPES)

    def apart_from_scored(branch: Graph) -> list[str]:
        return branch.choose("named", named, lambda last: last.choose("among", among, whole, _TYPES), _TYPES)

    results = graph.choose("plain", plain, apart_from_plain, _TYPES)
    inputs = [
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["R", W.shape[1]]),
        helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("words", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("named_words", TensorProto.INT64, ["R", "M"]),
    ]
    graph.constant(np.zeros(0, np.int64), "words")
    graph.constant(np.zeros((0, 0), np.int64), "named_words")
    for name in ("plain", "scored", "named", "among"):
        inputs.append(helper.make_tensor_value_info(name, TensorProto.BOOL, [1]))
        graph.constant(np.array([name == "plain"]), name)
    outputs = []
    for name, result, kind in zip(RESULTS, results, _TYPES, strict=True):
        graph.op("Identity", result, output=name)
        outputs.append(helper.make_tensor_value_info(name, kind, None))
    return graph.model(inputs, outputs)
