import json
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from app.commands import importing
from model.artifact import Artifact
from model.shapes import parameter_shapes

WORDS = ["<unk>", "the", "<eos>", "cat"]


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    network = {"kind": "lstm", "vocabulary_size": len(WORDS), "hidden_size": 3}
    chance = np.random.default_rng(0)
    arrays = {
        f"predictor/{name}": chance.normal(size=shape).astype(np.float32)
        for name, shape in parameter_shapes(network).items()
    }
    np.savez(tmp_path / "model.npz", **arrays)
    (tmp_path / "words.json").write_text(json.dumps({word: id for id, word in enumerate(WORDS)}))
    return [tmp_path / "model.npz", "--vocabulary", tmp_path / "words.json", "--out", tmp_path / "my model"]


def run(*arguments: object) -> Result:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(importing.command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_checkpoint_becomes_a_model_directory(tmp_path: Path, files: list[object]) -> None:
    result = run(*files)
    artifact = Artifact.load(tmp_path / "my model")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{artifact.id}: lstm, vocabulary_size 4, hidden_size 3, ")
    assert f"nextword serve --model {tmp_path / 'my model'}" in result.stdout
    assert artifact.name == "my-model"
    assert artifact.tokenizer.policy == "split"
    assert artifact.start == "<eos>"
    assert artifact.training["imported_from"] == "model.npz"
    assert "model.npz" in artifact.card


def test_options(tmp_path: Path, files: list[object]) -> None:
    result = run(
        *files, "--name", "ptb", "--policy", "english", "--unknown", "cat", "--start", "zeros", "--prefix", "predictor"
    )
    assert result.exit_code == 2
    assert "'cat' cannot become <unk>" in result.stderr
    result = run(*files, "--name", "ptb", "--policy", "english", "--start", "zeros", "--prefix", "predictor", "--half")
    assert result.exit_code == 0, result.output
    artifact = Artifact.load(tmp_path / "my model")
    assert (artifact.name, artifact.tokenizer.policy, artifact.start) == ("ptb", "english", None)
    np.testing.assert_array_equal(artifact.weights["l3/b"], artifact.weights["l3/b"].astype(np.float16))


def test_a_model_is_replaced_only_on_request(tmp_path: Path, files: list[object]) -> None:
    run(*files)
    result = run(*files, "--name", "second")
    assert result.exit_code == 2
    assert "there is a model already; give --replace" in result.stderr
    assert Artifact.load(tmp_path / "my model").name == "my-model"
    assert run(*files, "--name", "second", "--replace").exit_code == 0
    assert Artifact.load(tmp_path / "my model").name == "second"


def test_what_does_not_fit_is_one_line_and_status_2(tmp_path: Path, files: list[object]) -> None:
    (tmp_path / "words.json").write_text(json.dumps(WORDS[:-1]))
    result = run(*files)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"nextword import: {tmp_path / 'model.npz'}: under predictor/: "
        "embed/W is for 4 words and the vocabulary has 3\n"
    )
    assert not (tmp_path / "my model").exists()


def test_a_name_that_cannot_be_one(files: list[object]) -> None:
    for name in ("a b/../<x>", "two words", "-a", "", "x" * 65, "caf\u00e9", "line\n"):
        result = run(*files, f"--name={name}")
        assert result.exit_code == 2
        assert result.stderr == (
            f"nextword import: --name {name!r}: a model's name has up to 64 letters (A to Z), digits, ., - and _, "
            "and begins with a letter or digit\n"
        )


@pytest.mark.parametrize("out", ["---", "ümlaut ...", "x" * 200])
def test_any_directory_gives_a_name(tmp_path: Path, files: list[object], out: str) -> None:
    assert run(*files[:-1], tmp_path / out).exit_code == 0
    assert Artifact.load(tmp_path / out).name


def test_help_tells_which_files_come_in() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for words in ("l1/upward/W", "r1/W", "get_ptb_words_vocabulary", "nextword import model_iter_39000.npz"):
        assert words in " ".join(result.stdout.split())
