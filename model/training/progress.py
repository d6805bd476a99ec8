"""What a training shows while it runs, and what it leaves to look at."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from model.compat import chainer

#: Between two redraws of the bar, in seconds.
_REDRAW_SECONDS = 0.5


class ProgressBar(chainer.training.Extension):
    """A bar with words a second, loss and time left, and a line for each validation."""

    trigger = (1, "iteration")
    priority = chainer.training.PRIORITY_READER - 50

    def __init__(self, console: Console, iterations: int, words_an_iteration: float) -> None:
        self._console = console
        self._iterations = iterations
        self._words_an_iteration = words_an_iteration
        self._loss: float | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def initialize(self, trainer: Any) -> None:
        self._first = trainer.updater.iteration
        self._started = self._drawn = time.monotonic()
        self._task = self._bar.add_task("training", total=self._iterations, completed=self._first, figures="")
        self._bar.start()

    def __call__(self, trainer: Any) -> None:
        observation = trainer.observation
        if "validation/loss" in observation:
            loss = float(observation["validation/loss"])
            self._console.print(
                f"iteration {trainer.updater.iteration:,} of {self._iterations:,} · validation perplexity "
                f"{perplexity(loss):,.2f} · accuracy {float(observation['validation/accuracy']):.3f}"
            )
        now = time.monotonic()
        if now - self._drawn < _REDRAW_SECONDS:
            return
        # The only look at the loss between validations: on a GPU each look waits for the device.
        self._loss = float(observation["main/loss"])
        done = trainer.updater.iteration - self._first
        speed = done * self._words_an_iteration / (now - self._started)
        self._bar.update(
            self._task,
            completed=trainer.updater.iteration,
            figures=f"{speed:,.0f} words/s · loss {self._loss:.3f}",
        )
        self._drawn = now

    def finalize(self) -> None:
        self._bar.stop()


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows; loss in nats a word."""
    return math.exp(loss) if loss < 700 else math.inf


def plot(log: list[dict[str, Any]], out: Path) -> None:
    """Draw `loss.png` and `perplexity.png` in `out` from the entries of Chainer's LogReport."""
    from matplotlib.figure import Figure

    for name, of in (("loss", lambda loss: loss), ("perplexity", perplexity)):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for key, label in (("main/loss", "training"), ("validation/loss", "validation")):
            points = [(entry["epoch_detail"], of(entry[key])) for entry in log if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if label == "validation" else None)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss (nats a word)" if name == "loss" else "perplexity")
        if name == "perplexity":
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(out / f"{name}.png", dpi=120)
