"""From a recipe's text to what a training needs: a tokenizer and arrays of ids, kept beside the snapshot."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

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
from model.tokenizer import END, POLICIES, Tokenizer
from model.training.recipe import Data, Recipe, RecipeError

IDS = "data.npz"
TOKENIZER = "tokenizer.json"
RECIPE = "recipe.json"
HELD_OUT = "held-out"
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
            f"perplexity {validation['validation/perplexity']:.2f}, accuracy {validation['validation/accuracy']:.3f}"
            if validation
            else "not measured"
        )
        return (
            f"# {recipe.name}\n\n{recipe.description}\n\n"
            f"| | |\n| --- | --- |\n"
            f"| network | `{json.dumps(recipe.network)}` |\n"
            f"| parameters | {parameters:,} |\n"
            f"| vocabulary | {len(self.tokenizer):,} words |\n"
            f"| training text | {len(self.train):,} words, {recipe.training.epochs:g} epochs |\n"
            f"| validation text (first {recipe.training.validation_words:,} words at most) | {figures} |\n\n"
            f"## What a word is\n\n{POLICIES[recipe.data.policy]}\n"
        )


def prepare(recipe: Recipe, path: Path | None, out: Path, *, resume: bool, console: Console) -> TrainingData:
    """Read, split and encode the text, and keep the result in `out`; with `resume`, take what is kept there.

    `path` is the folder of the recipe's files, or a text file used instead of them. Held-out test documents are
    written to `out/held-out/`, to evaluate on. Raises CorpusError, and RecipeError where `out` holds another training.
    """
    if resume:
        return _kept(recipe, out)
    if (out / IDS).exists():
        raise RecipeError(f"{out} holds a training already: go on with --resume, or choose another --out")
    try:
        data = _read(recipe.data, path, out, recipe.training.seed, console)
        out.mkdir(parents=True, exist_ok=True)
        data.tokenizer.save(out / TOKENIZER)
        (out / RECIPE).write_text(recipe.model_dump_json(indent=2), encoding="utf-8")
        np.savez(out / IDS, train=data.train, valid=data.valid)  # last: with it the preparation is complete
    except OSError as error:
        raise CorpusError(f"cannot write to {out}: {error.strerror or error}") from error
    console.print(
        f"{len(data.train):,} words to train on, {len(data.valid):,} to validate on, {len(data.tokenizer):,} in the "
        f"vocabulary, {(data.train == data.tokenizer.unknown_id).mean():.2%} of the text unknown"
    )
    return data


def _kept(recipe: Recipe, out: Path) -> TrainingData:
    if not (out / IDS).exists():
        raise RecipeError(f"{out} holds no training to resume; start without --resume")
    if json.loads((out / RECIPE).read_text(encoding="utf-8")) != recipe.model_dump(mode="json"):
        raise RecipeError(f"{out} holds a training by another recipe (see {out / RECIPE}); choose another --out")
    try:
        with np.load(out / IDS, allow_pickle=False) as arrays:
            return TrainingData(Tokenizer.load(out / TOKENIZER), arrays["train"], arrays["valid"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{out / IDS}: damaged ({error}); remove {out} and start anew") from error


def _read(data: Data, path: Path | None, out: Path, seed: int, console: Console) -> TrainingData:
    if path is None:
        if data.simple_sequence:
            return _simple_sequence()
        raise CorpusError("this recipe needs --data: the folder of its files, or a text file of your own")
    if path.is_file():
        return _own_text(data, path, out, seed, console)
    if data.train is not None and data.valid is not None:
        return _split_files(data, path / data.train, path / data.valid, console)
    if data.documents is not None:
        sources = {
            path / name: Source(share=use.share, unit=use.unit, part_bytes=use.part_bytes)
            for name, use in data.documents.items()
        }
        return _documents(data, sources, out, seed, console)
    raise CorpusError(f"{path} is not a text file, and this recipe makes its own text: leave --data out")


def _simple_sequence(repeats: int = 100) -> TrainingData:
    """1, 2 2, 3 3 3, ... 9 x 9, over and over: each word follows from the count of the ones before."""
    words = [str(number) for number in range(1, 10)]
    tokenizer = Tokenizer.from_vocabulary(["<unk>", *words], "split")
    ids = np.repeat(np.arange(1, 10, dtype=np.int32), np.arange(1, 10))
    return TrainingData(tokenizer, np.tile(ids, repeats), np.tile(ids, repeats // 10))


def _split_files(data: Data, train: Path, valid: Path, console: Console) -> TrainingData:
    with _progress(console, "counting words") as on_bytes:
        vocabulary = build_vocabulary(count_words([train], data.policy, on_bytes), data.vocabulary_size)
    tokenizer = Tokenizer.from_vocabulary(vocabulary, data.policy)
    with _progress(console, "encoding") as on_bytes:
        return TrainingData(tokenizer, encode_files([train], tokenizer, on_bytes), encode_files([valid], tokenizer))


def _own_text(data: Data, path: Path, out: Path, seed: int, console: Console) -> TrainingData:
    sources = {path: Source(part_bytes=50_000)}
    if all(split_documents(path, data.held_out_every).values()):
        return _documents(data, sources, out, seed, console)
    # Too few documents to hold some out: one text, whose end is held out.
    with _progress(console, "counting words") as on_bytes:
        vocabulary = build_vocabulary(count_words([path], data.policy, on_bytes), data.vocabulary_size)
    tokenizer = Tokenizer.from_vocabulary(vocabulary, data.policy)
    ids = encode_files([path], tokenizer)
    tail = max(2, round(len(ids) * _TAIL))
    if len(ids) < 2 * tail:
        raise CorpusError(f"{path}: {len(ids)} words are too few to train on some and validate on the others")
    return TrainingData(tokenizer, ids[:-tail], ids[-tail:])


def _documents(data: Data, sources: Mapping[Path, Source], out: Path, seed: int, console: Console) -> TrainingData:
    with console.status("finding documents"):
        train = mix_documents(sources, "train", data.held_out_every, seed)
        valid = mix_documents(sources, "valid", data.held_out_every, seed)
    with _progress(console, "counting words") as on_bytes:
        counts = count_documents(train, data.policy, on_bytes)
    tokenizer = Tokenizer.from_vocabulary(build_vocabulary(counts, data.vocabulary_size), data.policy)
    _write_held_out(data, sources, out)
    with _progress(console, "encoding") as on_bytes:
        ids = encode_documents(train, tokenizer, on_bytes)
    return TrainingData(tokenizer, ids, encode_documents(valid, tokenizer))


def _write_held_out(data: Data, sources: Mapping[Path, Source], out: Path) -> None:
    """One file of test documents for each file of the corpus: `nextword evaluate` reads them."""
    folder = out / HELD_OUT
    folder.mkdir(parents=True, exist_ok=True)
    for path, source in sources.items():
        held_out: list[Document] = split_documents(path, data.held_out_every, source.unit)["test"]
        between = "" if source.unit == "line" else "\n"
        texts = (text.rstrip("\n") + "\n" for text in read_documents(held_out))
        (folder / path.name).write_text(between.join(texts), encoding="utf-8")


@contextmanager
def _progress(console: Console, what: str) -> Iterator[OnBytes]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
