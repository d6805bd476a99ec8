import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from app.commands import evaluate
from model.artifact import Artifact
from model.evaluation import ALL, WITHOUT_SPECIALS, WITHOUT_UNKNOWN
from model.shapes import parameter_shapes
from model.tokenizer import Tokenizer

WORDS = ["<unk>", "<eos>", "the", "cat", "sat", "on", "mat", "."]
TEXT = "the cat sat on the mat.\nthe dog sat.\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = {"kind": "gru", "vocabulary_size": len(WORDS), "embedding_size": 3, "hidden_sizes": [4]}
    chance = np.random.default_rng(0)
    Artifact.write(
        tmp_path / "model",
        name="tiny",
        network=network,
        start="<eos>",
        tokenizer=Tokenizer.from_vocabulary(WORDS, "english"),
        weights={name: chance.normal(size=shape) for name, shape in parameter_shapes(network).items()},
        card="# tiny\n",
    )
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "model"


def run(*arguments: object) -> Result:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(evaluate.command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def measure(model: Path, *arguments: object) -> dict[str, Any]:
    result = run(model, "--data", model.parent / "text.txt", "--runtime", "chainer", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_json_alone_is_on_standard_output(model: Path) -> None:
    found = measure(model)
    assert found["model"] == Artifact.load(model).id
    assert found["data"] == ["text.txt"]
    assert found["words"] == 13
    assert list(found["figures"]) == [ALL, WITHOUT_UNKNOWN, WITHOUT_SPECIALS]
    assert [figures["targets"] for figures in found["figures"].values()] == [13, 12, 10]


def test_a_table(model: Path) -> None:
    found = measure(model)["figures"][ALL]
    result = run(model, "--data", model.parent / "text.txt", "--runtime", "chainer")
    assert result.exit_code == 0
    assert f"{found['perplexity']:.2f}" in result.stdout
    assert f"{found['recall']['3']:.1%}" in result.stdout
    for row in ("targets", "perplexity", "recall@1 ", "recall@10", "keystroke savings"):
        assert row in result.stdout


def test_options_reach_the_evaluation(model: Path) -> None:
    assert measure(model, "--words", 5)["words"] == 5
    assert measure(model, "--streams", 2)["streams"] == 2
    assert measure(model, "--no-keystrokes")["figures"][ALL]["keystroke_savings"] is None


def test_several_files_are_one_text(model: Path) -> None:
    (model.parent / "more.txt").write_text("the mat")
    whole = measure(model, "--data", model.parent / "more.txt")
    assert whole["data"] == ["text.txt", "more.txt"]
    (model.parent / "text.txt").write_text(TEXT + "the mat\n")
    assert measure(model)["figures"] == whole["figures"]


def test_recorded_figures_are_in_the_model(model: Path) -> None:
    before = Artifact.load(model)
    found = measure(model, "--record")
    after = Artifact.load(model)
    assert after.measured["perplexity"] == found["figures"][ALL]["perplexity"]
    assert after.measured["evaluation"] == found
    assert found["model"] == before.id != after.id


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "there are no words in it"),
        (b" \n\n ", "there are no words in it"),
        ("Straße".encode("latin-1"), "not UTF-8 at byte 4; save the text as UTF-8"),
    ],
)
def test_a_text_that_cannot_be_read(model: Path, content: bytes | None, said: str) -> None:
    path = model.parent / "other.txt"
    if content is not None:
        path.write_bytes(content)
    result = run(model, "--data", path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"nextword evaluate: {path}: {said}\n"


def test_a_model_that_is_not_there(model: Path) -> None:
    result = run(model.parent / "none", "--data", model.parent / "text.txt")
    assert result.exit_code == 2
    assert result.stderr == f"nextword evaluate: {model.parent / 'none'}: there is no such model directory\n"


def test_a_runtime_that_is_not_known(model: Path) -> None:
    result = run(model, "--data", model.parent / "text.txt", "--runtime", "abacus")
    assert result.exit_code == 2
    assert result.stderr.startswith("nextword evaluate: no runtime 'abacus'; there are auto, ")


def test_help_says_what_is_measured() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for words in ("keystroke savings", "recall", "--json", "nextword evaluate model/pretrained/english --data"):
        assert words in " ".join(result.stdout.split())
