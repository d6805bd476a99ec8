"""The tables of an evaluation, as rows of text: for a terminal and for a page."""

from __future__ import annotations

from dataclasses import dataclass

from model.keystrokes import SUGGESTIONS
from model.measurement import ALL, RECALL_AT, Evaluation, Measurement

TOGETHER = "together"
MISSING = "-"

_MOST_IN_FULL = 1e6  # a perplexity may have three hundred digits


@dataclass(frozen=True, slots=True)
class Table:
    """The first column names the rows, each of which is as long as `head`."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def figures(measured: Measurement) -> Table:
    """All that was found for one text: a row a figure, a column a set of targets."""
    found = measured.figures.values()
    rows: list[tuple[str, ...]] = [
        ("targets", *(f"{each.targets:,}" for each in found)),
        ("perplexity", *(perplexity(each.perplexity) for each in found)),
        ("bits a word", *(f"{each.bits:.3f}" for each in found)),
    ]
    rows += [(f"recall@{k}", *(f"{each.recall[k]:.1%}" for each in found)) for k in RECALL_AT]
    rows.append((f"keystroke savings, {SUGGESTIONS} offered", *(share(each.keystroke_savings) for each in found)))
    return Table(("figure", *measured.figures), rows)


def texts(evaluation: Evaluation) -> Table:
    """The figures for all words: a row a text, and one for all of them together."""
    head = ("text", "words", "perplexity", "recall@1", "recall@3", "keys saved", "calib. error")
    rows = [_row(name, measured) for name, measured in evaluation.texts.items()]
    return Table(head, [*rows, _row(TOGETHER, evaluation.together)])


def perplexity(value: float, decimals: int = 2) -> str:
    """In full, or as a power of ten where that would fill a line."""
    return f"{value:,.{decimals}f}" if value < _MOST_IN_FULL else f"{value:.3g}"


def share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1%}"


def _row(name: str, measured: Measurement) -> tuple[str, ...]:
    found = measured.figures[ALL]
    return (
        name,
        f"{measured.words:,}",
        perplexity(found.perplexity),
        share(found.recall[1]),
        share(found.recall[3]),
        share(found.keystroke_savings),
        share(measured.calibration.error),
    )
