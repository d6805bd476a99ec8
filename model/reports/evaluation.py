"""What an evaluation found, as a page."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model import tables
from model.measurement import ALL, BINS, RECALL_AT, Calibration, Evaluation, Measurement
from model.reports import page
from model.tokenizer import Tokenizer

NAME = "evaluation.html"

_MOST = 20  # rows in a table of words
_MOST_LINES = 10  # in one drawing: as many as there are colours
_LONGEST = 40  # columns of the name of a text in a drawing


def write(evaluation: Evaluation, tokenizer: Tokenizer, folder: Path) -> Path:
    """Write `evaluation.html` in `folder`, which is made where it is missing; returns the page's path. `tokenizer` is
    that of the model.

    Raises OSError.
    """
    together = evaluation.together
    how = evaluation.adaptation
    adapting = (
        ""
        if how is None
        else f" The model adapted to each: size {how.size}, theta {how.theta:g}, weight {how.weight:g}."
    )
    inexact = "" if evaluation.streams == 1 else f" Each was read in up to {evaluation.streams} pieces, so not exactly."
    limit = evaluation.words_limit
    limited = "" if limit is None else f" Of each text the first {limit:,} words were read at most."
    parts = [
        page.paragraph(
            f"{together.words:,} words, read by the runtime {evaluation.runtime} on {evaluation.device} at "
            f"{together.words / evaluation.seconds:,.0f} words/s. Each text is one sequence: every word is predicted "
            f"from all the words before it.{limited}{adapting}{inexact}"
        ),
        _table(tables.figures(together), "Figures"),
    ]
    if len(evaluation.texts) > 1:
        parts += [
            page.heading("By text"),
            _table(tables.texts(evaluation), "Figures by text", sum_last=True),
            page.drawing(_perplexities(evaluation), "Bars: the perplexity of each text"),
        ]
    parts += [
        page.heading("How often the next word is among the likeliest"),
        *_recalls(evaluation),
        page.heading("Is it as sure as it is right?"),
        page.paragraph(
            "For each tenth of the probability that the likeliest word was said to have: how often that word came. On "
            f"the diagonal it came as often as was said. Calibration error: {together.calibration.error:.1%}."
        ),
        page.drawing(reliability(together.calibration), "Bars: how often the likeliest word came, by its probability"),
        page.heading("What it gets wrong"),
        _mistakes(together, tokenizer),
        _costs(together, tokenizer),
    ]
    path = folder / NAME
    page.write(path, f"How well {evaluation.model} predicts", parts)
    return path


def _table(table: tables.Table, label: str, *, sum_last: bool = False) -> str:
    return page.table(table.head, table.rows, label=label, sum_last=sum_last)


def _mistakes(measured: Measurement, tokenizer: Tokenizer) -> str:
    rows = [
        (tokenizer.word_of(came), tokenizer.word_of(said), f"{count:,}", f"{count / measured.words:.2%}")
        for (came, said), count in measured.mistakes.most_common(_MOST)
    ]
    head = ("what came", "what was likeliest", "times", "of all words")
    return page.table(head, rows, label="Mistakes", caption="The commonest mistakes.")


def _costs(measured: Measurement, tokenizer: Tokenizer) -> str:
    total = measured.costs.sum()
    rows = [
        (
            tokenizer.word_of(int(id)),
            f"{measured.counts[id]:,.0f}",
            f"{measured.costs[id] / measured.counts[id] / math.log(2):.2f}",
            f"{measured.costs[id] / total:.1%}",
        )
        for id in np.argsort(-measured.costs, kind="stable")[:_MOST]
        if measured.counts[id]
    ]
    head = ("word", "times", "bits each", "of all bits")
    return page.table(
        head, rows, label="Costs", caption="The words that cost most: the log-likelihood is lost on these."
    )


def _perplexities(evaluation: Evaluation) -> Figure:
    names = [_label(name) for name in evaluation.texts]
    figure, axes = _axes(height=1 + 0.35 * len(names), left=0.03 + 0.0135 * max(map(_columns, names)))
    values = [measured.figures[ALL].perplexity for measured in evaluation.texts.values()]
    bars = axes.barh(range(len(names)), values, tick_label=names)
    axes.bar_label(bars, [tables.perplexity(value, 1) for value in values], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("perplexity, all words")
    return figure


def _recalls(evaluation: Evaluation) -> list[str]:
    """The drawing of recalls, and which texts are in it where not all are."""
    figure = page.drawing(_recall(evaluation), "Lines: recall at 1, 3, 5 and 10 of each text that the legend names")
    if len(evaluation.texts) <= _MOST_LINES:
        return [figure]
    said = (
        f"Of {len(evaluation.texts)} texts those three are drawn whose recall@3 is highest, those three whose it is "
        "lowest, and all together."
    )
    return [page.paragraph(said), figure]


def _recall(evaluation: Evaluation) -> Figure:
    """A line a text, the highest recall@3 first, and behind them a thick black one for all together. The legend
    is below."""
    measured = sorted(evaluation.texts.items(), key=lambda item: -item[1].figures[ALL].recall[3])
    if len(measured) > _MOST_LINES:
        measured = measured[:3] + measured[-3:]
    below = 0.3 + 0.22 * (len(measured) + 1)
    figure, axes = _axes(height=4.5 + below, below=below)
    lines = []
    for _, found in measured:
        lines += axes.plot(RECALL_AT, list(found.figures[ALL].recall.values()), marker="o", linewidth=1)
    labels = [_label(name) for name, _ in measured]
    if len(measured) > 1:
        together = list(evaluation.together.figures[ALL].recall.values())
        lines += axes.plot(RECALL_AT, together, marker="o", linewidth=3, color="black", zorder=1)
        labels.append(tables.TOGETHER)
    axes.set_xticks(RECALL_AT)
    axes.set_xlabel("k")
    axes.set_ylabel("recall@k, all words")
    axes.yaxis.set_major_formatter("{x:.0%}")
    figure.legend(lines, labels, fontsize="small", loc="lower center")
    return figure


def _label(name: str) -> str:
    """The name of a text in a drawing: without a meaning to matplotlib, and short enough for it."""
    if _columns(name) > _LONGEST:
        first, last = name[: _LONGEST // 3], name[1 - _LONGEST + _LONGEST // 3 :]
        while _columns(first) > _LONGEST // 3:
            first = first[:-1]
        while _columns(last) > _LONGEST - 1 - _LONGEST // 3:
            last = last[1:]
        name = f"{first}…{last}"
    return name.replace("$", r"\$")


def _columns(text: str) -> int:
    """How wide a text is: two columns a letter of Chinese, Japanese or Korean."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def reliability(calibration: Calibration) -> Figure:
    """How often the likeliest word came, by how likely it was said to be."""
    figure, axes = _axes(height=5)
    some = calibration.counts > 0
    said, right = calibration.said[some] / calibration.counts[some], calibration.right[some] / calibration.counts[some]
    middles = (np.arange(BINS)[some] + 0.5) / BINS
    bars = axes.bar(middles, right, width=0.9 / BINS, alpha=0.5, label="how often it came")
    axes.bar_label(bars, [f"{count:,.0f}" for count in calibration.counts[some]], fontsize="x-small", padding=2)
    axes.plot([0, 1], [0, 1], linestyle="--", color="gray", label="as often as said")
    axes.plot(said, right, marker="o", label="by the mean probability of each bar")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("probability of the likeliest word (numbers: how many words)")
    axes.set_ylabel("share that came")
    axes.legend(fontsize="small")
    return figure


def _axes(height: float, left: float = 0.12, below: float = 0) -> tuple[Figure, Axes]:
    """below: how many inches are left free under the axes and their labels."""
    figure = Figure(figsize=(7, height))
    bottom = (0.6 + below) / height
    axes = figure.add_axes((left, bottom, 0.97 - left, 0.96 - bottom))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes
