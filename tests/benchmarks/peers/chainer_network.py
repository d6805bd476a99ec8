"""The network in Chainer, used as a tutorial would: a step, a softmax, the ten best of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from model import networks
from model.artifact import Artifact
from model.compat import chainer
from model.runtimes.base import Floats, Ids


class ChainerNetwork:
    """`tests.benchmarks.peers.Network`."""

    def __init__(self, artifact: Artifact) -> None:
        self._network = networks.build(artifact.network)
        for path, parameter in self._network.namedparams():
            parameter.array[...] = artifact.weights[path.lstrip("/")]

    def zero_state(self, batch: int) -> list[Any]:
        return list(self._network.zero_state(batch))

    def step(self, ids: Ids, state: list[Any], k: int) -> tuple[list[Any], Ids, Floats]:
        with chainer.using_config("train", False), chainer.no_backprop_mode():
            hidden, new = self._network.step(ids.astype(np.int32), tuple(state))
            rows = chainer.functions.log_softmax(self._network.logits(hidden)).array
        V = rows.shape[1]
        best = np.argpartition(rows, V - k, axis=1)[:, V - k :]
        values = np.take_along_axis(rows, best, axis=1)
        order = np.argsort(-values, axis=1)
        ids = np.take_along_axis(best, order, axis=1)
        return [chainer.as_array(tensor) for tensor in new], ids, np.take_along_axis(values, order, axis=1)
