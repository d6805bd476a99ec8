"""The recurrent networks, defined in Chainer: one file a network, `network.py` what they have in common."""

from __future__ import annotations

from typing import Any

from model.networks.concat_rnn import ConcatRNN
from model.networks.deep_rnn import DeepRNN
from model.networks.gru import GRU
from model.networks.lstm import LSTM
from model.networks.lstm_stack import LSTMStack
from model.networks.network import NextWordNetwork
from model.networks.simple_rnn import SimpleRNN

__all__ = ["GRU", "LSTM", "NETWORKS", "ConcatRNN", "DeepRNN", "LSTMStack", "NextWordNetwork", "SimpleRNN", "build"]

NETWORKS: dict[str, type[NextWordNetwork]] = {
    network.kind: network for network in (SimpleRNN, DeepRNN, ConcatRNN, GRU, LSTM, LSTMStack)
}


def build(network: dict[str, Any]) -> NextWordNetwork:
    """The network that `{"kind": ..., **arguments}` describes, with fresh weights.

    Raises ValueError for an unknown kind, TypeError for arguments that do not fit it.
    """
    arguments = dict(network)
    kind = arguments.pop("kind", None)
    if kind not in NETWORKS:
        raise ValueError(f"no network of the kind {kind!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[kind](**arguments)
