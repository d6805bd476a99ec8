import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.cli import application
from model.artifact import Artifact
from model.training import recipe as recipes
from model.training.folder import claimed
from tests.model.training import process
from tests.model.training.process import Process
from tests.model.training.texts import write_recipe, write_text

PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments: object) -> Result:
    words = ["train", *map(str, arguments)]
    return CliRunner().invoke(application(words), words)


@pytest.fixture
def small(tmp_path: Path) -> list[object]:
    """A training of a few updates."""
    recipe = write_recipe(tmp_path / "small.toml", epochs=0.5, validations=1)
    text = write_text(tmp_path / "text.txt")
    return ["--recipe", recipe, "--data", text, "--out", tmp_path / "out [1]", "--device", "cpu"]


def test_the_simple_sequence_is_learnt_to_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("--recipe", "simple-sequence", "--device", "cpu")
    assert result.exit_code == 0, result.output
    out = Path("out/simple-sequence")
    assert sorted(path.name for path in out.iterdir()) == [
        "data.npz", "log", "loss.png", "model", "perplexity.png", "recipe.json", "snapshot.npz", "tokenizer.json",
            "training.html",
    ]  # fmt: skip
    log = json.loads((out / "log").read_text())
    assert log[-1]["validation/accuracy"] == 1.0
    assert all(entry["main/gradient_norm"] > 0 for entry in log)
    for name in ("loss.png", "perplexity.png"):
        assert (out / name).read_bytes().startswith(PNG)
    artifact = Artifact.load(out / "model")
    assert artifact.network == {"kind": "lstm", "vocabulary_size": 10, "hidden_size": 100}

    assert result.stdout == f"{artifact.id} is in {out / 'model'}; try: nextword serve --model {out / 'model'}\n"
    # Not a terminal: whole lines, nothing that steers a cursor.
    lines = result.stderr.splitlines()
    assert lines[0].startswith("901 words to train on, 181 to validate on, 10 in the vocabulary, 0.00% of the text")
    assert re.fullmatch(
        r"iteration 32 of 32 · [\d,]+ words/s · validation perplexity 1\.\d\d · accuracy 1\.000", lines[-1]
    )
    assert "\x1b" not in result.output
    assert not any(line.isspace() or not line for line in lines)


def test_list_shows_every_recipe_on_standard_output() -> None:
    result = run("--list")
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == recipes.names()
    assert "simple-sequence: 1, 2 2, 3 3 3" in result.stdout
    assert result.stderr == ""


def test_help_tells_where_things_go() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for said in (
        "--recipe",
        "--data",
        "--out",
        "--device",
        "--resume",
        "--distributed",
        "--base-model",
        "--list",
        "OUT/model",
        "every two minutes",
    ):
        assert said in result.stdout
    assert "\n  nextword train --recipe simple-sequence\n" in result.stdout


