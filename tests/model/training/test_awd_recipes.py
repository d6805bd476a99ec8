"""The recipes of AWD-LSTM, with stand-ins for what is large or far away: the text, and the sizes."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model.artifact import Artifact
from model.compat import chainer
from model.corpus import CorpusError
from model.runtimes import load as load_runtime
from model.training import recipe as recipes
from model.training.data import prepare
from model.training.recipe import Recipe
from model.training.trainer import open_device, train
from tests.model.training.texts import sentences

CONSOLE = Console(file=io.StringIO())


def shrunk(name: str, **training: object) -> Recipe:
    """A recipe that comes with nextword, of a size for a test."""
    recipe = recipes.load(name)
    table = recipe.model_dump()
    table["network"] |= {"embedding_size": 16, "hidden_sizes": [24, 16]}
    table["training"] |= {"batch_size": 4, "window": 20, "validations": 2} | training
    return Recipe.model_validate(table)


def countable(lines: int) -> str:
    """Text in which much can be learnt: the same few sentences in an order of chance."""
    known, random = sentences(6), np.random.default_rng(5)
    return "\n".join(known[number].rstrip(".") + " ." for number in random.integers(0, len(known), lines)) + "\n"


def cached_by_chainer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files where Chainer's loader keeps those it has downloaded."""
    from chainer.datasets import ptb

    monkeypatch.setattr(chainer.dataset.download, "_dataset_root", str(root))
    cache = root / "_dl_cache"
    cache.mkdir(parents=True)
    texts = [countable(300), countable(40), "never seen <unk> N\n" + countable(3)]
    texts[0] = texts[0] + texts[2]  # the loader knows the words of the training text only
    for url, text in zip((ptb._train_url, ptb._valid_url, ptb._test_url), texts, strict=True):
        (cache / hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()).write_text(text)


def test_wikitext_2_is_learnt_and_what_is_kept_is_served(tmp_path: Path) -> None:
    folder, out = tmp_path / "wikitext-2", tmp_path / "out"
    folder.mkdir()
    (folder / "train.txt").write_text("<unk> = = \n" + countable(300))
    (folder / "valid.txt").write_text(countable(40))
    recipe = shrunk("awd-lstm-wikitext-2", epochs=4, learning_rate=0.03, gradient_clipping=1.0)
    recipe = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"regularisation": _milder(recipe)})}
    )
    data = prepare(recipe, folder, out, resume=False, console=CONSOLE)
    artifact = train(recipe, data, out, device=open_device("cpu"), resume=False, console=CONSOLE)
    assert artifact is not None
    log = json.loads((out / "log").read_text())
    losses = [entry["validation/loss"] for entry in log if "validation/loss" in entry]
    unigram = -np.log(np.bincount(data.train, minlength=len(data.tokenizer))[data.valid] / len(data.train)).mean()
    assert losses[-1] < 0.5 * unigram
    assert losses[-1] < losses[0]
    # On disk it is an lstm_stack, which every runtime runs, alike.
    assert Artifact.load(out / "model").network["kind"] == "lstm_stack"
    rows = []
    for name in ("chainer", "cpu-float32"):
        runtime = load_runtime(artifact, name)
        state = runtime.zero_state(1)
        for word in data.valid[:20]:
            state = runtime.advance(np.array([word], np.int64), state)
        rows.append(runtime.log_probabilities(state[-1])[0])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)


def _milder(recipe: Recipe) -> recipes.Regularisation:
    """A network of forty units has none to spare."""
    assert recipe.training.regularisation is not None
    return recipe.training.regularisation.model_copy(update={"input": 0.1, "output": 0.1, "weight": 0.1})


def test_the_penn_treebank_comes_by_chainers_own_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_by_chainer(tmp_path / "root", monkeypatch)
    out = tmp_path / "out"
    recipe = shrunk("awd-lstm-ptb", epochs=0.2)
    data = prepare(recipe, None, out, resume=False, console=CONSOLE)
    assert data.start == "<eos>"
    assert data.tokenizer.id_of("<unk>") == data.tokenizer.unknown_id
    lines = (out / "held-out" / "test.txt").read_text()
    assert lines.startswith("never seen <unk> N\n")
    assert lines.count("\n") == 4
    again = prepare(recipe, None, out, resume=True, console=CONSOLE)
    np.testing.assert_array_equal(again.train, data.train)
    assert train(recipe, data, out, device=open_device("cpu"), resume=False, console=CONSOLE) is not None


def test_the_same_files_by_hand_are_read_instead(tmp_path: Path) -> None:
    (tmp_path / "ptb.train.txt").write_text("<unk> N\n" + countable(300))
    (tmp_path / "ptb.valid.txt").write_text(countable(40))
    data = prepare(shrunk("awd-lstm-ptb"), tmp_path, tmp_path / "out", resume=False, console=CONSOLE)
    assert len(data.train) > 1000


def test_a_treebank_that_cannot_be_fetched_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(url: str) -> str:
        raise OSError(f"no route to {url}")

    monkeypatch.setattr(chainer.dataset.download, "_dataset_root", str(tmp_path / "root"))
    monkeypatch.setattr(chainer.dataset.download, "cached_download", no_network)
    with pytest.raises(CorpusError, match=r"cannot fetch the Penn Treebank \(no route to .*\): name the folder"):
        prepare(shrunk("awd-lstm-ptb"), None, tmp_path / "out", resume=False, console=CONSOLE)
    assert not (tmp_path / "out").exists()
