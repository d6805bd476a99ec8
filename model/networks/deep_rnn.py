"""The deep recurrent network: recurrent blocks stacked, each block's output the next one's input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.compat import chainer
from model.networks.network import NextWordNetwork, State

F, L = chainer.functions, chainer.links


class RecurrentBlock(chainer.Chain):
    """``h' = tanh(W_l x + W_r h)``: x (B, in_size), h (B, out_size) -> (B, out_size)."""

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        with self.init_scope():
            self.l = L.Linear(in_size, out_size)
            self.r = L.Linear(out_size, out_size)

    def forward(self, x: Any, h: Any) -> Any:
        return F.tanh(self.l(x) + self.r(h))


class DeepRNN(NextWordNetwork):
    """An embedding, recurrent blocks of any sizes, an output layer; state (h of each block, lowest first)."""

    kind = "deep_rnn"

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.embedding_size = embedding_size
        self.hidden_sizes = list(hidden_sizes)
        in_sizes = [embedding_size, *self.hidden_sizes]
        with self.init_scope():
            self.embed = L.EmbedID(vocabulary_size, embedding_size)
            self.blocks = chainer.ChainList(*map(RecurrentBlock, in_sizes, self.hidden_sizes))
            self.output = L.Linear(in_sizes[-1], vocabulary_size)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return tuple(self.hidden_sizes)

    def step(self, x: Any, state: State) -> tuple[Any, State]:
        y = self.embed(x)
        new_state = []
        for block, h in zip(self.blocks, state, strict=True):
            y = block(y, h)  # (B, H of the block)
            new_state.append(y)
        return y, tuple(new_state)

    def output_parameters(self) -> tuple[Any, Any]:
        return self.output.W, self.output.b
