"""How AWD-LSTM is trained (Merity et al. 2017, arXiv:1708.02182); what is kept and served is an `lstm_stack`."""

from __future__ import annotations

from typing import Any

from model.compat import chainer
from model.networks.activation_regularisation import activation_penalty, temporal_penalty
from model.networks.embedding_dropout import embed_dropped
from model.networks.locked_dropout import LockedDropout
from model.networks.lstm_stack import LSTMStack
from model.networks.network import State
from model.networks.weight_drop import weight_drop
from model.recurrence import lstm


class AWDLSTM(LSTMStack):
    """An `LSTMStack` under every regularisation of AWD-LSTM; outside training, and on disk, it is one.

    Ratios of dropout: `embedding` of words, `input` of the embedded words, `hidden` between the layers, `output` before
    the tied softmax, `weight` of the recurrent matrices. `activation` and `temporal` are the factors of AR and TAR,
    which `penalty` holds after each window read in training.
    """

    def __init__(
        self,
        *,
        embedding: float = 0.0,
        input: float = 0.0,
        hidden: float = 0.0,
        output: float = 0.0,
        weight: float = 0.0,
        activation: float = 0.0,
        temporal: float = 0.0,
        **sizes: Any,
    ) -> None:
        """sizes: the arguments of `LSTMStack`, and errors as there."""
        super().__init__(**sizes)
        self._embedding = embedding
        self._weight = weight
        self._factors = activation, temporal
        with self.init_scope():
            self.input_dropout = LockedDropout(input)
            self.hidden_dropout = LockedDropout(hidden)
            self.output_dropout = LockedDropout(output)

    def sequence(self, xs: Any, state: State) -> tuple[Any, State]:
        ys = self.input_dropout(embed_dropped(self.embed.W, xs, self._embedding))  # (T, B, E)
        dropouts = [self.hidden_dropout] * (len(self.layers) - 1) + [self.output_dropout]
        new_state: list[Any] = []
        for layer, dropout, c, h in zip(self.layers, dropouts, state[::2], state[1::2], strict=True):
            hs, h, c = lstm(ys, h, c, layer.W_x, weight_drop(layer.W_h, self._weight), layer.b)
            ys = dropout(hs)
            new_state += [c, h]
        if chainer.config.train:
            alpha, beta = self._factors
            self.penalty = activation_penalty(ys, alpha) + temporal_penalty(hs, beta)
        return ys, tuple(new_state)
