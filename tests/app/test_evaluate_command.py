import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from app.commands import evaluate
from model.adaptation import Adaptation
from model.artifact import Artifact
from model.measurement import ALL, WITHOUT_SPECIALS, WITHOUT_UNKNOWN
from model.shapes import parameter_shapes
from model.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
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
    assert list(found["texts"]) == ["text.txt"]
    assert found["words"] == 13
    assert list(found["figures"]) == [ALL, WITHOUT_UNKNOWN, WITHOUT_SPECIALS]
    assert [figures["targets"] for figures in found["figures"].values()] == [13, 12, 10]


def test_it_adapts_if_told_to(model: Path) -> None:
    plain, found = measure(model), measure(model, "--adapt", "--adapt-size", 6, "--adapt-weight", 0.5)
    assert found["adaptation"] == {"size": 6, "theta": Adaptation().theta, "weight": 0.5}
    assert plain["adaptation"] is None
    assert found["figures"][ALL]["perplexity"] != plain["figures"][ALL]["perplexity"]
    table = run(model, "--data", model.parent / "text.txt", "--runtime", "chainer", "--adapt").stdout
    assert "adapting (size 500, " in table
    for option, value in (("theta", 0), ("weight", 1)):
        refused = run(model, "--data", model.parent / "text.txt", "--adapt", f"--adapt-{option}", value)
        assert (refused.exit_code, f"{option} is {value}" in refused.stderr) == (2, True)


@pytest.mark.parametrize("option", ["--adapt-size=6", "--adapt-theta=1", "--adapt-weight=0.5"])
def test_how_to_adapt_says_nothing_without_adapt(model: Path, option: str) -> None:
    refused = run(model, "--data", model.parent / "text.txt", option)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{option.partition('=')[0]} does nothing without --adapt" in refused.stderr


def test_a_table(model: Path) -> None:
    found = measure(model)["figures"][ALL]
    result = run(model, "--data", model.parent / "text.txt", "--runtime", "chainer")
    assert result.exit_code == 0
    assert f"{found['perplexity']:.2f}" in result.stdout
    assert f"{found['recall']['3']:.1%}" in result.stdout
    for row in ("targets", "perplexity", "recall@1 ", "recall@10", "keystroke savings"):
        assert row in result.stdout


