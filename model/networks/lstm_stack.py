"""LSTM layers of unequal sizes with a tied output: the shape of AWD-LSTM (Merity et al. 2018) and of what ships."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.compat import chainer
from model.networks.locked_dropout import LockedDropout
from model.networks.network import NextWordNetwork, State
from model.recurrence import lstm

F, L = chainer.functions, chainer.links


class LSTMLayer(chainer.Chain):
    """LSTM units over a whole sequence: xs (T, B, in_size), c and h (B, H) -> hs (T, B, H), c', h'.

    W_x (4H, in_size), W_h (4H, H), b (4H,), in blocks of rows i, f, g, o. The forget gate's bias starts at 1
    (Jozefowicz et al. 2015), the matrices uniform in +-1/sqrt(H).
    """

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        uniform = chainer.initializers.Uniform(out_size**-0.5)
        with self.init_scope():
            self.W_x = chainer.Parameter(uniform, (4 * out_size, in_size))
            self.W_h = chainer.Parameter(uniform, (4 * out_size, out_size))
            self.b = chainer.Parameter(0, (4 * out_size,))
        self.b.array[out_size : 2 * out_size] = 1

    def forward(self, xs: Any, c: Any, h: Any) -> tuple[Any, Any, Any]:
        hs, h, c = lstm(xs, h, c, self.W_x, self.W_h, self.b)
        return hs, c, h


class LSTMStack(NextWordNetwork):
    """Embedding, LSTM layers, and the embedding again as the output matrix (Press and Wolf 2017; Inan et al. 2017), so
    the last hidden size equals the embedding's; state (c0, h0, c1, h1, ...).

    `dropout` (training only) is locked dropout on the embedded words, between the layers and before the output.
    """

    kind = "lstm_stack"

    def __init__(
        self, vocabulary_size: int, embedding_size: int, hidden_sizes: Sequence[int], dropout: float = 0.0
    ) -> None:
        """Raises ValueError when the last hidden size is not the embedding's."""
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.embedding_size = embedding_size
        self.hidden_sizes = list(hidden_sizes)
        if self.hidden_sizes[-1] != embedding_size:
            raise ValueError(
                f"a tied output needs the last hidden size to be the embedding's: {self.hidden_sizes[-1]} is not "
                f"{embedding_size}"
            )
        in_sizes = [embedding_size, *self.hidden_sizes]
        with self.init_scope():
            self.embed = L.EmbedID(vocabulary_size, embedding_size, initialW=chainer.initializers.Uniform(0.1))
            self.layers = chainer.ChainList(*map(LSTMLayer, in_sizes, self.hidden_sizes))
            self.output = chainer.Link()
            with self.output.init_scope():
                self.output.b = chainer.Parameter(0, (vocabulary_size,))
            self.dropout = LockedDropout(dropout)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return tuple(size for size in self.hidden_sizes for _ in "ch")

    def step(self, x: Any, state: State) -> tuple[Any, State]:
        hidden, state = self.sequence(x[None], state)
        return hidden[0], state

    def sequence(self, xs: Any, state: State) -> tuple[Any, State]:
        ys = self.dropout(self.embed(xs))  # (T, B, E)
        new_state: list[Any] = []
        for layer, c, h in zip(self.layers, state[::2], state[1::2], strict=True):
            ys, c, h = layer(ys, c, h)
            ys = self.dropout(ys)
            new_state += [c, h]
        return ys, tuple(new_state)

    def output_parameters(self) -> tuple[Any, Any]:
        return self.embed.W, self.output.b
