"""From a recipe's text to what a training needs: a tokenizer and arrays of ids, kept beside the snapshot."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from model import tables
from model.corpus import (
    CorpusError,
    Document,
    Source,
    build_vocabulary,
    count_documents,
    count_words,
    encode_documents,
    encode_files,
    mix_documents,
    read_documents,
    split_documents,
)
from model.corpus import Progress as OnBytes
from model.tokenizer import END, POLICIES, UNKNOWN, Tokenizer, TokenizerError
from model.training.batches import ParallelSequentialIterator
from model.training.folder import (
    HELD_OUT,
    IDS,
    RECIPE,
    SNAPSHOT,
    TOKENIZER,
    FolderError,
    check_free,
    read_arrays,
    write_arrays,
)
from model.training.penn_treebank import penn_treebank
from model.training.recipe import RECIPES, Recipe, RecipeError
from model.training.screen import Screen

#: Of a single text that cannot be split by documents: the share at its end that is held out for validation.
_TAIL = 0.05


@dataclass(frozen=True)
class TrainingData:
    """train and valid (N,) int32 ids of `tokenizer`'s words."""

    tokenizer: Tokenizer
    train: NDArray[np.int32]
    valid: NDArray[np.int32]

    @property
    def start(self) -> str | None:
        """The word that stands before any text: texts begin where a line has ended, if the text has lines."""
        end = self.tokenizer.end_id
        return END if end is not None and (self.train[:1_000_000] == end).any() else None

    def card(self, recipe: Recipe, parameters: int, validation: Mapping[str, Any]) -> str:
        """A first MODEL_CARD.md: what is known when the training ends."""
        figures = (
            f"perplexity {tables.perplexity(validation['validation/perplexity'])}, "
            f"accuracy {validation['validation/accuracy']:.3f}"
            if "validation/perplexity" in validation
            else "not measured"
        )
        begun = f"| began with | {recipe.base_model} |\n" if recipe.base_model else ""
        return (
            f"# {recipe.name}\n\n{recipe.description}\n\n"
            f"| | |\n| --- | --- |\n"
            f"| network | `{json.dumps(recipe.network)}` |\n"
            f"| parameters | {parameters:,} |\n"
            f"| vocabulary | {len(self.tokenizer):,} words |\n"
            f"{begun}"
            f"| training text | {len(self.train):,} words, {recipe.training.epochs:g} epochs |\n"
            f"| validation text (first {recipe.training.validation_words:,} words at most) | {figures} |\n\n"
            f"## What a word is\n\n{POLICIES[recipe.data.policy]}\n"
        )


def prepare(
    recipe: Recipe,
    path: Path | None,
    out: Path,
    *,
    resume: bool,
    console: Console,
    vocabulary: Tokenizer | None = None,
) -> TrainingData:
    """Read, split and encode the text, and keep the result in `out`; with `resume`, take what is kept there.

    `path` is the folder of the recipe's files, or a text file used instead of them. `vocabulary` has the words of the
    base model; without it they are counted in the text. Held-out test documents are
    written to `out/held-out/`, as they are, to evaluate on. Nothing is written before the text is known to be good.

    Raises:
        CorpusError: the text cannot be used, or `out` not be written.
        FolderError: `out` holds something that would be overwritten, or what is to be resumed is damaged.
        RecipeError: what is to be resumed was made by another recipe.
    """
    if resume:
        return _kept(recipe, out)
    check_free(out)
    text = _read(recipe, path, vocabulary, console)
    data = text.data
    try:
        ParallelSequentialIterator(data.train, recipe.training.batch_size, recipe.training.window)
    except ValueError as error:
        raise CorpusError(f"the training text is too short: {error}") from error
    if len(data.valid) < 2:
        raise CorpusError(f"the validation text is too short: {len(data.valid)} words, and it takes two to predict one")
    try:
        _write(recipe, text, out)
    except OSError as error:
        raise CorpusError(f"cannot write to {out}: {error.strerror or error}; nothing is kept there") from error
    console.print(
        f"{len(data.train):,} words to train on, {len(data.valid):,} to validate on, {len(data.tokenizer):,} in the "
        f"vocabulary, {(data.train == data.tokenizer.unknown_id).mean():.2%} of the text unknown"
    )
    return data


@dataclass(frozen=True)
class _Text:
    """What a text gives: the ids, and by file name the documents that nothing of them is made from."""

    data: TrainingData
    held_out: Mapping[str, list[Document]] = field(default_factory=dict)
    test: str = ""  # or a text of a data set's own to test on
    separator: Mapping[str, str] = field(default_factory=dict)


