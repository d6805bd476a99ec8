"""The gated recurrent unit (Cho et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.compat import chainer
from model.networks.network import NextWordNetwork, State

F, L = chainer.functions, chainer.links


class GRULayer(chainer.Chain):
    """One step of gated recurrent units: x (B, in_size), h (B, H) -> h' (B, H).

    ``r, z = sigmoid(W_x x + W_h h + b)``; ``n = tanh(W_xn x + b_n + W_hn (r * h))``; ``h' = (1 - z) * h + z * n``,
    which is `chainer.links.StatelessGRU` with its matrices stacked in the order r, z, n.
    """

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        self.out_size = out_size
        with self.init_scope():
            self.W_x = chainer.Parameter(chainer.initializers.LeCunNormal(), (3 * out_size, in_size))
            self.W_h = chainer.Parameter(chainer.initializers.LeCunNormal(), (3 * out_size, out_size))
            self.b = chainer.Parameter(0, (3 * out_size,))

    def forward(self, x: Any, h: Any) -> Any:
        H = self.out_size
        from_x = F.linear(x, self.W_x, self.b)  # (B, 3H)
        gates = F.sigmoid(from_x[:, : 2 * H] + F.linear(h, self.W_h[: 2 * H]))
        r, z = gates[:, :H], gates[:, H:]
        n = F.tanh(from_x[:, 2 * H :] + F.linear(r * h, self.W_h[2 * H :]))
        return (1 - z) * h + z * n


class GRU(NextWordNetwork):
    """An embedding, layers of gated recurrent units of any sizes, an output layer; state (h of each layer)."""

    kind = "gru"

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.embedding_size = embedding_size
        self.hidden_sizes = list(hidden_sizes)
        in_sizes = [embedding_size, *self.hidden_sizes]
        with self.init_scope():
            self.embed = L.EmbedID(vocabulary_size, embedding_size)
            self.layers = chainer.ChainList(*map(GRULayer, in_sizes, self.hidden_sizes))
            self.output = L.Linear(in_sizes[-1], vocabulary_size)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return tuple(self.hidden_sizes)

    def step(self, x: Any, state: State) -> tuple[Any, State]:
        y = self.embed(x)
        new_state = []
        for layer, h in zip(self.layers, state, strict=True):
            y = layer(y, h)  # (B, H of the layer)
            new_state.append(y)
        return y, tuple(new_state)

    def output_parameters(self) -> tuple[Any, Any]:
        return self.output.W, self.output.b
