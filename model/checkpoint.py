"""Checkpoints as Chainer's `save_npz` writes them: one network found in a file, read without trusting the file.

Nothing is unpickled, every array's header is read and weighed before its data, and only the arrays of one network are
read at all. Which network it is follows from the names of its arrays (`model.shapes` lists them), its sizes from their
shapes.
"""

from __future__ import annotations

import ast
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.shapes import NetworkError, Shapes, parameter_shapes

_MOST_BYTES = 4 << 30  # of one network's arrays as declared: a billion weights

# Where Chainer's own programs put a network: saved alone, in a Classifier, in a Trainer's snapshot.
_USUAL_PREFIXES = ("", "predictor/", "updater/model:main/", "updater/model:main/predictor/")
_FLOAT = re.compile(r"[<>=|]?f[248]")


class CheckpointError(ValueError):
    """A checkpoint or vocabulary that does not fit: one line that names what was found and what was expected."""


@dataclass(frozen=True)
class Checkpoint:
    """One network found in a file. weights: float32, named and shaped as `model.shapes` says. prefix: what stood
    before their names in the file.
    """

    network: dict[str, Any]
    weights: dict[str, NDArray[np.float32]]
    prefix: str


def read_checkpoint(path: Path, *, words: int | None = None, prefix: str | None = None) -> Checkpoint:
    """Read one network from an ``.npz`` of Chainer's `save_npz`, or from a Trainer's snapshot.

    words: how many words the vocabulary has, checked before anything large is read. prefix: what stands before the
    network's array names, where a file holds several; found by itself otherwise.
    Raises CheckpointError for a file that is no .npz, damaged or larger than 4 GiB; names that belong to no network
    known; arrays that are missing, extra, ill-shaped, pickled, no floats, or not finite.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise CheckpointError(f"{path}: not an .npz, the zip archive that chainer.serializers.save_npz writes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return _read_network(path, archive, words, prefix)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: damaged: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class _Header:
    """What an array says of itself: its shape, and its type in NumPy's notation ("<f4")."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """What the array's data takes; the type is one of floats."""
        return math.prod(self.shape) * int(self.dtype[-1])


def _read_network(path: Path, archive: Any, words: int | None, prefix: str | None) -> Checkpoint:
    members = {info.filename.removesuffix(".npy"): info for info in archive.zip.infolist()}
    if len(members) < len(archive.zip.infolist()):
        raise CheckpointError(f"{path}: has several arrays of one name")
    prefix = _find_prefix(path, members, prefix)
    where = f"{path}: under {prefix}: " if prefix else f"{path}: "
    members = {name.removeprefix(prefix): info for name, info in members.items() if name.startswith(prefix)}
    kind = _kind_of(where, members)
    headers = {name: _read_header(where, archive.zip, name, info) for name, info in members.items()}
    shapes = {name: header.shape for name, header in headers.items()}
    network = _sizes(where, kind, shapes)
    try:
        expected = parameter_shapes(network)
    except NetworkError as error:
        raise CheckpointError(f"{where}{error}") from error
    _compare(where, kind, shapes, expected)
    if words is not None and network["vocabulary_size"] != words:
        raise CheckpointError(
            f"{where}embed/W is for {network['vocabulary_size']} words and the vocabulary has {words}"
        )
    _weigh(where, headers)
    return Checkpoint(network, {name: _read_array(where, archive, prefix, name) for name in expected}, prefix)


def _find_prefix(path: Path, names: Mapping[str, object], prefix: str | None) -> str:
    if prefix is not None:
        prefix = prefix if prefix.endswith("/") or not prefix else prefix + "/"
        if prefix + "embed/W" not in names:
            raise CheckpointError(f"{path}: has no {prefix}embed/W; it has {_some(names)}")
        return prefix
    found = sorted(name.removesuffix("embed/W") for name in names if name == "embed/W" or name.endswith("/embed/W"))
    if not found:
        raise CheckpointError(
            f"{path}: no array is named embed/W, which every network known here has; it has {_some(names)}"
        )
    usual = [candidate for candidate in _USUAL_PREFIXES if candidate in found]
    if len(found) > 1 and len(usual) != 1:
        raise CheckpointError(f"{path}: holds several networks; choose one by its prefix (--prefix): {_some(found)}")
    return usual[0] if usual else found[0]


def _kind_of(where: str, names: Mapping[str, object]) -> str:
    if "l1/upward/W" in names:
        return "lstm"
    if "r1/W" in names:
        return "simple_rnn"
    if "blocks/0/r/W" in names:
        return "deep_rnn"
    if "layers/0/W_h" in names:
        return "gru" if "output/W" in names else "lstm_stack"
    if "l1/W" in names and "l2/W" in names:
        return "concat_rnn"
    raise CheckpointError(
        f"{where}its arrays belong to no network known here: {_some(names)}; expected are, beside embed/W: "
        "l1/upward/W, l1/upward/b, l1/lateral/W, l2/..., l3/W, l3/b (the LSTM of Chainer's ptb example), or "
        "l1/W, l1/b, r1/W, r1/b, l2/W, l2/b (the simple RNN), or l1/W, l1/b, l2/W, l2/b (the concatenating RNN), or "
        "this program's own blocks/0/... and layers/0/..."
    )


def _read_header(where: str, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> _Header:
    """The first bytes of an array, no more: a header may promise, and a zip may unpack to, far more than is there."""
    with archive.open(info) as file:
        start = file.read(10)
        if len(start) < 10 or start[:8] != b"\x93NUMPY\x01\x00":
            raise CheckpointError(f"{where}{name} is not an array in NumPy's format 1.0")
        (length,) = struct.unpack("<H", start[8:])  # at most 64 KiB
        text = file.read(length).decode("latin-1")
    try:
        fields = ast.literal_eval(text.strip())
        header = _Header(tuple(fields["shape"]), str(fields["descr"]))
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise CheckpointError(f"{where}{name} has no readable header: {text[:60].strip()!r}") from error
    if any(not isinstance(size, int) or size < 0 for size in header.shape):
        raise CheckpointError(f"{where}{name} has no readable header: shape {header.shape}")
    if _FLOAT.fullmatch(header.dtype) and info.file_size != 10 + length + header.bytes:
        raise CheckpointError(
            f"{where}{name} is cut off or damaged: its header promises {header.bytes} bytes of data, "
            f"there are {info.file_size - 10 - length}"
        )
    return header


def _sizes(where: str, kind: str, shapes: Shapes) -> dict[str, Any]:
    """The arguments that the network must have been made with, from the shapes of the few arrays that tell them."""

    def size(name: str, axis: int) -> int:
        if name not in shapes:
            raise CheckpointError(f"{where}{name} is missing; a network of kind {kind} has one")
        if len(shapes[name]) != 2:
            raise CheckpointError(f"{where}{name} has shape {shapes[name]}; in {kind} it is a matrix")
        return shapes[name][axis]

    def layers(before: str, after: str) -> list[int]:
        pattern = re.compile(re.escape(before) + r"(\d{1,4})" + re.escape(after))
        last = max(int(match[1]) for name in shapes if (match := pattern.fullmatch(name)))
        return [size(f"{before}{number}{after}", 1) for number in range(last + 1)]

    network: dict[str, Any] = {"kind": kind, "vocabulary_size": size("embed/W", 0)}
    E = size("embed/W", 1)
    if kind == "lstm":
        return network | {"hidden_size": E}
    network["embedding_size"] = E
    if kind == "simple_rnn":
        return network | {"hidden_size": size("r1/W", 1)}
    if kind == "concat_rnn":
        return network | {"hidden_size": size("l1/W", 1) - E, "output_size": size("l2/W", 1)}
    return network | {"hidden_sizes": layers("blocks/", "/r/W") if kind == "deep_rnn" else layers("layers/", "/W_h")}


def _compare(where: str, kind: str, shapes: Shapes, expected: Shapes) -> None:
    if missing := [name for name in expected if name not in shapes]:
        raise CheckpointError(f"{where}lacks {_some(missing)}; a network of kind {kind} has {', '.join(expected)}")
    if extra := sorted(shapes.keys() - expected.keys()):
        raise CheckpointError(
            f"{where}has {_some(extra)} beside what a network of kind {kind} of these sizes has: {', '.join(expected)}"
        )
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise CheckpointError(
                f"{where}{name} has shape {shapes[name]}; a network of kind {kind} with embed/W {shapes['embed/W']} "
                f"needs {shape}"
            )


def _weigh(where: str, headers: Mapping[str, _Header]) -> None:
    for name, header in headers.items():
        if not _FLOAT.fullmatch(header.dtype):
            found = "pickled (or was never initialised), and is not read" if "O" in header.dtype else header.dtype
            raise CheckpointError(f"{where}{name} is {found}; weights are float16, float32 or float64")
    total = sum(header.bytes for header in headers.values())
    if total > _MOST_BYTES:
        raise CheckpointError(f"{where}its arrays promise {total} bytes; at most {_MOST_BYTES} are read")


def _read_array(where: str, archive: Any, prefix: str, name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes infinite, and is refused below
        array: NDArray[np.float32] = np.ascontiguousarray(archive[prefix + name], dtype=np.float32)
    if not np.isfinite(array).all():
        raise CheckpointError(
            f"{where}{name} holds {int((~np.isfinite(array)).sum())} values that are not finite in float32; if its "
            "training had diverged, take an earlier snapshot"
        )
    return array


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(repr(name) for name in names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
