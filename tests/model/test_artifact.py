import errno
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from model import artifact
from model.adaptation import Adaptation
from model.artifact import CARD, CONFIG, FILES, TOKENIZER, WEIGHTS, Artifact, ArtifactError
from model.shapes import parameter_shapes
from model.tokenizer import Tokenizer

WORDS = ["<unk>", "<eos>", "the", "cat", "sat", "Straße"]
NETWORK: dict[str, Any] = {
    "kind": "lstm_stack",
    "vocabulary_size": len(WORDS),
    "embedding_size": 2,
    "hidden_sizes": [3, 2],
}


def random_weights(network: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in parameter_shapes(network).items()}


def write(path: Path, **changes: Any) -> Artifact:
    arguments: dict[str, Any] = {
        "name": "tiny",
        "network": NETWORK,
        "start": "<eos>",
        "tokenizer": Tokenizer.from_vocabulary(WORDS, "english"),
        "weights": random_weights(NETWORK),
        "card": "# tiny\n\nFür Tests.\n",
        "measured": {"perplexity": 5.5},
        "training": {"recipe": "none"},
    }
    return Artifact.write(path, **(arguments | changes))


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


def test_what_was_written_is_loaded(tmp_path: Path) -> None:
    written = write(tmp_path / "new" / "model")
    loaded = Artifact.load(tmp_path / "new" / "model")
    assert names_in(tmp_path / "new" / "model") == sorted(FILES)
    assert (loaded.name, loaded.start, loaded.start_id) == ("tiny", "<eos>", 1)
    assert loaded.id == written.id
    assert loaded.network == NETWORK
    assert (loaded.measured, loaded.training) == ({"perplexity": 5.5}, {"recipe": "none"})
    assert loaded.card == "# tiny\n\nFür Tests.\n"
    assert loaded.tokenizer.vocabulary == tuple(WORDS)
    assert loaded.parameters == sum(weight.size for weight in random_weights(NETWORK).values())
    for name, weight in random_weights(NETWORK).items():
        assert loaded.weights[name].dtype == np.float32
        np.testing.assert_array_equal(loaded.weights[name], weight)


def test_weights_are_shared_and_so_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        write(tmp_path / "model").weights["embed/W"][0, 0] = 1


def test_half_precision_takes_half_the_room_and_loads_as_float32(tmp_path: Path) -> None:
    half = write(tmp_path / "half", dtype="float16")
    stored = safetensors.numpy.load_file(tmp_path / "half" / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {np.dtype(np.float16)}
    for name, weight in random_weights(NETWORK).items():
        assert half.weights[name].dtype == np.float32
        np.testing.assert_array_equal(half.weights[name], weight.astype(np.float16))


def test_a_value_too_large_for_half_precision_is_refused(tmp_path: Path) -> None:
    weights = random_weights(NETWORK)
    weights["output/b"][0] = 1e6
    with pytest.raises(ArtifactError, match="output/b holds 1 values that are not finite"):
        write(tmp_path / "model", weights=weights, dtype="float16")
    assert names_in(tmp_path) == []


def test_the_id_tells_models_apart_by_every_file(tmp_path: Path) -> None:
    base = write(tmp_path / "base").id
    assert base.startswith("tiny@")
    assert len(base) == len("tiny@") + 12
    others = {
        write(tmp_path / "weights", weights=random_weights(NETWORK, seed=1)).id,
        write(tmp_path / "card", card="# another\n").id,
        write(tmp_path / "config", start=None).id,
        write(tmp_path / "words", tokenizer=Tokenizer.from_vocabulary([*WORDS[:-1], "dog"], "english")).id,
    }
    assert len(others | {base}) == 5
    assert write(tmp_path / "again").id == base


def test_recorded_figures_join_the_old_ones_and_change_the_id(tmp_path: Path) -> None:
    before = write(tmp_path / "model")
    after = Artifact.record(tmp_path / "model", {"recall@3": 0.4}, of=before.id)
    assert after.measured == {"perplexity": 5.5, "recall@3": 0.4}
    assert after.id != before.id
    assert names_in(tmp_path / "model") == sorted(FILES)
    with pytest.raises(ArtifactError, match="cannot be written as JSON"):
        Artifact.record(tmp_path / "model", {"perplexity": float("nan")}, of=after.id)
    assert Artifact.load(tmp_path / "model").id == after.id


def test_figures_of_another_model_are_not_recorded(tmp_path: Path) -> None:
    before = write(tmp_path / "model")
    after = write(tmp_path / "model", weights=random_weights(NETWORK, seed=1))
    with pytest.raises(ArtifactError, match=f"{after.id} is there now; it is {before.id} that was measured"):
        Artifact.record(tmp_path / "model", {"perplexity": 3}, of=before.id)
    assert Artifact.load(tmp_path / "model").id == after.id


def test_figures_that_cannot_be_written_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path / "model")

    def read_only(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(artifact, "_write_file", read_only)
        patch.setattr(Path, "unlink", read_only)
        with pytest.raises(ArtifactError, match="Read-only file system"):
            Artifact.record(tmp_path / "model", {"perplexity": 3}, of=before.id)
    assert Artifact.load(tmp_path / "model").id == before.id


def refusal(directory: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(directory)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write(tmp_path / "model")
    return tmp_path / "model"


def test_a_missing_directory(tmp_path: Path) -> None:
    assert "there is no such model directory" in refusal(tmp_path / "nowhere")


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("x")
    assert "a file; a model is a directory with config.json" in refusal(tmp_path / "model")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(model: Path, name: str) -> None:
    (model / name).unlink()
    assert f"{name} is missing; a model has config.json, tokenizer.json" in refusal(model)


@pytest.mark.parametrize("name", FILES)
def test_a_directory_in_place_of_a_file(model: Path, name: str) -> None:
    (model / name).unlink()
    (model / name).mkdir()
    assert f"{name}: cannot be read" in refusal(model)


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, WEIGHTS])
@pytest.mark.parametrize(
    "damage", [b"", b"\x00" * 64, b"{", b'{"format": 1', b"[" * 100_000, b"\xff\xfe", b"null", b"[]"]
)
def test_a_damaged_file(model: Path, name: str, damage: bytes) -> None:
    (model / name).write_bytes(damage)
    assert name in refusal(model)


