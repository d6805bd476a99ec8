import base64
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import cbook

from model import evaluation
from model.measurement import ALL, Calibration, Evaluation
from model.reports import evaluation as report
from model.reports.evaluation import write
from model.runtimes.reference import ReferenceRuntime
from tests.model.test_evaluation import TEXTS, WORDS, model_of
from tests.model.test_tables import measurement

HOSTILE = '<script>alert("&")</script>'


class Reader(HTMLParser):
    """What a page loads, and the cells of its tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.cells: list[str] = []
        self.scrolled: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if dict(attributes).get("class") == "scroll":
            self.scrolled.append({name: value for name, value in attributes if name != "class"})
        self.loaded += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def found() -> Evaluation:
    artifact = model_of(WORDS)
    return evaluation.evaluate(artifact, ReferenceRuntime(artifact), {**TEXTS, HOSTILE: "the cat sat."})


def page_of(found: Evaluation, folder: Path) -> str:
    path = write(found, model_of(WORDS).tokenizer, folder)
    assert path == folder / "evaluation.html"
    return path.read_text()


def test_everything_is_in_the_page(found: Evaluation, tmp_path: Path) -> None:
    page = page_of(found, tmp_path / "deep" / "report")
    read = Reader(page)
    assert "script" not in read.tags
    assert "link" not in read.tags
    assert len(read.loaded) == 3  # perplexities, recall, reliability
    for picture in read.loaded:
        kind, data = picture.split(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")  # noqa: S314
    assert "url(" not in page
    assert "@import" not in page


def test_what_was_found_is_in_its_tables(found: Evaluation, tmp_path: Path) -> None:
    cells = [cell.strip() for cell in Reader(page_of(found, tmp_path)).cells]
    for measured in (*found.texts.values(), found.together):
        assert f"{measured.figures[ALL].perplexity:,.2f}" in cells
        assert f"{measured.words:,}" in cells
    assert HOSTILE in cells
    (came, said), times = found.together.mistakes.most_common(1)[0]
    first = cells.index("of all words") + 1
    assert cells[first : first + 3] == [WORDS[came], WORDS[said], f"{times}"]
    costly = int(found.together.costs.argmax())
    assert cells[cells.index("of all bits") + 1] == WORDS[costly]


def test_the_page_can_be_used_with_keys_and_be_heard(found: Evaluation, tmp_path: Path) -> None:
    read = Reader(page_of(found, tmp_path))
    assert read.scrolled == [
        {"tabindex": "0", "role": "region", "aria-label": label}
        for label in ("Figures", "Figures by text", "Mistakes", "Costs")
    ]
    assert read.tags.count("main") == 1
    assert read.tags.index("main") < read.tags.index("h1")
    assert read.cells.count("") == 0
    assert read.cells[0] == "figure"


def test_the_same_figures_give_the_same_page(found: Evaluation, tmp_path: Path) -> None:
    assert page_of(found, tmp_path / "a") == page_of(found, tmp_path / "b")


def test_one_text_is_not_compared_with_itself(tmp_path: Path) -> None:
    artifact = model_of(WORDS)
    alone = evaluation.evaluate(artifact, ReferenceRuntime(artifact), {"one": TEXTS["long"]}, keystrokes=False)
    read = Reader(page_of(alone, tmp_path))
    assert len(read.loaded) == 2
    assert "together" not in read.cells


def test_every_name_is_drawn_as_it_is(tmp_path: Path) -> None:
    artifact = model_of(WORDS)
    names = [r"$\frac$.txt", "_notes.txt", "together", "a$b$c", "a" * 60 + ".txt", "a" * 61 + ".txt"]
    found = evaluation.evaluate(artifact, ReferenceRuntime(artifact), dict.fromkeys(names, TEXTS["long"]))
    shown = [name if len(name) < 41 else f"{'a' * 13}…{name[-26:]}" for name in names]
    bars, lines = report._perplexities(found), report._recall(found)
    for figure in (bars, lines):
        figure.canvas.draw()
    ticks = bars.axes[0].get_yticklabels()
    for drawn, expected in ((ticks, shown), (lines.legends[0].get_texts(), [*shown, "together"])):
        assert not any(cbook.is_math_text(text.get_text()) for text in drawn)
        assert [text.get_text().replace(r"\$", "$") for text in drawn] == expected
    assert min(tick.get_window_extent().x0 for tick in ticks) >= 0, "nothing is cut off"
    assert len(lines.axes[0].lines) == len(names) + 1


def test_names_in_any_script_are_text_for_the_browser(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    one = measurement(1000, 64, (1, 2, 3, 4), (2, 1))
    names = ["\u624b\u7d19.txt", "\ud3b8\uc9c0.txt", "\u0938\u0902\u0926\u0947\u0936.txt"]
    found = Evaluation("tiny@1", "table", "cpu", 1, 2.0, dict.fromkeys(names, one))
    bars, lines, _ = Reader(page_of(found, tmp_path)).loaded
    for picture in (bars, lines):
        drawn = ElementTree.fromstring(base64.b64decode(picture.split(",")[1]))  # noqa: S314 - our own
        texts = {text.text: text.get("style") for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
        assert set(names) <= set(texts)
        assert "sans-serif" in str(texts[names[0]])
    assert not recwarn.list


def test_wide_letters_have_room() -> None:
    long = "\u624b" * 60
    assert report._label(long) == "\u624b" * 6 + "…" + "\u624b" * 13
    assert report._label("\u624b" * 20) == "\u624b" * 20


@pytest.mark.parametrize("count", [1, 2, 10, 11, 40])
def test_no_line_is_hidden_or_taken_for_another(count: int, tmp_path: Path) -> None:
    one = measurement(1000, 64, (1, 2, 3, 4), (2, 1))
    texts = {
        f"text {at}": replace(
            one, figures={ALL: replace(one.figures[ALL], hits={1: at, 3: 9 * at, 5: 10 * at, 10: 999})}
        )
        for at in range(count)
    }
    found = Evaluation("tiny@1", "table", "cpu", 1, 2.0, texts)
    figure = report._recall(found)
    figure.canvas.draw()
    axes, legend = figure.axes[0], figure.legends[0]
    assert legend.get_window_extent().y1 < axes.get_tightbbox().y0
    assert legend.get_window_extent().y0 >= 0
    names = [text.get_text() for text in legend.get_texts()]
    best_first = [f"text {at}" for at in reversed(range(count))]
    drawn = best_first if count < 11 else best_first[:3] + best_first[-3:]
    assert names == (drawn if count == 1 else [*drawn, "together"])
    colours = [line.get_color() for line in axes.lines]
    assert len(set(colours)) == len(colours) == len(names)
    if count > 1:
        assert (colours[-1], axes.lines[-1].get_linewidth()) == ("black", 3)
        assert axes.lines[-1].get_zorder() < min(line.get_zorder() for line in axes.lines[:-1])
    for line, name in zip(axes.lines, drawn, strict=False):
        assert list(line.get_ydata()) == list(texts[name].figures[ALL].recall.values())
    said = f"Of {count} texts those three are drawn whose recall@3 is highest"
    assert (said in page_of(found, tmp_path)) == (count > 10)


def test_a_bar_is_how_often_the_word_came() -> None:
    """Not how likely it was said to be; and a certain word is in a bar of its own, beside one that is likely."""
    calibration = Calibration.of(np.array([0.15, 0.15, 0.85, 0.95, 1.0, 0.99]), np.array([1, 0, 0, 1, 1, 0], np.bool_))
    bars = report.reliability(calibration).axes[0].patches
    assert [round(bar.get_x() + bar.get_width() / 2, 9) for bar in bars] == [0.15, 0.85, 0.95]
    assert [bar.get_height() for bar in bars] == pytest.approx([1 / 2, 0, 2 / 3])


def test_what_words_cost_is_in_bits(tmp_path: Path) -> None:
    one = measurement(4, 64, (1, 2, 3, 4), (2, 1))
    costs = np.zeros((2, len(WORDS)))
    costs[:, WORDS.index("cat")] = 3, 3 * math.log(2)
    costs[:, WORDS.index("mat")] = 1, 7 * math.log(2)
    found = Evaluation("tiny@1", "table", "cpu", 1, 2.0, {"one": replace(one, counts=costs[0], costs=costs[1])})
    cells = [cell.strip() for cell in Reader(page_of(found, tmp_path)).cells]
    at = cells.index("of all bits") + 1
    assert cells[at : at + 8] == ["mat", "1", "7.00", "70.0%", "cat", "3", "1.00", "30.0%"]
