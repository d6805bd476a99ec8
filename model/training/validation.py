"""How well a network in training predicts text it does not learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compat import chainer
from model.networks import NextWordNetwork
from model.training.batches import ParallelSequentialIterator


def validate(
    network: NextWordNetwork, ids: NDArray[np.integer[Any]], *, streams: int = 10, window: int = 35
) -> tuple[float, float]:
    """Mean cross entropy (nats a word) and accuracy over `ids` (N,), read as parallel streams from the zero state.

    Quick and near enough to steer a training by; `nextword evaluate` gives the figures to report. The network's own
    state is left as it is.
    """
    kept = network.state
    device = network.device
    streams = max(1, min(streams, (len(ids) - 1) // 2))
    batches = ParallelSequentialIterator(ids, streams, window, repeat=False)
    losses = hits = 0.0
    words = 0
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        network.reset_state()
        for xs, ts in batches:
            targets = device.send(np.ascontiguousarray(ts).ravel())
            hidden = network(device.send(np.ascontiguousarray(xs)))
            logits = network.logits(hidden.reshape(-1, hidden.shape[-1])).array
            highest = logits.max(axis=1, keepdims=True)
            normaliser = device.xp.log(device.xp.exp(logits - highest).sum(axis=1)) + highest[:, 0]
            at = (device.xp.arange(len(targets)), targets)
            losses += float((normaliser - logits[at]).sum())
            hits += float((logits.argmax(axis=1) == targets).sum())
            words += len(targets)
    network.state = kept
    return losses / words, hits / words
