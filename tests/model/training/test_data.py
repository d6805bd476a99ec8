import errno
import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from model.corpus import CorpusError
from model.tokenizer import Tokenizer
from model.training import data as data_module
from model.training.data import TrainingData, prepare
from model.training.folder import HELD_OUT, IDS, RECIPE, TOKENIZER, FolderError
from model.training.recipe import RecipeError, load
from tests.model.training.texts import sentences, write_recipe, write_text


class Preparing:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.said = io.StringIO()

    def __call__(
        self, path: Path | None = None, *, resume: bool = False, data: dict[str, Any] | None = None, **training: Any
    ) -> TrainingData:
        recipe = load(str(write_recipe(self.folder / "mine.toml", data=data, **training)))
        console = Console(file=self.said, soft_wrap=True)
        return prepare(recipe, path, self.out, resume=resume, console=console)

    @property
    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


@pytest.fixture
def preparing(tmp_path: Path) -> Preparing:
    return Preparing(tmp_path)


def text_of(data: TrainingData, ids: Any) -> str:
    return data.tokenizer.decode(ids)


def write_documents(path: Path, count: int, unit: str) -> list[str]:
    """Documents that each hold a word of their own: the file's name and their number."""
    texts = [
        f"{path.stem}{number} {line}" if unit == "line" else f"{path.stem}{number} {line}\nand {line}"
        for number, line in enumerate(sentences(count))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(("\n" if unit == "line" else "\n\n").join(texts) + "\n", encoding="utf-8")
    return [f"{path.stem}{number}" for number in range(count)]


# --- One's own text -----------------------------------------------------------------------------------------------


def test_a_text_without_documents_is_validated_on_its_end(preparing: Preparing) -> None:
    path = write_text(preparing.folder / "text.txt")
    data = preparing(path)
    whole = " ".join(path.read_text().replace(".", " .").split())
    assert text_of(data, np.concatenate([data.train, data.valid])).split() == whole.replace(" .", ".").split()
    assert len(data.valid) == round(0.05 * (len(data.train) + len(data.valid)))
    assert data.train.dtype == data.valid.dtype == np.int32
    assert data.start == "<eos>"
    assert sorted(path.name for path in preparing.out.iterdir()) == [IDS, RECIPE, TOKENIZER]
    assert "0.00% of the text unknown" in preparing.said.getvalue()


@pytest.mark.parametrize("name", ["simple-sequence", "wikitext-2-small", "english-small"])
def test_a_text_takes_the_place_of_any_recipes_own(name: str, preparing: Preparing) -> None:
    recipe = load(name)
    path = preparing.folder / "text.txt"
    numbers = " ".join(f"w{number}" for number in range(31_000))
    path.write_text("\n".join([numbers, numbers, *sentences(200)]), encoding="utf-8")
    data = prepare(recipe, path, preparing.out, resume=False, console=Console(file=preparing.said))
    words = {"<unk>", "<eos>"} | set(path.read_text().split())
    assert len(data.tokenizer) == (recipe.data.vocabulary_size or len(words))


def test_a_text_of_documents_is_validated_on_some_and_others_are_held_out(preparing: Preparing) -> None:
    path = preparing.folder / "notes.txt"
    marks = write_documents(path, 60, "document")
    data = preparing(path, data={"policy": "english", "simple_sequence": True, "held_out_every": 5})
    check_sides(preparing, data, {path.name: marks})


def check_sides(preparing: Preparing, data: TrainingData, marks: dict[str, list[str]]) -> None:
    """Each document is on one side, and what is held out is written whole and nowhere in the ids."""
    train = set(text_of(data, data.train).split())
    validation_text = []
    for name, of_file in marks.items():
        held_out = (preparing.out / HELD_OUT / name).read_text()
        trained = {mark for mark in of_file if mark in train}
        tested = {mark for mark in of_file if mark in held_out.split()}
        validated = set(of_file) - trained - tested
        assert not trained & tested
        assert min(len(trained), len(tested), len(validated)) > 0
        # A validated or tested document's own word is none that the model knows.
        assert all(data.tokenizer.id_of(mark) is None for mark in tested | validated)
        source = (preparing.folder / name).read_text()
        separator = "\n\n" if "\n\n" in source else "\n"
        documents = {text.split()[0]: text for text in source.strip().split(separator)}
        assert all(documents[mark] in held_out for mark in tested)
        validation_text += [documents[mark] + "\n" for mark in validated]
    ids = np.concatenate([data.tokenizer.encode(text).ids for text in validation_text])
    assert sorted(data.valid.tolist()) == sorted(ids.tolist())
    assert (data.train != data.tokenizer.unknown_id).all()


def test_a_byte_order_mark_and_windows_line_ends_are_no_words(preparing: Preparing) -> None:
    path = preparing.folder / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(sentences(60)).encode())
    data = preparing(path)
    assert not any("\ufeff" in word or "\r" in word for word in data.tokenizer.vocabulary)


