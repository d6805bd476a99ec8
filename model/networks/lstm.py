"""The two-layer LSTM language model of Chainer's `ptb` example (Zaremba et al. 2014)."""

from __future__ import annotations

from typing import Any

from model.compat import chainer
from model.networks.network import NextWordNetwork, State

F, L = chainer.functions, chainer.links


class LSTM(NextWordNetwork):
    """Embedding, two LSTM layers and output, all of one size; state (c1, h1, c2, h2).

    Parameters are named and laid out as `chainer.links.LSTM` does, so checkpoints of that example fit: gate rows are
    interleaved a, i, f, o for each unit. `dropout` (training only) stands before each of the three matrices, a fresh
    mask each step.
    """

    kind = "lstm"

    def __init__(self, vocabulary_size: int, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.hidden_size = hidden_size
        self.dropout = dropout
        with self.init_scope():
            self.embed = L.EmbedID(vocabulary_size, hidden_size)
            self.l1 = L.StatelessLSTM(hidden_size, hidden_size)
            self.l2 = L.StatelessLSTM(hidden_size, hidden_size)
            self.l3 = L.Linear(hidden_size, vocabulary_size)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size,) * 4

    def step(self, x: Any, state: State) -> tuple[Any, State]:
        c1, h1, c2, h2 = state
        c1, h1 = self.l1(c1, h1, F.dropout(self.embed(x), self.dropout))
        c2, h2 = self.l2(c2, h2, F.dropout(h1, self.dropout))
        # The mask before l3 belongs to what is projected, not to the state.
        return F.dropout(h2, self.dropout), (c1, h1, c2, h2)

    def output_parameters(self) -> tuple[Any, Any]:
        return self.l3.W, self.l3.b