@pytest.mark.parametrize("name", [TOKENIZER, WEIGHTS, CONFIG])
def test_a_file_cut_off_anywhere(model: Path, name: str) -> None:
    whole = (model / name).read_bytes()
    for length in range(0, len(whole) - 2, max(1, len(whole) // 40)):
        (model / name).write_bytes(whole[:length])
        assert name in refusal(model)


def test_a_card_that_is_not_text(model: Path) -> None:
    (model / CARD).write_bytes(b"\xff\xfe card")
    assert "MODEL_CARD.md: not UTF-8 at byte 0" in refusal(model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format is 2, this program reads format 1"),
        ({"format": None}, "format is None"),
        ({"name": "two words"}, "name: String should match"),
        ({"name": "../up"}, "name: String should match"),
        ({"name": "n" * 65}, "name: String should match"),
        ({"name": "new\nline"}, "name: String should match"),
        ({"name": "name\n"}, "name: String should match"),
        ({"start": "dog"}, "start is 'dog', which is no word"),
        ({"start": 1}, "start: Input should be a valid string"),
        ({"vocabulary_size": 7}, "vocabulary_size is 7 and the network's is 6"),
        ({"adaptation": {"size": 9, "theta": 1}}, "adaptation.weight: Field required"),
        ({"adaptation": {"size": 0, "theta": 1, "weight": 0.5}}, "adaptation.size"),
        ({"adaptation": {"size": 9, "theta": 1, "weight": 1}}, "adaptation.weight"),
        ({"measured": []}, "measured: Input should be a valid dictionary"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"network": {"kind": "transformer"}}, "unknown kind of network 'transformer'; known: simple_rnn, deep_rnn"),
        ({"network": NETWORK | {"hidden_sizes": [2, 3]}}, "the last of hidden_sizes is 3"),
        ({"network": NETWORK | {"layers": 2}}, "lstm_stack has no argument 'layers'"),
        ({"network": NETWORK | {"hidden_sizes": [4, 2]}}, "has shape"),
    ],
)
def test_a_config_that_does_not_fit(model: Path, change: dict[str, Any], said: str) -> None:
    config = json.loads((model / CONFIG).read_text())
    (model / CONFIG).write_text(json.dumps(config | change))
    assert said in refusal(model)


def test_how_sessions_best_adapt(model: Path) -> None:
    assert Artifact.load(model).adaptation == Adaptation()
    config = json.loads((model / CONFIG).read_text())
    own = {"size": 2000, "theta": 0.66, "weight": 0.13}
    (model / CONFIG).write_text(json.dumps(config | {"adaptation": own}))
    adapting = Artifact.load(model)
    assert adapting.adaptation == Adaptation(**own)
    recorded = Artifact.record(model, {"perplexity": 3}, of=adapting.id)
    assert recorded.adaptation == Adaptation(**own), "figures change nothing about it"


def test_a_config_with_a_key_missing(model: Path) -> None:
    config = json.loads((model / CONFIG).read_text())
    del config["start"]
    (model / CONFIG).write_text(json.dumps(config))
    assert "config.json: start: Field required" in refusal(model)


def test_figures_that_are_not_json(model: Path) -> None:
    config = (model / CONFIG).read_text()
    (model / CONFIG).write_text(config.replace("5.5", "NaN"))
    assert "config.json: not JSON: NaN" in refusal(model)


