import base64
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib import cbook

from model import evaluation
from model.measurement import ALL, Evaluation
from model.reports import evaluation as report
from model.reports.evaluation import write
from model.runtimes.reference import ReferenceRuntime
from tests.model.test_evaluation import TEXTS, WORDS, model_of

HOSTILE = '<script>alert("&")</script>'


class Reader(HTMLParser):
    """What a page loads, and the cells of its tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
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
    for drawn, expected in ((ticks, shown), (lines.axes[0].get_legend().get_texts(), [*shown, "together"])):
        assert not any(cbook.is_math_text(text.get_text()) for text in drawn)
        assert [text.get_text().replace(r"\$", "$") for text in drawn] == expected
    assert min(tick.get_window_extent().x0 for tick in ticks) >= 0, "nothing is cut off"
    assert len(lines.axes[0].lines) == len(names) + 1
