"""How well a network in training predicts text it does not learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compat import chainer
from model.networks import NextWordNetwork
from model.training.batches import ParallelSequentialIterator

#: As many parallel streams as are quick; each starts in mid-text, so a stream is at least so long that its first words
#: do not show in the figures, and a short text is read as one.
_STREAMS = 10
_WORDS_A_STREAM = 1000


def validate(
    network: NextWordNetwork, ids: NDArray[np.integer[Any]], *, start: int | None = None, window: int = 35
) -> tuple[float, float]:
    """Mean cross entropy (nats a word) and accuracy over `ids` (N,), read from where a session begins: the zero state,
    with the word `start` consumed if there is one. A training meets the zero state once, and a network may never find
    from there to where that word leads: one had a perplexity of 79 without it, and of 66 with it.

    Texts of 2,000 words and more are read as parallel streams: quick and near enough to steer a training by;
    `nextword evaluate` gives the figures to report. The network's own state is left as it is. Raises ValueError when
    `ids` are fewer than two words.
    """
    kept = network.state
    device = network.device
    streams = min(_STREAMS, max(1, len(ids) // _WORDS_A_STREAM))
    batches = ParallelSequentialIterator(ids, streams, window, repeat=False)
    losses = hits = 0.0
    words = 0
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        network.reset_state()
        if start is not None:
            network(device.send(np.full((1, streams), start, np.int32)))
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
