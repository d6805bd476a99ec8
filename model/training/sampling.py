"""A loss over a sample of the vocabulary: on a CPU the words that are never right are most of a step's cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compat import chainer
from model.loss import linear_softmax_cross_entropy

F = chainer.functions


class CandidateSampler:
    """Sampled softmax with importance correction (Bengio and Senecal 2008; Jean et al. 2015).

    The candidates of a window are its own target words and `size` draws from the unigram distribution raised to 0.75
    (Mikolov et al. 2013). Each candidate's logit is lowered by the logarithm of the probability that it became one, so
    that over many windows the gradient is near the full softmax's.

    A word that does not stand in the text is drawn as the rarest of those that do: else nothing would hold its
    probability down, and in a fine-tuning, whose words are another text's, it would grow until the loss is over all
    words.
    """

    def __init__(self, counts: NDArray[np.integer[Any]], size: int, targets_a_window: int) -> None:
        """counts (V,): how often each word stands in the training text. targets_a_window: how many targets `loss` is
        given at once."""
        unigram = counts / counts.sum()
        proposal = np.maximum(counts, counts[counts > 0].min()) ** 0.75
        proposal /= proposal.sum()
        self._size = size
        self._cumulative = np.cumsum(proposal)
        absent = (1 - proposal) ** size * (1 - unigram) ** targets_a_window
        with np.errstate(divide="ignore"):  # a word that is never a candidate, where none are drawn
            self._log_inclusion = np.log1p(-absent).astype(np.float32)

    def draw(self, targets: NDArray[np.integer[Any]], random: np.random.Generator) -> NDArray[np.int32]:
        """Candidate ids in rising order, each once, all of `targets` (N,) among them."""
        at = random.random(self._size) * self._cumulative[-1]
        sampled = np.searchsorted(self._cumulative, at, side="right").clip(max=len(self._cumulative) - 1)
        return np.union1d(sampled, targets).astype(np.int32)

    def loss(self, h: Any, W: Any, b: Any, t: NDArray[np.integer[Any]], random: np.random.Generator) -> Any:
        """As `linear_softmax_cross_entropy(h, W, b, t)`, in nats over the candidates: an estimate for training only.

        t (N,) is a NumPy array wherever the others are: the candidates are drawn on the host.
        """
        device = chainer.backend.get_device_from_array(h.array)
        candidates = self.draw(t, random)
        places = np.searchsorted(candidates, t).astype(np.int32)
        correction = device.send(self._log_inclusion[candidates])
        chosen = device.send(candidates)
        return linear_softmax_cross_entropy(
            h, F.embed_id(chosen, W), F.get_item(b, chosen) - correction, device.send(places)
        )
