"""What happens around the updates of a training. None of it keeps anything that a snapshot would have to hold."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compat import chainer
from model.networks import NextWordNetwork
from model.training import snapshot
from model.training.averaging import WeightAveraging
from model.training.folder import SNAPSHOT
from model.training.one_cycle import one_cycle
from model.training.processes import Processes
from model.training.progress import perplexity
from model.training.recipe import Training
from model.training.schedule import learning_rate
from model.training.updater import DivergedError
from model.training.validation import validate


class LearningRate(chainer.training.Extension):
    """Sets the rate of the next update from how many there have been, and with `jitter` from its window's length."""

    priority = chainer.training.PRIORITY_EDITOR

    def __init__(self, settings: Training, total: int) -> None:
        self._settings = settings
        self._total = total

    def initialize(self, trainer: Any) -> None:
        self(trainer)

    def __call__(self, trainer: Any) -> None:
        settings = self._settings
        optimizer = trainer.updater.get_optimizer("main")
        progress = (trainer.updater.iteration + 1) / self._total
        if settings.schedule == "one_cycle":
            rate, optimizer.beta1 = one_cycle(progress, settings.learning_rate)
        else:
            rate = learning_rate(progress, peak=settings.learning_rate, warmup=settings.warmup, decay=settings.decay)
        if settings.jitter:
            rate *= trainer.updater.get_iterator("main").next_length / settings.window
        if settings.optimizer == "adam":
            optimizer.alpha = rate
        else:
            optimizer.lr = rate


class Validation(chainer.training.Extension):
    """Reports how well the validation text is predicted. Raises DivergedError where it cannot be told."""

    name = "validation"
    priority = chainer.training.PRIORITY_WRITER

    def __init__(
        self,
        network: NextWordNetwork,
        ids: NDArray[np.int32],
        start: int | None,
        settings: Training,
        averaging: WeightAveraging | None,
    ) -> None:
        self._network = network
        self._averaging = averaging
        self._ids = ids[: settings.validation_words]
        self._start = start
        self._window = settings.window

    def __call__(self, _trainer: Any) -> None:
        averaging = self._averaging
        with nullcontext() if averaging is None else averaging.in_place():
            loss, accuracy = validate(self._network, self._ids, start=self._start, window=self._window)
        if averaging is not None:
            averaging.saw(loss)
        if not math.isfinite(loss):
            raise DivergedError(f"the validation loss is {loss}")
        chainer.report(
            {"validation/loss": loss, "validation/accuracy": accuracy, "validation/perplexity": perplexity(loss)}
        )


class Snapshot(chainer.training.Extension):
    """Saves the trainer every so often, by the first process's clock; runs last, when an iteration is whole."""

    priority = -200

    def __init__(self, seconds: float, processes: Processes) -> None:
        self._seconds = seconds
        self._processes = processes
        self._saved = time.monotonic()

    def __call__(self, trainer: Any) -> None:
        processes = self._processes
        if processes.any(processes.first and time.monotonic() - self._saved >= self._seconds):
            snapshot.save(Path(trainer.out) / SNAPSHOT, trainer, processes)
            self._saved = time.monotonic()


class At:
    """A trigger that needs no memory: every `interval` iterations, every `also` and at the last."""

    def __init__(self, interval: int, last: int, also: int | None = None) -> None:
        self._intervals = (interval,) if also is None else (interval, also)
        self._last = last

    def __call__(self, trainer: Any) -> bool:
        iteration = trainer.updater.iteration
        return iteration == self._last or any(iteration % interval == 0 for interval in self._intervals)
