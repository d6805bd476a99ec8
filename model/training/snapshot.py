"""Everything a training needs to go on as if it had never stopped, in one Chainer `.npz`."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from model.compat import chainer


class SnapshotError(ValueError):
    """A snapshot that cannot be read; the message names the file and what is wrong with it."""


def save(path: Path, trainer: Any) -> None:
    """Write weights, optimiser, recurrent state, place in the text and log; `path` is replaced only by a whole file.

    Raises OSError, a full disk among them, with the old snapshot untouched.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        serializer = chainer.serializers.DictionarySerializer()
        serializer.save(trainer)
        with new.open("wb") as file:
            np.savez(file, allow_pickle=False, **serializer.target)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def load(path: Path, trainer: Any) -> None:
    """Put `trainer` where the snapshot's was. Never unpickles. Raises SnapshotError."""
    try:
        with np.load(path, allow_pickle=False) as npz:
            chainer.serializers.NpzDeserializer(npz).load(trainer)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SnapshotError(f"{path}: not a snapshot of this training: {error}") from error
