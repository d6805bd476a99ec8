"""The mean of the weights over the end of a training, which is often better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from model.compat import chainer
from model.networks import NextWordNetwork


class WeightAveraging(chainer.training.Extension):
    """The mean of the weights after each update (Polyak and Juditsky 1992), from update number `begin` on.

    With a `patience` it begins as soon as a validation was worse than the best of those more than `patience` before it:
    NT-ASGD, where the optimiser is SGD at a constant rate (Merity et al. 2017, section 3). It is part of the snapshot.
    """

    name = "averaging"
    priority = chainer.training.PRIORITY_WRITER + 10  # before the validation, which looks at the mean

    def __init__(self, network: NextWordNetwork, begin: int, patience: int = 0) -> None:
        self._network = network
        self._begin = begin
        self._patience = patience
        self._losses: list[float] = []
        self._triggered = False
        self._count = 0
        self._means: dict[str, Any] = {}

    def __call__(self, trainer: Any) -> None:
        if not self._triggered and trainer.updater.iteration <= self._begin:
            return
        self._count += 1
        for path, parameter in self._network.namedparams():
            if self._count == 1:
                self._means[path] = parameter.array.copy()
            else:
                self._means[path] += (parameter.array - self._means[path]) / self._count

    def saw(self, loss: float) -> None:
        """A validation of the network, with the mean in its place if there was one."""
        before = self._losses[: -self._patience or None]
        if self._patience and len(self._losses) > self._patience and loss > min(before):
            self._triggered = True
        self._losses.append(loss)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the mean for weights, if there is one, until the end of the `with` block."""
        weights = {path: parameter.array.copy() for path, parameter in self._network.namedparams()}
        self._set(self._means)
        try:
            yield
        finally:
            self._set(weights)

    def settle(self) -> None:
        """The mean becomes the network's weights, if there is one."""
        self._set(self._means)

    def _set(self, weights: dict[str, Any]) -> None:
        # In place: what computes on a GPU may know the arrays by their addresses.
        for path, parameter in self._network.namedparams():
            if path in weights:
                parameter.array[...] = weights[path]

    def serialize(self, serializer: Any) -> None:
        reads = isinstance(serializer, chainer.Deserializer)
        self._count = serializer("count", self._count)
        self._triggered = bool(serializer("triggered", self._triggered))
        self._losses = list(map(float, serializer("losses", None if reads else np.array(self._losses, np.float64))))
        for path, parameter in self._network.namedparams() if self._count else ():
            mean = serializer(f"mean{path}", None if reads else self._means[path])
            self._means[path] = parameter.device.send(mean)