def _kept(recipe: Recipe, out: Path) -> TrainingData:
    if not (out / IDS).exists():
        raise FolderError(f"{out} holds no training to resume; start without --resume")
    try:
        before = Recipe.model_validate_json((out / RECIPE).read_bytes())
    except (OSError, ValidationError) as error:
        raise FolderError(f"{out / RECIPE}: missing or damaged; choose another --out and start anew") from error
    if recipe.base_model is not None and (out / SNAPSHOT).exists():
        # The base model's weights count no more, and its id changes with all that is measured on it.
        recipe = recipe.model_copy(update={"base_model": before.base_model})
    if differences := recipe.differs_from(before):
        raise RecipeError(
            f"{out} holds a training by another recipe: there {'; '.join(differences)}: choose another --out"
        )
    try:
        tokenizer = Tokenizer.load(out / TOKENIZER)
        arrays = read_arrays(out / IDS)
    except (TokenizerError, FolderError) as error:
        raise FolderError(f"{error}; choose another --out and start anew") from error
    for name in ("train", "valid"):
        ids = arrays.get(name)
        if ids is None or ids.ndim != 1 or ids.dtype != np.int32 or len(ids) < 2 or not _known(ids, tokenizer):
            raise FolderError(f"{out / IDS}: {name} is no array of ids of {out / TOKENIZER}; choose another --out")
    return TrainingData(tokenizer, arrays["train"], arrays["valid"])


def _known(ids: NDArray[np.int32], tokenizer: Tokenizer) -> bool:
    return bool(ids.min() >= 0 and ids.max() < len(tokenizer))


def _write(recipe: Recipe, text: _Text, out: Path) -> None:
    """The recipe first, the ids last: with them the preparation is complete. All or nothing."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / RECIPE).write_text(recipe.model_dump_json(indent=2), encoding="utf-8")
        shutil.rmtree(out / HELD_OUT, ignore_errors=True)
        for name, documents in text.held_out.items():
            if not documents:
                continue
            path = out / HELD_OUT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            texts = (content.rstrip("\n") + "\n" for content in read_documents(documents))
            path.write_text(text.separator[name].join(texts), encoding="utf-8")
        if text.test:
            (out / HELD_OUT).mkdir()
            (out / HELD_OUT / "test.txt").write_text(text.test + "\n", encoding="utf-8")
        text.data.tokenizer.save(out / TOKENIZER)
        write_arrays(out / IDS, {"train": text.data.train, "valid": text.data.valid})
    except BaseException:
        shutil.rmtree(out / HELD_OUT, ignore_errors=True)
        with suppress(OSError):
            (out / TOKENIZER).unlink(missing_ok=True)
            (out / RECIPE).unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
        raise


def _read(recipe: Recipe, path: Path | None, vocabulary: Tokenizer | None, console: Console) -> _Text:
    data = recipe.data
    if path is None:
        if data.simple_sequence:
            return _Text(_simple_sequence())
        if data.fetched:
            with console.status("fetching the Penn Treebank"):
                tokenizer, train, valid, test = penn_treebank()
            return _Text(TrainingData(tokenizer, train, valid), test=test)
        raise CorpusError(f"the recipe {recipe.name} needs --data: the folder of its files, or a text file of your own")
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder")
    if not path.is_dir():
        return _own_text(recipe, path, vocabulary, console)
    if data.train is not None and data.valid is not None:
        return _Text(_split_files(recipe, path / data.train, path / data.valid, vocabulary, console))
    if data.documents is not None:
        sources = {
            name: Source(share=use.share, unit=use.unit, part_bytes=use.part_bytes, copies=use.copies)
            for name, use in data.documents.items()
        }
        return _documents(recipe, path, sources, vocabulary, console)
    raise CorpusError(
        f"{path}: a folder, and the recipe {recipe.name} makes its own text: leave --data out, or name a text file"
    )


def _simple_sequence(repeats: int = 20, validation_repeats: int = 4) -> TrainingData:
    """1, 2 2, 3 3 3, ... 9 x 9, over and over: each word follows from the count of the ones before.

    The 1 of the next round at the end makes the rounds divisible into streams that all begin with 1.
    """
    words = [str(number) for number in range(1, 10)]
    tokenizer = Tokenizer.from_vocabulary(["<unk>", *words], "split")
    ids = np.repeat(np.arange(1, 10, dtype=np.int32), np.arange(1, 10))
    train, valid = (np.append(np.tile(ids, rounds), ids[:1]) for rounds in (repeats, validation_repeats))
    return TrainingData(tokenizer, train, valid)


def _tokenizer(
    recipe: Recipe,
    vocabulary: Tokenizer | None,
    console: Console,
    count: Callable[[OnBytes], Counter[str]],
    *,
    own: bool = False,
) -> Tokenizer:
    """own: of a text that is not the recipe's, which may have fewer words than that asks for."""
    if vocabulary is not None:
        return vocabulary
    size = recipe.data.vocabulary_size
    with _progress(console, "counting words") as on_bytes:
        counts = count(on_bytes)
    if own and size is not None:
        # Words that come once stay unknown: without any the network would not learn what <unk> is.
        size = min(size, max(3, 2 + sum(times > 1 for word, times in counts.items() if word not in (UNKNOWN, END))))
    try:
        return Tokenizer.from_vocabulary(build_vocabulary(counts, size), recipe.data.policy)
    except CorpusError as error:
        raise CorpusError(
            f"{error}. The recipe's data.vocabulary_size asks for it: change it in a copy of the recipe, a .toml file "
            f"(those that come with nextword are in {RECIPES})"
        ) from error