def test_a_recipe_is_needed() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Invalid value for --recipe: name one of" in result.stderr
    assert "simple-sequence" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "shakespeare"], r"no recipe 'shakespeare'; there are .*simple-sequence"),
        (
            ["--recipe", "simple-sequence", "--device", "cuda:7"],
            r"device cuda:7 does not answer: (\d+ CUDA devices found|CuPy is not installed|the CUDA driver|no CUDA)",
        ),
        (
            ["--recipe", "simple-sequence", "--distributed", "--device", "cuda:0"],
            r"--distributed trains on CPUs, not on 'cuda:0': leave --device out",
        ),
        (["--recipe", "simple-sequence", "--device", "tpu"], r"no device 'tpu': choose auto, cpu, or cuda:0"),
        (["--recipe", "simple-sequence", "--resume"], r"out/simple-sequence holds no training to resume"),
        (["--recipe", "wikitext-2-small"], r"the recipe wikitext-2-small needs --data: the folder of its files"),
        (["--recipe", "wikitext-2-small", "--data", "no"], r"no: no such file or folder"),
        (["--recipe", "simple-sequence", "--data", "empty.txt"], r"empty\.txt: the file is empty"),
        (["--recipe", "simple-sequence", "--data", "latin.txt"], r"latin\.txt: not UTF-8: byte 0xfc"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes("Grüße\n".encode("latin-1"))
    result = run(*arguments)
    assert result.exit_code == 2
    assert re.fullmatch(rf"nextword train: .*{message}.*\n", result.stderr)
    assert result.stdout == ""
    assert not Path("out").exists()


def test_a_training_is_not_started_over_another(small: list[object], tmp_path: Path) -> None:
    first = run(*small)
    assert first.exit_code == 0, first.output
    assert f"is in {tmp_path / 'out [1]' / 'model'}; try" in first.stdout
    again = run(*small)
    assert again.exit_code == 2
    assert "out [1] holds a training already: go on with --resume, or choose another --out\n" in again.stderr
    resumed = run(*small, "--resume")
    assert resumed.exit_code == 0
    assert resumed.stdout == first.stdout
    other = run("--recipe", write_recipe(tmp_path / "other.toml", window=9), *small[2:], "--resume")
    assert other.exit_code == 2
    assert "holds a training by another recipe: there training." in other.stderr


def test_one_training_at_a_time_is_in_a_folder(small: list[object], tmp_path: Path) -> None:
    with claimed(tmp_path / "out [1]"):
        result = run(*small)
    assert result.exit_code == 2
    assert f"another training is running in {tmp_path / 'out [1]'}: wait for its end, or choose" in result.stderr
    assert not (tmp_path / "out [1]").exists()
    assert run(*small).exit_code == 0


def test_too_little_memory_is_told(small: list[object], tmp_path: Path) -> None:
    huge = {"kind": "lstm_stack", "embedding_size": 1_000_000, "hidden_sizes": [1_000_000]}
    result = run("--recipe", write_recipe(tmp_path / "huge.toml", network=huge), *small[2:])
    assert result.exit_code == 2
    assert re.search(
        "nextword train: there is not enough memory for it: Unable to allocate .* Take a smaller", result.stderr
    )


def test_fine_tuning_begins_with_the_weights_and_words_of_the_base_model(small: list[object], tmp_path: Path) -> None:
    assert run(*small).exit_code == 0
    folder = tmp_path / "out [1]" / "model"
    base = Artifact.load(folder)
    text = tmp_path / "letters.txt"
    # In one line, which does not change where texts begin.
    text.write_text(write_text(tmp_path / "more.txt", 80).read_text().replace("cat", "wolf").replace("\n", " "))
    # Too slow to change a weight's float16; another network, which is not asked for.
    still = write_recipe(
        tmp_path / "still.toml",
        network={"kind": "gru", "embedding_size": 6, "hidden_sizes": [6]},
        epochs=0.5,
        learning_rate=1e-12,
    )
    fine = ["--recipe", still, "--data", text, "--device", "cpu", "--base-model", folder, "--out", tmp_path / "fine"]
    result = run(*fine)
    assert result.exit_code == 0, result.output
    tuned = Artifact.load(tmp_path / "fine" / "model")
    assert tuned.network == base.network
    assert tuned.tokenizer.vocabulary == base.tokenizer.vocabulary
    assert tuned.tokenizer.id_of("wolf") is None
    assert {name: weight.tobytes() for name, weight in tuned.weights.items()} == {
        name: weight.tobytes() for name, weight in base.weights.items()
    }
    assert tuned.training["recipe"]["base_model"] == base.id
    assert f"| began with | {base.id} |" in tuned.card
    assert tuned.start == base.start == "<eos>"
    assert (
        f"fine-tuning {base.id}: its network and its {len(base.tokenizer):,} words take the place of those of the "
        "recipe still\n" in result.stderr
    )
    assert run(*fine, "--resume").stdout == result.stdout
    (folder / "MODEL_CARD.md").write_text("Measured since, so that its id is another one.\n")
    assert Artifact.load(folder).id != base.id
    assert run(*fine, "--resume").stdout == result.stdout
    alone = run("--recipe", still, "--out", tmp_path / "fine", "--resume")
    assert alone.exit_code == 2
    assert f"holds a training by another recipe: there base_model is '{base.id}', not None" in alone.stderr


def test_fine_tuning_goes_on_where_it_was_interrupted(small: list[object], tmp_path: Path) -> None:
    assert run(*small).exit_code == 0
    fine = [*small[:4], "--device", "cpu", "--base-model", tmp_path / "out [1]" / "model", "--out"]
    assert run(*fine, tmp_path / "at once").exit_code == 0
    stopped = Process(
        ["train", *map(str, fine), str(tmp_path / "in two")], tmp_path / "output", partial(process.interrupt, 2, 1)
    )
    assert stopped.status() == 130
    assert run(*fine, tmp_path / "in two", "--resume").exit_code == 0
    at_once, in_two = (Artifact.load(tmp_path / name / "model") for name in ("at once", "in two"))
    assert {name: weight.tobytes() for name, weight in at_once.weights.items()} == {
        name: weight.tobytes() for name, weight in in_two.weights.items()
    }
    assert at_once.training["validation"]["iteration"] > 2


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            "simple-sequence",
            r"the recipe simple-sequence brings its own words, and --base-model small@\w+ knows others",
        ),
        ("awd-lstm-ptb", r"the recipe awd-lstm-ptb brings its own words"),
        ("dropout.toml", r"the recipe dropout does not fit --base-model small@\w+: .*the network gru has none"),
        ("named.toml", r"named\.toml: base_model: a training begins with the model that --base-model names"),
    ],
)
def test_a_recipe_that_does_not_fit_the_base_model(
    recipe: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = write_text(tmp_path / "text.txt")
    gru = write_recipe(
        tmp_path / "small.toml",
        network={"kind": "gru", "embedding_size": 6, "hidden_sizes": [6]},
        epochs=0.5,
        validations=1,
    )
    assert run("--recipe", gru, "--data", text, "--device", "cpu").exit_code == 0
    dropout = write_recipe(tmp_path / "dropout.toml")
    (tmp_path / "named.toml").write_text("base_model = 'small@1'\n" + dropout.read_text())
    data = ["--data", text] if recipe.endswith(".toml") else []
    result = run("--recipe", recipe, *data, "--base-model", "out/small/model", "--out", "fine")
    assert result.exit_code == 2
    assert re.fullmatch(rf"nextword train: .*{message}.*\n", result.stderr)
    assert not Path("fine").exists()


def test_a_text_of_ones_own_fits_a_recipe_that_brings_words(small: list[object], tmp_path: Path) -> None:
    assert run(*small).exit_code == 0
    base = tmp_path / "out [1]" / "model"
    fine = ["--recipe", "simple-sequence", *small[2:4], "--base-model", base, "--device", "cpu"]
    assert run(*fine, "--out", tmp_path / "fine").exit_code == 0
    assert Artifact.load(tmp_path / "fine" / "model").tokenizer.vocabulary == Artifact.load(base).tokenizer.vocabulary


def test_a_diverged_training(small: list[object], tmp_path: Path) -> None:
    write_recipe(tmp_path / "small.toml", learning_rate=1e30)
    result = run(*small)
    assert result.exit_code == 2
    assert re.search(r"nextword train: the training diverged: .*\. Start again in another --out, .*\n$", result.stderr)


def test_a_second_interruption_is_at_once(small: list[object], tmp_path: Path) -> None:
    stopped = Process(
        ["train", *map(str, small)],
        tmp_path / "output",
        partial(process.snapshots_every, 0.0),
        partial(process.interrupt, 3, 2),
    )
    assert stopped.status() == 130
    assert stopped.output.endswith("nextword train: stopped at once; what was in the folder before is whole\n")
    with np.load(tmp_path / "out [1]" / "snapshot.npz") as npz:
        assert npz["updater/iteration"] == 3
    assert run(*small, "--resume").exit_code == 0


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("chainer", "Chainer is not installed: it trains models and runs the reference runtime."),
        ("matplotlib", "matplotlib is not installed: it draws the plots."),
    ],
)
def test_a_package_that_is_missing_names_the_extra(package: str, message: str, tmp_path: Path) -> None:
    program = (
        "import importlib.util, sys\n"
        "find_spec = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *more: None if name == {package!r} else find_spec(name, *more)\n"
        f"sys.modules[{package!r}] = None\n"
        "sys.argv = ['nextword', 'train', '--recipe', 'simple-sequence', '--out', sys.argv[1]]\n"
        "from app.cli import main\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, tmp_path / "out"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == f"nextword train: {message} pip install 'nextword[train]'\n"
    assert not (tmp_path / "out").exists()
