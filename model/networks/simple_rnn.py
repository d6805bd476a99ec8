"""The simple recurrent network (Elman 1990)."""

from __future__ import annotations

from typing import Any

from model.compat import chainer
from model.networks.network import NextWordNetwork, State

F, L = chainer.functions, chainer.links


class SimpleRNN(NextWordNetwork):
    """``h_t = tanh(W_xh x_t + W_hh h_{t-1})``, ``y_t = W_hy h_t``; state (h,).

    `l1` holds W_xh, `r1` holds W_hh, `l2` holds W_hy, each with a bias.
    """

    kind = "simple_rnn"

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        with self.init_scope():
            self.embed = L.EmbedID(vocabulary_size, embedding_size)
            self.l1 = L.Linear(embedding_size, hidden_size)
            self.r1 = L.Linear(hidden_size, hidden_size)
            self.l2 = L.Linear(hidden_size, vocabulary_size)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size,)

    def step(self, x: Any, state: State) -> tuple[Any, State]:
        (h,) = state
        h = F.tanh(self.l1(self.embed(x)) + self.r1(h))  # (B, H)
        return h, (h,)

    def output_parameters(self) -> tuple[Any, Any]:
        return self.l2.W, self.l2.b
