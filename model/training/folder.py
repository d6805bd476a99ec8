"""The folder of a training: what stands in it, and files that are replaced whole or not at all."""

from __future__ import annotations

import fcntl
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

RECIPE = "recipe.json"
TOKENIZER = "tokenizer.json"
HELD_OUT = "held-out"
IDS = "data.npz"
SNAPSHOT = "snapshot.npz"
LOG = "log"
LOSS_PLOT = "loss.png"
PERPLEXITY_PLOT = "perplexity.png"
TRAINING_PAGE = "training.html"
MODEL = "model"
_NAMES = (RECIPE, TOKENIZER, HELD_OUT, IDS, SNAPSHOT, LOG, LOSS_PLOT, PERPLEXITY_PLOT, TRAINING_PAGE, MODEL)


class FolderError(ValueError):
    """A folder or file of a training that cannot be used; the message names it and what to do."""


def check_free(out: Path) -> None:
    """Raise FolderError where a new training in `out` would overwrite something.

    What a preparation left that was cut off may be overwritten: it starts with the recipe and ends with the ids.
    """
    taken = [name for name in _NAMES if os.path.lexists(out / name)]
    if IDS in taken:
        raise FolderError(f"{out} holds a training already: go on with --resume, or choose another --out")
    if taken and RECIPE not in taken:
        raise FolderError(f"{out} holds {', '.join(taken)}, which a training would overwrite: choose another --out")


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """The folder `out`, made if need be, for this process alone; one that stays empty is removed again.

    Raises FolderError where another process has it, or where it cannot be made.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise FolderError(f"cannot write to {out}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderError(
                f"another training is running in {out}: wait for its end, or choose another --out"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when it is whole. Until then, and if anything goes wrong, `path`
    is what it was.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            yield file
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Replace the `.npz` at `path`, once the new one is on the disk.

    Raises OSError, a full disk among them, with the old file untouched.
    """
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz`. Never unpickles. Raises FolderError for a file that is missing, damaged or no `.npz`."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise FolderError(f"{path}: damaged, or not an .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as npz:
                return dict(npz)
    except FolderError:
        raise
    except FileNotFoundError as error:
        raise FolderError(f"{path}: no such file") from error
    except Exception as error:  # zipfile and NumPy raise a dozen types for a damaged file
        raise FolderError(f"{path}: damaged: {' '.join(str(error).split())}") from error
