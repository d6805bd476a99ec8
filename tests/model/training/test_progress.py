import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from model.training.progress import ProgressBar, perplexity, write_log


def show(console: Console, monkeypatch: pytest.MonkeyPatch, **observation: float) -> str:
    """What is shown of 20 iterations of 100 words, two a second from the tenth of 30 on, with these figures last."""
    now = [1000.0]
    monkeypatch.setattr("model.training.progress.time.monotonic", lambda: now[0])
    bar = ProgressBar(console, 30, 100)
    trainer = SimpleNamespace(updater=SimpleNamespace(iteration=10), observation={"main/loss": 2.5})
    bar.initialize(trainer)
    try:
        for iteration in range(11, 29):
            now[0] += 0.5 if console.is_terminal else 20
            trainer.updater.iteration = iteration
            if iteration == 28:
                trainer.observation |= observation
            bar(trainer)
            bar._bar.refresh()
    finally:
        bar.finalize()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_on_a_terminal_a_bar_with_speed_loss_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, highlight=False, color_system=None)
    shown = show(console, monkeypatch)
    assert "training" in shown
    assert "93%" in shown
    assert "200 words/s · loss 2.500" in shown
    assert "0:00:01" in shown


def test_without_one_whole_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), soft_wrap=True)
    lines = show(console, monkeypatch).splitlines()
    assert lines[0] == "iteration 12 of 30 · 5 words/s · loss 2.500 · 0:06:00 left"
    assert len(lines) == 9  # every 30 seconds, and an iteration is 20
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize("terminal", [True, False])
def test_each_validation_is_a_line(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, highlight=False, color_system=None)
    shown = show(console, monkeypatch, **{"validation/loss": math.log(80), "validation/accuracy": 0.25})
    speed = 200 if terminal else 5
    assert f"iteration 28 of 30 · {speed} words/s · validation perplexity 80.00 · accuracy 0.250" in shown


def test_perplexity_overflows_to_infinity() -> None:
    assert perplexity(math.log(3)) == pytest.approx(3)
    assert perplexity(1e9) == math.inf


def test_the_log_is_json(tmp_path: Path) -> None:
    log = [{"iteration": 5, "epoch_detail": 0.5, "main/loss": 5.0}]
    write_log(log, tmp_path)
    assert json.loads((tmp_path / "log").read_text()) == log
