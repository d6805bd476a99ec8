"""`nextword predict`: once, piped, and at a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.cli import application
from model.artifact import Artifact
from model.runtimes import load
from model.shapes import parameter_shapes
from model.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
WORDS = ["<unk>", "<eos>", "the", "cat", "sat", "on", "mat", "."]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("models") / "tiny", WORDS)


def tiny(path: Path, words: list[str]) -> Path:
    network = {"kind": "gru", "vocabulary_size": len(words), "embedding_size": 3, "hidden_sizes": [4]}
    chance = np.random.default_rng(0)
    Artifact.write(
        path,
        name="tiny",
        network=network,
        start="<eos>",
        tokenizer=Tokenizer.from_vocabulary(words, "english"),
        weights={name: chance.normal(size=shape) for name, shape in parameter_shapes(network).items()},
        card="# tiny\n",
    )
    return path


def run(*arguments: object, lines: str = "") -> Result:
    given = ["predict", *map(str, arguments)]
    return CliRunner().invoke(application(given), given, input=lines)


def expected(model: Path, words: list[str], top_k: int) -> dict[str, Any]:
    """What the model says after `words`, one step after the other; no word is left out."""
    artifact = Artifact.load(model)
    runtime = load(artifact, "chainer")
    state = runtime.zero_state(1)
    for word in ["<eos>", *words]:
        state = runtime.advance(np.array([WORDS.index(word)]), state)
    row = runtime.log_probabilities(state[-1])[0]
    best = [place for place in np.argsort(-row, kind="stable").tolist() if place != 0][:top_k]
    return {WORDS[place]: pytest.approx(float(np.exp(row[place])), rel=1e-3) for place in best}


def probabilities(line: str) -> dict[str, float]:
    return {item["word"]: item["probability"] for item in json.loads(line)["predictions"]}


@pytest.mark.parametrize("text", ["", "the cat", "The cat zzz."])
def test_once(model: Path, text: str) -> None:
    words = ["<unk>" if word == "zzz" else word for word in text.lower().replace(".", " .").split()]
    result = run(model, "--text", text, "--json", "--top-k", 4, "--runtime", "cpu-float32")
    assert result.exit_code == 0, result.output
    reply = json.loads(result.stdout)
    assert (reply["position"], reply["model"]) == (len(words), Artifact.load(model).id)
    assert probabilities(result.stdout) == expected(model, words, 4)
    assert list(probabilities(result.stdout)) == list(expected(model, words, 4))


def test_bars(model: Path) -> None:
    result = run(model, "--text", "the zzz", "--runtime", "cpu-float32")
    first, *rows = result.stdout.splitlines()
    assert first == "not in the vocabulary: zzz"
    found = expected(model, ["the", "<unk>"], 10)
    assert [row.split()[0] for row in rows] == list(found)
    lengths = [row.count("█") for row in rows]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 30
    assert "%" in rows[0]


def test_standard_output_may_be_ascii(tmp_path: Path) -> None:
    words = ["<unk>", "<eos>", "caf\u00e9", "\u2014"]
    path = tiny(tmp_path / "tiny", words)
    command = [sys.executable, "-c", "import app.cli; app.cli.main()", "predict", str(path), "--text", "", "--top-k=3"]
    shown, found = (
        subprocess.run(
            [*command, *how], cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=True
        ).stdout.decode("ascii")
        for how in ([], ["--json"])
    )
    best = probabilities(found)
    assert sorted(best) == sorted(words[1:])
    rows = [line.split() for line in shown.splitlines()]
    assert [row[0].encode().decode("unicode_escape") for row in rows] == list(best)
    assert [len(row[2]) for row in rows] == [round(30 * each / max(best.values())) for each in best.values()]
    assert set("".join(row[2] for row in rows)) == {"#"}


def test_piped_lines_go_on(model: Path) -> None:
    result = run(model, "--json", "--runtime", "cpu-float32", lines="the cat\nsat\n\n/new\non")
    lines = result.stdout.splitlines()
    assert [json.loads(line)["position"] for line in lines] == [2, 3, 3, 1]
    for line, words in zip(lines, (["the", "cat"], ["the", "cat", "sat"], ["the", "cat", "sat"], ["on"]), strict=True):
        assert probabilities(line) == expected(model, words, 10)


def test_lines_that_end_as_on_windows_are_the_same_text(model: Path) -> None:
    command = [sys.executable, "-c", "import app.cli; app.cli.main()", "predict", str(model), "--json"]
    lines = b"the cat\n/new\nthe cat\nsat"
    as_here, as_there = (
        subprocess.run(command, cwd=ROOT, input=text, capture_output=True, check=True).stdout
        for text in (lines, lines.replace(b"\n", b"\r\n"))
    )
    assert as_there == as_here


def test_at_a_terminal(model: Path) -> None:
    """A real one: it asks, answers with bars, and Ctrl-D ends it."""
    terminal, other = os.openpty()
    code = "import app.cli; app.cli.main()"
    command = [sys.executable, "-c", code, "predict", str(model), "--top-k", "3", "--runtime", "cpu-float32"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=other, stdout=other, stderr=other, env=os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    ) as process:
        os.close(other)
        shown = b""

        def until(prompts: int) -> None:
            nonlocal shown
            while shown.count(b"> ") < prompts:
                shown += os.read(terminal, 65_536)

        until(1)
        assert b"Ctrl-D ends" in shown
        os.write(terminal, b"the cat\n")
        until(2)
        for word in expected(model, ["the", "cat"], 3):
            assert word.encode() in shown
        os.write(terminal, b"\x04")
        assert process.wait(20) == 0
        os.close(terminal)


def test_what_cannot_be_used_is_said_in_one_line(model: Path, tmp_path: Path) -> None:
    for arguments, message in [
        ((tmp_path / "nothing", "--text", "the"), str(tmp_path / "nothing")),
        ((model, "--runtime", "abacus"), "abacus"),
    ]:
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("nextword predict: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert run(model, "--top-k", 0).exit_code == 2


@pytest.mark.parametrize("how", [[], ["--json"]])
@pytest.mark.parametrize(("where", "status"), [("> /dev/full", 2), ("| true", 1)])
def test_what_cannot_be_printed_is_no_traceback(model: Path, how: list[str], where: str, status: int) -> None:
    command = [sys.executable, "-c", "import app.cli; app.cli.main()", "predict", str(model), "--text", "the", *how]
    done = subprocess.run(
        ["/bin/bash", "-c", f'"$@" {where}; exit ${{PIPESTATUS[0]}}', "bash", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    full = "nextword predict: standard output cannot be written: No space left on device\n"
    assert done.stderr == (full if status == 2 else "")


def test_help_teaches() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for said in ("--text", "--top-k", "--json", "nextword predict --text", "by default the one that ships"):
        assert said in result.stdout
    assert str(ROOT) not in result.stdout
