from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from app.commands import averaging
from model.artifact import Artifact
from model.shapes import parameter_shapes
from model.tokenizer import Tokenizer

WORDS = ["<unk>", "the", "<eos>", "cat"]


def run(*arguments: object) -> Result:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(averaging.command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(path: Path, seed: int, dtype: Any = "float16", **changes: Any) -> Artifact:
    network = {"kind": "lstm", "vocabulary_size": len(WORDS), "hidden_size": changes.pop("size", 3)}
    chance = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "name": path.name,
        "network": network,
        "start": "<eos>",
        "tokenizer": Tokenizer.from_vocabulary(changes.pop("words", WORDS), "split"),
        "weights": {
            name: chance.normal(size=shape).astype(dtype).astype(np.float32)
            for name, shape in parameter_shapes(network).items()
        },
        "card": "A card.\n",
        "training": {"of": path.name, "validation": {"validation/perplexity": 9.0}},
        "dtype": dtype,
    }
    return Artifact.write(path, **(fields | changes))


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ([], [0.5, 0.5]),
        (["--share", 3, "--share", 1], [0.75, 0.25]),
        (["--share", 1.5e308, "--share", 0.5e308], [0.75, 0.25]),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_are_the_mean(tmp_path: Path, options: list[object], shares: list[float], dtype: str) -> None:
    one, other = write(tmp_path / "one", 1, dtype), write(tmp_path / "other", 2)
    result = run(tmp_path / "one", tmp_path / "other", "--out", tmp_path / "both", *options)
    assert result.exit_code == 0, result.output
    both = Artifact.load(tmp_path / "both")
    assert result.stdout.startswith(f"{both.id} is in {tmp_path / 'both'}; ")
    for name, weight in both.weights.items():
        mean = shares[0] * one.weights[name].astype(np.float64) + shares[1] * other.weights[name]
        np.testing.assert_allclose(weight, mean, rtol=1e-3 if dtype == "float16" else 1e-6, atol=1e-6)
        assert (weight == weight.astype(np.float16)).all() == (dtype == "float16")
    assert (both.name, both.start, both.network) == ("one", "<eos>", one.network)
    assert both.tokenizer.vocabulary == one.tokenizer.vocabulary
    means = [{"model": model.id, "share": share} for model, share in zip((one, other), shares, strict=True)]
    assert both.training == {"of": "one", "mean_of": means}
    assert all(f"| {model.id} | {share:.1%} |" in both.card for model, share in zip((one, other), shares, strict=True))


def test_the_mean_of_a_model_and_itself_is_that_model(tmp_path: Path) -> None:
    one = write(tmp_path / "one", 1)
    assert run(*[tmp_path / "one"] * 3, "--out", tmp_path / "both", "--name", "same").exit_code == 0
    both = Artifact.load(tmp_path / "both")
    assert both.name == "same"
    assert {name: weight.tobytes() for name, weight in both.weights.items()} == {
        name: weight.tobytes() for name, weight in one.weights.items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 4}, "has network {'kind': 'lstm', 'vocabulary_size': 4, 'hidden_size': 4}, and one@"),
        ({"words": ["<unk>", "the", "<eos>", "dog"]}, "word 3 is 'dog' in other@"),
        ({"tokenizer": Tokenizer.from_vocabulary(WORDS, "english")}, "has policy english, and one@"),
        ({"start": None}, "has start None, and one@"),
    ],
)
def test_models_of_another_kind_have_no_mean(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path / "one", 1)
    write(tmp_path / "other", 2, **changes)
    result = run(tmp_path / "one", tmp_path / "other", "--out", tmp_path / "both")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "there is no mean of the two" in result.stderr
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "alone has no mean: name two models or more"),
        (["one", "other", "--share", 1], "1 shares of 2 models: one for each, in the same order"),
        (["one", "other", "--share", 1, "--share", 0], "shares are 1, 0: they are above 0"),
        (["one", "other", "--share", "nan", "--share", 1], "shares are nan, 1: they are above 0"),
        (["one", "missing"], "missing: there is no such model directory"),
        (["one", "other", "--name", "no/name"], "--name 'no/name': a model's name has up to 64 letters"),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one", 1)
    write(tmp_path / "other", 2)
    result = run(*arguments, "--out", "both")
    assert result.exit_code == 2
    assert result.stderr.startswith("nextword average: ")
    assert message in result.stderr
    assert not Path("both").exists()


def test_a_model_is_replaced_only_when_asked(tmp_path: Path) -> None:
    models = [tmp_path / "one", tmp_path / "other"]
    before = [write(path, seed) for seed, path in enumerate(models)]
    assert run(*models, "--out", models[1]).exit_code == 2
    assert Artifact.load(models[1]).id == before[1].id
    assert run(*models, "--out", models[1], "--replace").exit_code == 0
    assert Artifact.load(models[1]).training["mean_of"][1]["model"] == before[1].id