@pytest.mark.parametrize("columns", ["40", ""], ids=["a narrow terminal", "a pipe"])
def test_every_figure_and_name_is_whole(model: Path, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    name = "what-my-aunt-wrote-to-me-from-the-seaside.txt"
    (model.parent / name).write_text(TEXT * 3)
    files = [f"--data={model.parent / each}" for each in ("text.txt", name)]
    found = json.loads(run(model, *files, "--runtime=chainer", "--json").stdout)
    lines = run(model, *files, "--runtime=chainer").stdout.splitlines()
    figures = found["figures"].values()
    assert next(line for line in lines if "perplexity" in line).split() == [
        "perplexity",
        *(f"{each['perplexity']:,.2f}" for each in figures),
    ]
    row = found["texts"][name]
    expected = (
        f"{row['words']}",
        f"{row['figures'][ALL]['perplexity']:,.2f}",
        f"{row['figures'][ALL]['recall']['1']:.1%}",
    )
    assert tuple(next(line for line in lines if name in line).split()[:4]) == (name, *expected)


def test_options_reach_the_evaluation(model: Path) -> None:
    assert measure(model)["words_limit"] is None
    assert measure(model, "--words", 5)["words"] == measure(model, "--words", 5)["words_limit"] == 5
    assert measure(model, "--streams", 2)["streams"] == 2
    assert measure(model, "--no-keystrokes")["figures"][ALL]["keystroke_savings"] is None


@pytest.mark.parametrize(
    ("option", "in_title", "in_page"),
    [
        ("--words=5", ", the first 5 of each text at most", "Of each text the first 5 words were read at most."),
        ("--streams=2", ", in 2 streams, so not exact", "Each was read in up to 2 pieces, so not exactly."),
    ],
)
def test_what_was_not_read_as_a_whole_says_so(
    model: Path, tmp_path: Path, option: str, in_title: str, in_page: str
) -> None:
    options = ["--data", model.parent / "text.txt", "--runtime", "chainer", "--report", tmp_path]
    whole, part = run(model, *options), run(model, *options, option)
    page = (tmp_path / "evaluation.html").read_text()
    assert in_title in " ".join(part.stdout.split())
    assert in_title not in " ".join(whole.stdout.split())
    assert in_page in page


def test_several_files_are_texts_of_their_own(model: Path) -> None:
    first = measure(model)
    (model.parent / "more.txt").write_text("the mat sat\n" * 20)
    found = measure(model, "--data", model.parent / "more.txt")
    assert list(found["texts"]) == ["text.txt", "more.txt"]
    beside, alone = found["texts"]["text.txt"]["figures"][ALL], first["figures"][ALL]
    assert beside["recall"] == alone["recall"]
    assert beside["perplexity"] == pytest.approx(alone["perplexity"], rel=1e-5)
    assert found["words"] == found["texts"]["more.txt"]["words"] + 13 == 93
    result = run(model, *(f"--data={model.parent / name}" for name in ("text.txt", "more.txt")), "--runtime=chainer")
    assert result.exit_code == 0
    for name in ("text.txt", "more.txt", "together"):
        assert name in result.stdout


def test_files_of_one_name_are_told_apart_and_one_file_is_not_read_twice(model: Path) -> None:
    other = model.parent / "other" / "text.txt"
    other.parent.mkdir()
    other.write_text("the mat")
    found = measure(model, "--data", other)
    assert list(found["texts"]) == ["text.txt", "other/text.txt"]
    for again in (other, other.parent / ".." / "other" / "text.txt"):
        result = run(model, "--data", other, "--data", again)
        assert (result.exit_code, result.stderr) == (2, f"nextword evaluate: {again}: given twice\n")


def test_names_are_shown_as_they_are(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    names = ["letters[old].txt", "letters[new].txt", ":smile:.txt", "[link=x]"]
    for name in names:
        (model.parent / name).write_text(TEXT)
    result = run(model, *(f"--data={model.parent / name}" for name in names), "--runtime=chainer")
    assert result.exit_code == 0
    assert {line.split()[0] for line in result.stdout.splitlines() if line.split()} >= set(names)


def test_a_name_need_not_be_text(model: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        (model.parent / name).write_text(TEXT)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    found = measure(model, "--data", model.parent / name, "--report", tmp_path / "report")
    assert list(found["texts"]) == ["text.txt", "caf\\xe9.txt"]
    assert "caf\\xe9.txt" in (tmp_path / "report" / "evaluation.html").read_text()


def test_what_cannot_be_printed_of_a_name_is_escaped(model: Path, tmp_path: Path) -> None:
    names = {
        "red\x1b[31m.txt": r"red\x1b[31m.txt",
        "no\uffff.txt": r"no\uffff.txt",
        "two\nlines.txt": r"two\nlines.txt",
    }
    for name in names:
        (model.parent / name).write_text(TEXT)
    options = [*(f"--data={model.parent / name}" for name in names), "--runtime=chainer", "--report", tmp_path]
    result = run(model, *options)
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    for shown in names.values():
        assert shown in result.stdout
    for picture in re.findall(r"base64,([^\"]*)", (tmp_path / "evaluation.html").read_text()):
        ElementTree.fromstring(base64.b64decode(picture))  # noqa: S314 - our own
    refused = run(model, "--data", "\x1b[31mmissing.txt")
    assert refused.stderr == r"nextword evaluate: \x1b[31mmissing.txt: cannot be read: No such file or directory" "\n"


def test_no_text_takes_the_name_of_another(model: Path) -> None:
    names = ["together", "a\tb", r"a\tb"]
    for name in names:
        (model.parent / name).write_text(TEXT)
    found = measure(model, *(f"--data={model.parent / name}" for name in names))
    assert list(found["texts"]) == ["text.txt", "together (2)", r"a\tb", r"a\tb (2)"]
    assert found["words"] == 13 * 4
    alone = json.loads(run(model, "--data", model.parent / "together", "--runtime=chainer", "--json").stdout)
    assert list(alone["texts"]) == ["together"]


def test_a_report_beside_the_figures(model: Path, tmp_path: Path) -> None:
    found = measure(model, "--report", tmp_path / "out" / "report")
    page = (tmp_path / "out" / "report" / "evaluation.html").read_text()
    assert f"{found['figures'][ALL]['perplexity']:.2f}" in page
    assert found["model"] in page


def in_a_shell(model: Path, rest: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`nextword evaluate` of text.txt as a process of its own, `rest` being what the shell reads after it."""
    command = f'"$PYTHON" -c "from app.cli import main; main()" evaluate model --data text.txt --runtime chainer {rest}'
    return subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=model.parent,
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("how", ["", "--json"])
def test_what_nobody_reads_costs_neither_report_nor_record(model: Path, how: str) -> None:
    done = in_a_shell(model, f"{how} --report report --record | true")
    assert done.stderr == "report: report/evaluation.html\n"
    assert (model.parent / "report" / "evaluation.html").exists()
    assert "perplexity" in Artifact.load(model).measured


@pytest.mark.parametrize("how", ["", "--json"])
def test_what_cannot_be_printed_is_said_in_one_line(model: Path, how: str) -> None:
    done = in_a_shell(model, f"{how} --report report --record > /dev/full")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "report: report/evaluation.html",
        "nextword evaluate: standard output cannot be written: No space left on device",
    ]
    assert "perplexity" in Artifact.load(model).measured


def test_a_report_that_cannot_be_written_costs_no_figures(model: Path, tmp_path: Path) -> None:
    (tmp_path / "report" / "evaluation.html").mkdir(parents=True)
    result = run(model, "--data", model.parent / "text.txt", "--json", "--report", tmp_path / "report")
    assert result.exit_code == 2
    assert "the report cannot be written: Is a directory" in result.stderr
    assert json.loads(result.stdout)["words"] == 13


def test_where_no_report_can_be_is_told_before_anything_is_measured(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path / "closed")  # for root every folder is open
    for folder, at, why in [
        ("file", "file", "is no directory"),
        ("file/deeper/report", "file", "is no directory"),
        ("dangling", "dangling", "is no directory"),
        ("closed/report", "closed", "cannot be written in"),
    ]:
        result = run(model, "--data", model.parent / "text.txt", "--report", tmp_path / folder)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == (
            f"nextword evaluate: --report {tmp_path / folder}: {tmp_path / at} {why}; name another DIR\n"
        )
    assert sorted(path.name for path in (tmp_path / "closed").parent.iterdir()) == [
        *("closed", "dangling", "file", "model", "text.txt")
    ]


def test_without_matplotlib_a_report_is_refused_before_anything_is_measured(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith("model.reports"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(model, "--data", model.parent / "text.txt", "--report", tmp_path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "pip install 'nextword[train]'" in result.stderr


def test_recorded_figures_are_in_the_model(model: Path) -> None:
    before = Artifact.load(model)
    found = measure(model, "--record")
    after = Artifact.load(model)
    assert after.measured["perplexity"] == found["figures"][ALL]["perplexity"]
    assert after.measured["evaluation"] == found
    assert found["model"] == before.id != after.id


@pytest.mark.parametrize("option", ["--adapt", "--words=5", "--streams=2"])
def test_what_a_model_says_of_itself_is_of_whole_texts_read_exactly(model: Path, option: str) -> None:
    before = Artifact.load(model)
    refused = run(model, "--data", model.parent / "text.txt", "--record", option)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{option.partition('=')[0]} and --record exclude each other" in refused.stderr
    assert Artifact.load(model).id == before.id


def test_figures_that_cannot_be_recorded_are_shown_and_in_the_report(model: Path, tmp_path: Path) -> None:
    full = model / ".config.json.new"
    full.symlink_to("/dev/full")
    options = ("--runtime", "chainer", "--json", "--record", "--report", tmp_path)
    result = run(model, "--data", model.parent / "text.txt", *options)
    assert result.exit_code == 2
    assert "not recorded: cannot write" in result.stderr
    assert "No space left on device" in result.stderr
    assert (
        f"{json.loads(result.stdout)['figures'][ALL]['perplexity']:.2f}" in (tmp_path / "evaluation.html").read_text()
    )


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
