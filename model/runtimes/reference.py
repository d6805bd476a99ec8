"""The reference: the Chainer network itself. Every other runtime has to agree with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from model import networks
from model.artifact import Artifact
from model.compat import chainer
from model.devices import cuda_device_count
from model.runtimes.base import Floats, Ids, Projection, State, SubsetProjection, WordsProjection
from model.shapes import state_tensors


class ReferenceRuntime:
    """Runs a model's network as Chainer defines it, float32, on the first GPU if there is one, else on the CPU."""

    name = "chainer"
    threads = 1

    def __init__(self, artifact: Artifact) -> None:
        self._network = networks.build(artifact.network)
        for name, weight in self._network.weights.items():
            weight[...] = artifact.weights[name]
        self._device = chainer.get_device("@cupy:0" if cuda_device_count() else "@numpy")
        self._network.to_device(self._device)
        self.device = "cuda:0" if cuda_device_count() else "cpu"
        self.vocabulary_size = int(artifact.network["vocabulary_size"])
        self.state_tensors = state_tensors(artifact.network)

    def zero_state(self, batch: int) -> State:
        return tuple(np.zeros((batch, tensor.size), np.float32) for tensor in self.state_tensors)

    def advance(self, ids: Ids, state: State) -> State:
        if len(ids) == 0:
            return self.zero_state(0)
        with chainer.using_config("train", False), chainer.no_backprop_mode():
            _, new = self._network.step(self._send(ids.astype(np.int32)), tuple(map(self._send, state)))
        return tuple(map(self._fetch, new))

    def project(self, hidden: Floats, *, top_k: int, targets: Ids | None = None) -> Projection:
        rows = self.log_probabilities(hidden)
        top_ids = _top(rows, top_k)
        if targets is None:
            target_log_probabilities, target_ranks = np.empty(0, np.float32), np.empty(0, np.int64)
        else:
            of_target = np.take_along_axis(rows, targets[:, None], axis=1)  # (R, 1)
            earlier = np.arange(self.vocabulary_size) < targets[:, None]
            target_log_probabilities = of_target[:, 0]
            target_ranks = 1 + ((rows > of_target) | ((rows == of_target) & earlier)).sum(axis=1)
        return Projection(
            top_ids=top_ids,
            top_log_probabilities=np.take_along_axis(rows, top_ids, axis=1),
            entropies=-(np.exp(rows) * rows).sum(axis=1, dtype=np.float32),
            target_log_probabilities=target_log_probabilities,
            target_ranks=target_ranks,
        )

    def project_subset(self, hidden: Floats, ids: Ids, *, top_k: int) -> SubsetProjection:
        rows = self.log_probabilities(hidden)[:, ids]
        top = _top(rows, min(top_k, len(ids)))
        with np.errstate(divide="ignore"):
            log_probabilities = np.log(np.exp(rows).sum(axis=1))
        return SubsetProjection(
            top_ids=ids[top],
            top_log_probabilities=np.take_along_axis(rows, top, axis=1),
            log_probabilities=log_probabilities,
        )

    def project_words(self, hidden: Floats, words: Ids, *, top_k: int) -> WordsProjection:
        rows = self.log_probabilities(hidden)
        top_ids = _top(rows, top_k)
        return WordsProjection(
            top_ids=top_ids,
            top_log_probabilities=np.take_along_axis(rows, top_ids, axis=1),
            entropies=-(np.exp(rows) * rows).sum(axis=1, dtype=np.float32),
            log_probabilities=np.take_along_axis(rows, words, axis=1),
        )

    def log_probabilities(self, hidden: Floats) -> Floats:
        if len(hidden) == 0:
            return np.empty((0, self.vocabulary_size), np.float32)
        with chainer.using_config("train", False), chainer.no_backprop_mode():
            logits = self._network.logits(self._send(hidden))
            return self._fetch(chainer.functions.log_softmax(logits))

    def _send(self, array: Any) -> Any:
        return self._device.send(np.ascontiguousarray(array))

    def _fetch(self, variable: Any) -> Floats:
        array: Floats = chainer.backends.cuda.to_cpu(chainer.as_array(variable))
        return array


def _top(rows: Floats, k: int) -> Ids:
    """The places of the k largest of each row, largest first, equal ones in rising order: (R, N) -> (R, k)."""
    return np.argsort(-rows, axis=1, kind="stable")[:, :k].astype(np.int64)
