import math
from pathlib import Path
from typing import Any

import pytest

from model.reports.training import write
from tests.model.reports.test_evaluation_page import HOSTILE, Reader

PNG = b"\x89PNG\r\n\x1a\n"


def entry(epoch: float, **figures: float) -> dict[str, Any]:
    return {"epoch_detail": epoch, "iteration": epoch * 10} | {
        name.replace("_", "/"): figure for name, figure in figures.items()
    }


@pytest.mark.parametrize(
    "log",
    [
        [entry(0.5, main_loss=5.0), entry(1, main_loss=4.5, validation_loss=4.7)],
        [entry(1, main_loss=4.5, validation_loss=4.7)],
        [entry(0.5, main_loss=9.0), entry(1, main_loss=699.0, validation_loss=12.0)],
        [entry(0.5, main_loss=700.0), entry(1, main_loss=800.0, validation_loss=900.0)],
        [entry(1, main_loss=0.0, validation_loss=0.0)],
    ],
    ids=["usual", "one point", "huge", "infinite", "perfect"],
)
def test_there_is_something_to_look_at_whatever_the_figures(log: list[dict[str, Any]], tmp_path: Path) -> None:
    write(log, "a training", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "perplexity.png", "training.html"]
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(PNG)
    assert Reader((tmp_path / "training.html").read_text()).loaded


def test_the_page_says_how_far_it_is_and_what_was_best(tmp_path: Path) -> None:
    log = [
        entry(1, main_loss=5.0, validation_loss=math.log(90), validation_accuracy=0.2),
        entry(2, main_loss=4.0, validation_loss=math.log(80), validation_accuracy=0.25) | {"main/gradient_norm": 3.0},
        entry(3, main_loss=3.0, validation_loss=math.log(85), validation_accuracy=0.24),
    ]
    write(log, HOSTILE, tmp_path)
    page = (tmp_path / "training.html").read_text()
    read = Reader(page)
    assert "Lowest validation perplexity: 80.00, after 2.00 epochs" in page
    cells = [cell.strip() for cell in read.cells]
    assert cells[:4] == ["epoch", "iteration", "perplexity", "accuracy"]
    assert cells[4:8] == ["1.00", "10", "90.00", "20.0%"]
    assert len(read.loaded) == 4
    assert "script" not in read.tags


def test_a_curve_that_has_no_points_is_not_drawn(tmp_path: Path) -> None:
    write([entry(1, main_loss=5.0)], "a training", tmp_path)
    page = (tmp_path / "training.html").read_text()
    assert "no validation yet" in page
    assert len(Reader(page).loaded) == 2


def test_what_was_there_is_untouched_when_a_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write([entry(1, main_loss=5.0)], "a training", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write([entry(1, main_loss=4.0)], "a training", tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