def test_a_tokenizer_of_another_model(model: Path) -> None:
    Tokenizer.from_vocabulary(["<unk>", "other"], "english").save(model / TOKENIZER)
    assert "tokenizer.json has 2 words and the network in config.json is for 6" in refusal(model)


Weights = dict[str, np.ndarray]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("layers/1/b"), "layers/1/b is missing; lstm_stack has embed/W, layers/0/W_x"),
        (lambda weights: weights.update(extra=np.zeros(2, np.float32)), "extra is unexpected"),
        (lambda weights: weights.update({"embed/W": np.zeros((6, 3), np.float32)}), "shape (6, 3), the network"),
        (lambda weights: weights.update({"embed/W": np.zeros((6, 2), np.int32)}), "embed/W is int32; weights are"),
        (lambda weights: weights["embed/W"].__setitem__((1, 1), np.nan), "embed/W holds 1 values that are not finite"),
        (lambda weights: weights["embed/W"].__setitem__(1, np.inf), "embed/W holds 2 values that are not finite"),
    ],
)
def test_weights_that_do_not_fit(model: Path, change: Callable[[Weights], object], said: str) -> None:
    weights = random_weights(NETWORK)
    change(weights)
    safetensors.numpy.save_file(weights, model / WEIGHTS)
    assert said in refusal(model)


def test_a_model_replaces_a_model_as_one(tmp_path: Path) -> None:
    old = write(tmp_path / "model")
    new = write(tmp_path / "model", weights=random_weights(NETWORK, seed=1))
    assert new.id != old.id
    assert Artifact.load(tmp_path / "model").id == new.id
    assert names_in(tmp_path) == ["model"]


def test_what_does_not_fit_is_not_written_and_the_old_model_stays(tmp_path: Path) -> None:
    old = write(tmp_path / "model")
    short = random_weights(NETWORK)
    del short["embed/W"]
    for changes in (
        {"weights": short},
        {"name": "no good"},
        {"start": "dog"},
        {"measured": {"perplexity": float("inf")}},
        {"tokenizer": Tokenizer.from_vocabulary(["<unk>"], "split")},
        {"network": NETWORK | {"kind": "unheard of"}},
    ):
        with pytest.raises(ArtifactError) as caught:
            write(tmp_path / "model", **changes)
        assert ".new-" not in str(caught.value)
    assert Artifact.load(tmp_path / "model").id == old.id
    assert names_in(tmp_path) == ["model"]


def test_nothing_but_a_model_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"holds thesis\.txt, no part of a model"):
        write(tmp_path / "home")
    (tmp_path / "note").write_text("x")
    with pytest.raises(ArtifactError, match="is a file"):
        write(tmp_path / "note")
    assert bytes_of(tmp_path / "home") == {"thesis.txt": b"years of work"}


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert write(tmp_path / "model").name == "tiny"


def _write_with_a_small_disk(path: Path, limit: int, answers: Any) -> None:
    # A file that may not grow is the nearest to a full disk that needs no other rights.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write(path, weights=random_weights(NETWORK, seed=1))
    except ArtifactError as error:
        answers.put(str(error))
    else:
        answers.put("written")


@pytest.mark.parametrize("limit", [0, 100, 900])
def test_a_full_disk_leaves_the_old_model(tmp_path: Path, limit: int) -> None:
    write(tmp_path / "model")
    before = bytes_of(tmp_path / "model")
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_write_with_a_small_disk, args=(tmp_path / "model", limit, answers))
    process.start()
    said = answers.get()
    process.join()
    assert "File too large; nothing was changed" in said
    assert "\n" not in said
    assert bytes_of(tmp_path / "model") == before
    assert names_in(tmp_path) == ["model"]


def test_if_the_last_rename_fails_the_old_model_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write(tmp_path / "model")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ArtifactError, match="Input/output error; nothing was changed"):
        write(tmp_path / "model", card="# new\n")
    assert Artifact.load(tmp_path / "model").id == old.id
    assert names_in(tmp_path) == ["model"]


def test_a_model_left_aside_by_a_kill_is_pointed_at(tmp_path: Path) -> None:
    write(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / ".model.replaced")
    assert "an interrupted write left it at" in refusal(tmp_path / "model")


def test_a_link_to_a_model_stays_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    new = write(tmp_path / "link", card="# new\n")
    assert (tmp_path / "link").is_symlink()
    assert Artifact.load(tmp_path / "real").id == new.id


def test_a_copied_model_has_the_same_id(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    assert Artifact.load(tmp_path / "copy").id == Artifact.load(model).id


def test_loading_needs_no_chainer(model: Path) -> None:
    code = (
        "import sys; from model.artifact import Artifact; Artifact.load(sys.argv[1]); "
        "sys.exit(any(name.startswith('chainer') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(model)], check=False).returncode == 0