# --- A recipe's files ---------------------------------------------------------------------------------------------


def test_documents_of_a_recipe_in_files_of_one_name(preparing: Preparing) -> None:
    files = {"chats/a.txt": "line", "books/a.txt": "document", "b.txt": "line"}
    marks = {}
    for name, unit in files.items():
        path = preparing.folder / name
        marks[name] = [f"{name[0]}{mark}" for mark in write_documents(path, 80, unit)]
        path.write_text(path.read_text().replace(path.stem, f"{name[0]}{path.stem}", 1))
        text = path.read_text()
        for number in range(80):
            text = text.replace(f"\n{path.stem}{number} ", f"\n{name[0]}{path.stem}{number} ")
        path.write_text(text)
    documents = {name: {"unit": unit} for name, unit in files.items()}
    data = preparing(preparing.folder, data={"policy": "english", "documents": documents, "held_out_every": 4})
    check_sides(preparing, data, marks)


def test_the_same_seed_mixes_the_documents_the_same(preparing: Preparing) -> None:
    write_documents(preparing.folder / "text.txt", 60, "document")
    table = {"policy": "english", "documents": {"text.txt": 1.0}, "held_out_every": 5}
    found = []
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        preparing.out = preparing.folder / out
        found.append(preparing(preparing.folder, data=table, seed=seed).train.tolist())
    assert found[0] == found[1] != found[2]
    assert sorted(found[0]) == sorted(found[2])


def test_copies_are_read_more_often_and_change_neither_vocabulary_nor_held_out_text(preparing: Preparing) -> None:
    for name in ("often", "once"):
        write_documents(preparing.folder / f"{name}.txt", 60, "document")

    def prepared(out: str, often: object) -> tuple[TrainingData, dict[str, str], Counter[str]]:
        preparing.out = preparing.folder / out
        documents = {"often.txt": often, "once.txt": 1.0}
        data = preparing(
            preparing.folder,
            data={"policy": "english", "documents": documents, "held_out_every": 5, "vocabulary_size": 40},
        )
        held_out = {path.name: path.read_text() for path in (preparing.out / HELD_OUT).iterdir()}
        return data, held_out, Counter(text_of(data, data.train).split("\n"))

    plain, held_out, lines = prepared("plain", 1.0)
    data, same_held_out, more_lines = prepared("copies", {"copies": 3})
    assert data.tokenizer.vocabulary == plain.tokenizer.vocabulary
    assert data.valid.tolist() == plain.valid.tolist()
    assert same_held_out == held_out
    assert lines.keys() == more_lines.keys()
    preparing.out = preparing.folder / "alone"
    alone = preparing(
        preparing.folder, data={"policy": "english", "documents": {"often.txt": 1.0}, "held_out_every": 5}
    )
    assert len(data.train) == len(plain.train) + 2 * len(alone.train)


def test_files_that_are_split_already(preparing: Preparing) -> None:
    (preparing.folder / "a.txt").write_text(" one two three <unk> \n two one \n" * 9)
    (preparing.folder / "b.txt").write_text(" three four \n")
    data = preparing(preparing.folder, data={"policy": "split", "train": "a.txt", "valid": "b.txt"})
    assert set(data.tokenizer.vocabulary) == {"<unk>", "<eos>", "one", "two", "three"}
    assert [data.tokenizer.word_of(int(id)) for id in data.valid] == ["three", "<unk>", "<eos>"]
    assert len(data.train) == 9 * 8


def test_the_simple_sequence() -> None:
    data = data_module._simple_sequence()
    one_round = [word for number in range(1, 10) for word in [str(number)] * number]
    assert [data.tokenizer.word_of(int(id)) for id in data.train[:46]] == [*one_round, "1"]
    assert len(data.train) == 20 * 45 + 1
    assert data.start is None


