"""The curves of a training: two plots, and a page that has them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from model import tables
from model.reports import page
from model.training.folder import LOSS_PLOT, PERPLEXITY_PLOT, TRAINING_PAGE, replacing
from model.training.progress import perplexity

#: Entries of Chainer's LogReport.
Log = Sequence[dict[str, Any]]

_ROWS = 30  # validations in the table at most: the last ones


def write(log: Log, title: str, out: Path) -> None:
    """Draw `loss.png`, `perplexity.png` and `training.html` in `out` from the entries of Chainer's LogReport.

    Raises OSError, with each file either new or untouched.
    """
    losses = {"main/loss": "training", "main/candidate_loss": "training, over candidates"}
    loss = _curves(log, "loss (nats a word)", losses | {"validation/loss": "validation"})
    powers = _curves(
        log, "perplexity", {"main/loss": "training", "validation/loss": "validation"}, of=_drawn_perplexity
    )
    _logarithmic(powers.axes[0])
    for name, figure in ((LOSS_PLOT, loss), (PERPLEXITY_PLOT, powers)):
        with replacing(out / name) as file:
            figure.savefig(file, dpi=120, format="png")
    validations = [entry for entry in log if "validation/loss" in entry]
    parts = [page.paragraph(_summary(log, validations))]
    for heading, figure in (
        ("Perplexity", powers),
        ("Loss", loss),
        ("Accuracy", _curves(log, "share of right words", {"validation/accuracy": "validation"})),
        ("Size of the gradient, before it is clipped", _curves(log, "L2 norm", {"main/gradient_norm": "training"})),
    ):
        if figure.axes[0].lines:
            parts += [page.heading(heading), page.drawing(figure, f"{heading} by epoch")]
    if validations:
        parts += [page.heading("Validations"), _table(validations)]
    page.write(out / TRAINING_PAGE, title, parts)


def _summary(log: Log, validations: Log) -> str:
    if not validations:
        return f"{log[-1]['epoch_detail']:.2f} epochs so far, and no validation yet." if log else "Nothing yet."
    best = min(validations, key=lambda entry: float(entry["validation/loss"]))
    return (
        f"{log[-1]['epoch_detail']:.2f} epochs so far. Lowest validation perplexity: "
        f"{tables.perplexity(perplexity(best['validation/loss']))}, after {best['epoch_detail']:.2f} epochs."
    )


def _table(validations: Log) -> str:
    rows = [
        (
            f"{entry['epoch_detail']:.2f}",
            f"{entry['iteration']:,}",
            tables.perplexity(perplexity(entry["validation/loss"])),
            f"{entry['validation/accuracy']:.1%}" if "validation/accuracy" in entry else "-",
        )
        for entry in validations[-_ROWS:]
    ]
    return page.table(("epoch", "iteration", "perplexity", "accuracy"), rows, label="Validations")


def _drawn_perplexity(loss: float) -> float:
    return perplexity(loss) if loss < 100 else math.nan  # nan: a gap


def _curves(log: Log, label: str, lines: dict[str, str], of: Callable[[float], float] = float) -> Figure:
    """One figure by epoch; `lines` names the keys of the log that are drawn."""
    figure = Figure(figsize=(7, 4.5))
    axes = figure.add_axes((0.12, 0.12, 0.85, 0.84))  # a layout engine takes longer than all the drawing
    for key, of_what in lines.items():
        points = [(entry["epoch_detail"], of(entry[key])) for entry in log if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=of_what, marker="." if of_what == "validation" else None)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return figure


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
