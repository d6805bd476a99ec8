from pathlib import Path
from typing import Any

import pytest

from model.training.recipe import RECIPES, RecipeError, load, names
from tests.model.training.texts import write_recipe

DATA = {"policy": "english", "documents": {"text.txt": 1.0}}
STACK = {"kind": "lstm_stack", "embedding_size": 8, "hidden_sizes": [8]}


def test_the_recipes_that_come_with_nextword() -> None:
    assert {"english-small", "simple-sequence", "wikitext-2-small"} <= set(names())
    for name in names():
        recipe = load(name)
        assert recipe.name == name
        assert recipe.description
        assert load(str(RECIPES / f"{name}.toml")) == recipe


def test_an_unknown_one_names_those_there_are() -> None:
    with pytest.raises(RecipeError, match=r"^no recipe 'englisch'; there are .*english-small.*, or give a \.toml file"):
        load("englisch")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    recipe = load(str(write_recipe(tmp_path / "mine-2.toml", epochs=3)))
    assert (recipe.name, recipe.training.epochs, recipe.training.seed) == ("mine-2", 3, 0)
    assert recipe.data.documents is not None
    assert recipe.data.documents["text.txt"].share == 1


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"learning_rat": 1}, r"training\.learning_rat: Extra inputs are not permitted \(it is 1\)"),
        ({"epochs": 0}, r"training\.epochs: Input should be greater than 0 \(it is 0\)"),
        ({"epochs": "3"}, r"training\.epochs: Input should be a valid number \(it is '3'\)"),
        ({"epochs": True}, r"training\.epochs: Input should be a valid number \(it is True\)"),
        ({"learning_rate": float("inf")}, r"training\.learning_rate: Input should be a finite number \(it is inf\)"),
        ({"learning_rate": float("nan")}, r"training\.learning_rate: Input should be a finite number \(it is nan\)"),
        ({"batch_size": 2.5}, r"training\.batch_size: Input should be a valid integer .*\(it is 2\.5\)"),
        ({"optimizer": "adamw"}, r"training\.optimizer: Input should be 'adam' or 'sgd' \(it is 'adamw'\)"),
        ({"seed": 2**32}, r"training\.seed: Input should be less than 4294967296 \(it is 4294967296\)"),
        (
            {"network": STACK | {"kind": "transformer"}},
            r"network: unknown kind of network 'transformer'; known: simple",
        ),
        ({"network": STACK | {"heads": 8}}, r"network: lstm_stack has no argument 'heads'; it takes"),
        ({"network": {"kind": "lstm"}}, r"network: lstm lacks hidden_size; it takes"),
        ({"network": STACK | {"embedding_size": 9}}, r"network: lstm_stack: the last of hidden_sizes is 8 and"),
        ({"network": {"kind": "lstm", "hidden_size": "8"}}, r"network: lstm: hidden_size is a number .* not '8'"),
        ({"network": STACK | {"vocabulary_size": 8}}, r"network: vocabulary_size is decided by the text; data"),
        ({"network": {"kind": "lstm", "hidden_size": 8}, "dropout": 1}, r"training\.dropout: Input should be less"),
        (
            {"network": {"kind": "gru", "embedding_size": 8, "hidden_sizes": [8]}, "dropout": 0.1},
            r"recipe: training\.dropout is 0\.1, and the network gru has none; those that have are lstm, lstm_stack",
        ),
        (
            {"regularisation": {"weight": 0.5}},
            r"training\.regularisation is for an lstm_stack without training\.dropout; .* is lstm_stack, with 0\.3",
        ),
        (
            {"network": {"kind": "lstm", "hidden_size": 8}, "regularisation": {}},
            r"recipe: training\.regularisation is for an lstm_stack .* the network is lstm, with 0\.0",
        ),
        ({"regularisation": {"weight": 1.0}}, r"training\.regularisation\.weight: Input should be less than 1"),
        (
            {"schedule": "one_cycle"},
            r"training: schedule is one_cycle, which is for adam, and leaves warmup and decay out",
        ),
        (
            {"data": DATA | {"fetched": "penn-treebank"}},
            r"data: fetched goes with train and valid, the names of the same files below --data",
        ),
        ({"data": {"documents": {"a": 1.0}}}, r"data\.policy: Field required"),
        ({"data": {"policy": "german", "simple_sequence": True}}, r"data\.policy: .*'english' or 'split'"),
        ({"data": {"policy": "split"}}, r"data: one source of text is needed: simple_sequence, or train and valid, or"),
        ({"data": DATA | {"simple_sequence": True}}, r"data: one source of text is needed"),
        ({"data": {"policy": "split", "train": "a"}}, r"data: train and valid go together"),
        ({"data": DATA | {"documents": {}}}, r"data\.documents: .*at least 1 item"),
        ({"data": DATA | {"documents": {"a.txt": 1.5}}}, r"data\.documents\.a\.txt\.share: .*less than or equal to 1"),
        ({"data": DATA | {"documents": {"a.txt": True}}}, r"data\.documents\.a\.txt: .*\(it is True\)"),
        (
            {"data": DATA | {"documents": {"a.txt": {"unit": "word"}}}},
            r"data\.documents\.a\.txt\.unit: .*'document' or",
        ),
        (
            {"data": DATA | {"documents": {"../a.txt": 1.0}}},
            r"below the folder that --data names \(it is '\.\./a\.txt'\)",
        ),
        (
            {"data": {"policy": "split", "train": "/a", "valid": "b"}},
            r"data\.train: .*below the folder .*\(it is '/a'\)",
        ),
        ({"data": DATA | {"vocabulary_size": 2}}, r"data\.vocabulary_size: .*greater than or equal to 3 \(it is 2\)"),
    ],
)
def test_what_does_not_hold_together_is_named_in_one_line(tables: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "mine.toml", **tables)
    with pytest.raises(RecipeError, match=message) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", ["data", "network", "training"])
def test_a_missing_table_is_named(table: str, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "mine.toml")
    parts = path.read_text().split("\n[")
    path.write_text("\n[".join(part for part in parts if not part.startswith(table)))
    with pytest.raises(RecipeError, match=rf"^{path}: {table}: Field required$"):
        load(str(path))


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "mine.toml", epochs=0, window=0)
    with pytest.raises(RecipeError, match=r"training\.epochs: .*; training\.window: "):
        load(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs = = 3", r"mine\.toml: not TOML: .*line 1"),
        (b"description = '\xff'", r"mine\.toml: not TOML: .*utf-8"),
        (b"name = 'other'", r"mine\.toml: name: a recipe has the name of its file; remove this field"),
    ],
)
def test_a_file_that_is_no_recipe(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=message) as caught:
        load(str(tmp_path / "mine.toml"))
    assert "\n" not in str(caught.value)


def test_a_name_that_no_model_can_have_is_told_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"name: the file's name is the model's: .*\(it is 'my recipe'\)"):
        load(str(write_recipe(tmp_path / "my recipe.toml")))


def test_what_makes_another_training(tmp_path: Path) -> None:
    one = load(str(write_recipe(tmp_path / "one.toml")))
    same = write_recipe(tmp_path / "two.toml")
    same.write_text(same.read_text().replace("For tests.", "The same in other words."))
    assert one.differs_from(load(str(same))) == []
    other = load(str(write_recipe(tmp_path / "other.toml", window=13)))
    assert one.differs_from(other) == ["training.window is 13, not 12"]
    assert one.differs_from(one.rounding()) == ["training.tf32 is True, not False"]