# --- What cannot be used ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"text\.txt: the file is empty"),
        (b" \n\n\t\n", r"text\.txt: there is nothing but blanks in it"),
        ("Grüße aus Köln.\n".encode("latin-1") * 99, r"text\.txt: not UTF-8: byte 0xfc at offset 2: save it as UTF-8"),
        ("Grüße.\n".encode("utf-16"), r"text\.txt: not UTF-8: byte 0xff at offset 0: save it as UTF-8"),
        (b"one two three four\n", r"the training text is too short: .* use a smaller batch_size or more text"),
        (b"one\n", r"text\.txt: 2 words are too few to train on some and validate on the others"),
    ],
)
def test_a_text_that_cannot_be_used_leaves_nothing(content: bytes, message: str, preparing: Preparing) -> None:
    path = preparing.folder / "text.txt"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        preparing(path)
    assert "\n" not in str(caught.value)
    assert preparing.left == ["mine.toml", "text.txt"]


def test_a_vocabulary_larger_than_the_text(preparing: Preparing) -> None:
    write_text(preparing.folder / "text.txt")
    files = {"policy": "english", "train": "text.txt", "valid": "text.txt"}
    with pytest.raises(CorpusError, match=r"a vocabulary of 500 words .* only 24 distinct.*data\.vocabulary_size asks"):
        preparing(preparing.folder, data=files | {"vocabulary_size": 500})
    assert preparing.left == ["mine.toml", "text.txt"]
    data = preparing(preparing.folder, data=files | {"vocabulary_size": 24})
    assert len(data.tokenizer) == 24


def test_of_a_text_of_ones_own_the_words_that_come_twice(preparing: Preparing) -> None:
    path = preparing.folder / "text.txt"
    table = {"policy": "english", "simple_sequence": True}
    path.write_text("the cat sat\nthe dog sat\n" * 30 + "once\n")
    for size, words in ((500, 6), (4, 4)):
        data = preparing(path, data=table | {"vocabulary_size": size})
        assert len(data.tokenizer) == words
        assert data.tokenizer.id_of("once") is None, "it teaches what <unk> is"
        shutil.rmtree(preparing.folder / "out", ignore_errors=True)


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        ({"policy": "split", "train": "a.txt", "valid": "no.txt"}, "no.txt"),
        ({"policy": "split", "train": "no.txt", "valid": "a.txt"}, "no.txt"),
        ({"policy": "english", "documents": {"a.txt": 1.0, "no/b.txt": 0.5}, "held_out_every": 3}, "no/b.txt"),
    ],
)
def test_a_file_of_the_recipe_that_is_not_there(table: dict[str, Any], missing: str, preparing: Preparing) -> None:
    write_documents(preparing.folder / "a.txt", 30, "document")
    with pytest.raises(CorpusError, match=f"{missing}: no such file"):
        preparing(preparing.folder, data=table)
    assert preparing.left == ["a.txt", "mine.toml"]


def test_a_path_that_is_not_there(preparing: Preparing) -> None:
    with pytest.raises(CorpusError, match=r"nowhere: no such file or folder"):
        preparing(preparing.folder / "nowhere")


def test_no_path_where_one_is_needed(preparing: Preparing) -> None:
    with pytest.raises(CorpusError, match=r"the recipe mine needs --data: the folder of its files, or a text file of"):
        preparing(None)


def test_a_folder_where_none_is_needed(preparing: Preparing) -> None:
    with pytest.raises(CorpusError, match=r"a folder, and the recipe mine makes its own text: leave --data out"):
        preparing(preparing.folder, data={"policy": "split", "simple_sequence": True})


def test_a_validation_text_of_one_word(preparing: Preparing) -> None:
    write_text(preparing.folder / "a.txt")
    (preparing.folder / "b.txt").write_bytes(b"\n")
    with pytest.raises(CorpusError, match=r"the validation text is too short: 1 words, and it takes two"):
        preparing(preparing.folder, data={"policy": "split", "train": "a.txt", "valid": "b.txt"})


# --- The folder it is kept in -------------------------------------------------------------------------------------


