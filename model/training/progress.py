"""What a training shows while it runs, and what it leaves to look at."""

from __future__ import annotations

import json
import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from model import tables
from model.compat import chainer
from model.training.folder import LOG, replacing

#: Between two redraws of the bar, in seconds; where there is no terminal, between two lines.
_REDRAW_SECONDS = 0.5
_LINE_SECONDS = 30.0


class ProgressBar(chainer.training.Extension):
    """A bar with words a second, loss and time left, and a line for each validation; without a terminal, lines only."""

    priority = chainer.training.PRIORITY_READER - 50

    def __init__(self, console: Console, iterations: int, words_an_iteration: float) -> None:
        self._console = console
        self._iterations = iterations
        self._words_an_iteration = words_an_iteration
        self._pause = _REDRAW_SECONDS if console.is_terminal else _LINE_SECONDS
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def initialize(self, trainer: Any) -> None:
        self._first = trainer.updater.iteration
        self._started = self._drawn = time.monotonic()
        self._task = self._bar.add_task("training", total=self._iterations, completed=self._first, figures="")
        self._bar.start()

    def __call__(self, trainer: Any) -> None:
        iteration = trainer.updater.iteration
        observation = trainer.observation
        now = time.monotonic()
        speed = (iteration - self._first) * self._words_an_iteration / max(now - self._started, 1e-9)
        at = f"iteration {iteration:,} of {self._iterations:,} · {speed:,.0f} words/s"
        if "validation/loss" in observation:
            loss = float(observation["validation/loss"])
            self._console.print(
                f"{at} · validation perplexity {tables.perplexity(perplexity(loss))} · "
                f"accuracy {float(observation['validation/accuracy']):.3f}"
            )
        if now - self._drawn < self._pause:
            return
        self._drawn = now
        # The only look at the loss between validations: on a GPU each look waits for the device.
        over_all = "main/loss" in observation
        what = "loss" if over_all else "candidate loss"
        loss = float(observation["main/loss" if over_all else "main/candidate_loss"])
        if self._console.is_terminal:
            self._bar.update(self._task, completed=iteration, figures=f"{speed:,.0f} words/s · {what} {loss:.3f}")
        else:
            left = timedelta(seconds=round((self._iterations - iteration) * self._words_an_iteration / speed))
            self._console.print(f"{at} · {what} {loss:.3f} · {left} left")

    def finalize(self) -> None:
        self._bar.stop()


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows; loss in nats a word."""
    return math.exp(loss) if loss < 700 else math.inf


def write_log(log: list[dict[str, Any]], out: Path) -> None:
    """Replace `out/log` by the entries of Chainer's LogReport, as JSON. Raises OSError, with the old file untouched."""
    with replacing(out / LOG) as file:
        file.write(json.dumps(log, indent=4).encode())
