"""The recurrent network written as one layer: input and recurrent units concatenated, the output split."""

from __future__ import annotations

from typing import Any

from model.compat import chainer
from model.networks.network import NextWordNetwork, State

F, L = chainer.functions, chainer.links


class ConcatRNN(NextWordNetwork):
    """``z = tanh(W [x; r] + b)``; the first R units of z are the recurrent units r', the other O units go on to the
    output layer; state (r, o), since o is what the vocabulary is projected from.

    Input and recurrent weights side by side in one matrix are the sum of two Linears; what differs from the simple
    network is that not all units have to both remember and predict.
    """

    kind = "concat_rnn"

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.output_size = output_size
        with self.init_scope():
            self.embed = L.EmbedID(vocabulary_size, embedding_size)
            self.l1 = L.Linear(embedding_size + hidden_size, hidden_size + output_size)
            self.l2 = L.Linear(output_size, vocabulary_size)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.output_size)

    def step(self, x: Any, state: State) -> tuple[Any, State]:
        r, _ = state
        z = F.tanh(self.l1(F.concat([self.embed(x), r], axis=1)))  # (B, R + O)
        r, o = F.split_axis(z, [self.hidden_size], axis=1)
        return o, (r, o)

    def output_parameters(self) -> tuple[Any, Any]:
        return self.l2.W, self.l2.b
