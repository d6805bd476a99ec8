"""Everything a training needs to go on as if it had never stopped, in one Chainer `.npz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from model.compat import chainer
from model.training.folder import FolderError, read_arrays, write_arrays
from model.training.processes import Processes
from model.training.updater import DivergedError


class SnapshotError(ValueError):
    """A snapshot that cannot be read; the message names the file and what is wrong with it."""


def save(path: Path, trainer: Any, processes: Processes) -> None:
    """Write weights, optimiser, recurrent state, place in the text and log; `path` is replaced only by a whole file.

    All processes have to call it; the first one writes. Raises OSError, a full disk among them, and DivergedError
    where a number of the network or its optimiser is not finite, with the old snapshot untouched.
    """
    serializer = chainer.serializers.DictionarySerializer()
    serializer.save(trainer)
    for name, array in serializer.target.items():
        if name.startswith("updater/") and not np.isfinite(array).all():
            raise DivergedError(f"{name} is not finite at iteration {trainer.updater.iteration}")
    if processes.first:
        write_arrays(path, serializer.target)


def load(path: Path, trainer: Any, processes: Processes) -> None:
    """Put `trainer` where the snapshot's was, in all processes. Never unpickles the file. Raises SnapshotError."""
    try:
        arrays = processes.share(lambda: read_arrays(path))
    except FolderError as error:
        raise SnapshotError(f"{error}; put back a copy of it, or remove it to start anew from the same text") from error
    try:
        chainer.serializers.NpzDeserializer(arrays).load(trainer)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SnapshotError(f"{path}: not a snapshot of this training: {error}") from error