def _split_files(
    recipe: Recipe, train: Path, valid: Path, vocabulary: Tokenizer | None, console: Console
) -> TrainingData:
    tokenizer = _tokenizer(
        recipe,
        vocabulary,
        console,
        lambda on_bytes: count_words([train], recipe.data.policy, on_bytes, _screen(recipe)),
    )
    screen = _screen(recipe)
    with _progress(console, "encoding") as on_bytes:
        ids = encode_files([train], tokenizer, on_bytes, screen)
    _tell(screen, console)
    return TrainingData(tokenizer, ids, encode_files([valid], tokenizer, screen=screen))


def _own_text(recipe: Recipe, path: Path, vocabulary: Tokenizer | None, console: Console) -> _Text:
    if all(split_documents(path, recipe.data.held_out_every).values()):
        return _documents(recipe, path.parent, {path.name: Source(part_bytes=50_000)}, vocabulary, console, own=True)
    # Too few documents to hold some out: one text, whose end is held out.
    tokenizer = _tokenizer(
        recipe,
        vocabulary,
        console,
        lambda on_bytes: count_words([path], recipe.data.policy, on_bytes, _screen(recipe)),
        own=True,
    )
    screen = _screen(recipe)
    ids = encode_files([path], tokenizer, screen=screen)
    _tell(screen, console)
    tail = max(2, round(len(ids) * _TAIL))
    if len(ids) < 2 * tail:
        raise CorpusError(f"{path}: {len(ids)} words are too few to train on some and validate on the others")
    return _Text(TrainingData(tokenizer, ids[:-tail], ids[-tail:]))


def _documents(
    recipe: Recipe,
    folder: Path,
    sources: Mapping[str, Source],
    vocabulary: Tokenizer | None,
    console: Console,
    *,
    own: bool = False,
) -> _Text:
    paths = {folder / name: source for name, source in sources.items()}
    every = recipe.data.held_out_every
    with console.status("finding documents"):
        train = mix_documents(paths, "train", every, recipe.training.seed)
        valid = mix_documents(paths, "valid", every, recipe.training.seed)
        held_out = {
            name: split_documents(folder / name, every, source.unit)["test"] for name, source in sources.items()
        }
    tokenizer = _tokenizer(
        recipe,
        vocabulary,
        console,
        # Each once: how often a text is read says nothing of which words people use.
        lambda on_bytes: count_documents([*dict.fromkeys(train)], recipe.data.policy, on_bytes, _screen(recipe)),
        own=own,
    )
    screen = _screen(recipe)
    with _progress(console, "encoding") as on_bytes:
        ids = encode_documents(train, tokenizer, on_bytes, screen)
    _tell(screen, console)
    return _Text(
        TrainingData(tokenizer, ids, encode_documents(valid, tokenizer, screen=screen)),
        held_out,
        separator={name: "" if source.unit == "line" else "\n" for name, source in sources.items()},
    )


def _screen(recipe: Recipe) -> Screen | None:
    return Screen() if recipe.data.screened else None


def _tell(screen: Screen | None, console: Console) -> None:
    if screen is not None:
        why = ", ".join(f"{count:,} for {reason}" for reason, count in screen.dropped.most_common()) or "none"
        console.print(f"{screen.lines:,} lines looked at, left out: {why}")


@contextmanager
def _progress(console: Console, what: str) -> Iterator[OnBytes]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
