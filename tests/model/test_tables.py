from collections import Counter

import numpy as np
import pytest

from model import tables
from model.measurement import ALL, BINS, WITHOUT_UNKNOWN, Calibration, Evaluation, Figures, Measurement


def measurement(words: int, perplexity: float, hits: tuple[int, int, int, int], keys: tuple[int, int]) -> Measurement:
    """Of two sets of targets, the second without one of `words`; the likeliest word was always said to be 0.75."""
    nats = float(np.log(perplexity))
    recall = dict(zip((1, 3, 5, 10), hits, strict=True))
    counts = np.eye(BINS)[7] * words
    return Measurement(
        words,
        {
            ALL: Figures(words, nats * words, recall, keys),
            WITHOUT_UNKNOWN: Figures(words - 1, nats * (words - 1), recall, None),
        },
        Calibration(counts, counts * 0.75, np.eye(BINS)[7] * hits[0]),
        np.zeros(3),
        np.zeros(3),
        Counter(),
    )


FIRST, SECOND = (
    measurement(1000, 64, (400, 500, 600, 700), (100, 50)),
    measurement(3000, 2**30, (0, 3, 6, 9), (300, 270)),
)


def test_each_figure_is_in_its_row_for_each_set_of_targets() -> None:
    assert tables.figures(FIRST) == tables.Table(
        ("figure", ALL, WITHOUT_UNKNOWN),
        [
            ("targets", "1,000", "999"),
            ("perplexity", "64.00", "64.00"),
            ("bits a word", "6.000", "6.000"),
            ("recall@1", "40.0%", "40.0%"),
            ("recall@3", "50.0%", "50.1%"),
            ("recall@5", "60.0%", "60.1%"),
            ("recall@10", "70.0%", "70.1%"),
            ("keystroke savings, 3 offered", "50.0%", "-"),
        ],
    )


def test_each_figure_of_each_text_is_in_its_column() -> None:
    evaluation = Evaluation("tiny@1", "table", "cpu", 1, 2.0, {"a": FIRST, "b": SECOND})
    table = tables.texts(evaluation)
    assert table.head == ("text", "words", "perplexity", "recall@1", "recall@3", "keys saved", "calib. error")
    assert table.rows == [
        ("a", "1,000", "64.00", "40.0%", "50.0%", "50.0%", "35.0%"),
        ("b", "3,000", "1.07e+09", "0.0%", "0.1%", "10.0%", "75.0%"),
        ("together", "4,000", f"{2 ** (6 / 4 + 30 * 3 / 4):.3g}", "10.0%", "12.6%", "20.0%", "65.0%"),
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(1.5, "1.50"), (999_999.5, "999,999.50"), (1e6, "1e+06"), (1.5e300, "1.5e+300")]
)
def test_a_huge_perplexity_is_short(value: float, shown: str) -> None:
    assert tables.perplexity(value) == shown