def test_what_is_kept_is_taken_again(preparing: Preparing) -> None:
    path = write_text(preparing.folder / "text.txt")
    data = preparing(path)
    path.unlink()
    kept = preparing(path, resume=True)
    np.testing.assert_array_equal(kept.train, data.train)
    np.testing.assert_array_equal(kept.valid, data.valid)
    assert kept.tokenizer.vocabulary == data.tokenizer.vocabulary


def test_a_training_is_not_overwritten(preparing: Preparing) -> None:
    path = write_text(preparing.folder / "text.txt")
    preparing(path)
    before = {path: path.read_bytes() for path in preparing.out.iterdir()}
    with pytest.raises(FolderError, match="holds a training already: go on with --resume"):
        preparing(path)
    assert {path: path.read_bytes() for path in preparing.out.iterdir()} == before


def test_a_preparation_that_was_cut_off_is_made_anew(preparing: Preparing) -> None:
    path = preparing.folder / "text.txt"
    write_documents(path, 60, "document")
    table = {"policy": "english", "documents": {"text.txt": 1.0}, "held_out_every": 5}
    data = preparing(preparing.folder, data=table)
    (preparing.out / IDS).unlink()
    (preparing.out / HELD_OUT / "old.txt").touch()
    (preparing.out / TOKENIZER).write_text("{")
    np.testing.assert_array_equal(preparing(preparing.folder, data=table).train, data.train)
    assert [entry.name for entry in (preparing.out / HELD_OUT).iterdir()] == ["text.txt"]


def test_there_must_be_something_to_resume(preparing: Preparing) -> None:
    with pytest.raises(FolderError, match="out holds no training to resume; start without --resume"):
        preparing(resume=True)


def test_another_recipe_does_not_resume_it(preparing: Preparing) -> None:
    preparing(write_text(preparing.folder / "text.txt"))
    with pytest.raises(RecipeError, match=r"another recipe: there training\.learning_rate is 0\.01, not 0\.02: choose"):
        preparing(resume=True, learning_rate=0.02)


def test_a_recipe_from_before_a_field_was_added_resumes(preparing: Preparing) -> None:
    preparing(write_text(preparing.folder / "text.txt"))
    recipe = json.loads((preparing.out / RECIPE).read_text())
    del recipe["training"]["weight_decay"]
    (preparing.out / RECIPE).write_text(json.dumps(recipe))
    preparing(resume=True)


@pytest.mark.parametrize("name", [RECIPE, TOKENIZER, IDS])
def test_a_damaged_file_is_named(name: str, preparing: Preparing) -> None:
    preparing(write_text(preparing.folder / "text.txt"))
    path = preparing.out / name
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FolderError, match=rf"{name}: .*; choose another --out and start anew") as caught:
        preparing(resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "ids", [np.zeros((2, 2), np.int32), np.zeros(9), np.array([1, 999], np.int32), np.array([1, -1], np.int32), None]
)
def test_ids_of_other_words_are_refused(ids: Any, preparing: Preparing) -> None:
    preparing(write_text(preparing.folder / "text.txt"))
    np.savez(preparing.out / IDS, **({} if ids is None else {"train": ids}), valid=np.zeros(9, np.int32))
    with pytest.raises(FolderError, match=r"data\.npz: train is no array of ids of .*tokenizer\.json"):
        preparing(resume=True)


@pytest.mark.parametrize("what", ["tokenizer", "ids"])
def test_a_full_disk_leaves_nothing(what: str, preparing: Preparing, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_documents(preparing.folder / "text.txt", 60, "document")
    monkeypatch.setattr(*{"tokenizer": (Tokenizer, "save", full), "ids": (np, "savez", full)}[what])
    preparing.out = preparing.folder / "deep" / "out"
    with pytest.raises(CorpusError, match=r"cannot write to .*out: No space left on device; nothing is kept there"):
        preparing(preparing.folder, data={"policy": "english", "documents": {"text.txt": 1.0}, "held_out_every": 5})
    assert preparing.left == ["mine.toml", "text.txt"]


def test_a_file_in_the_place_of_the_folder(preparing: Preparing) -> None:
    path = write_text(preparing.folder / "text.txt")
    preparing.out.write_text("mine")
    with pytest.raises(CorpusError, match=r"cannot write to .*out: "):
        preparing(path)
    assert preparing.out.read_text() == "mine"
