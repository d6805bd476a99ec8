"""The model directory: ``config.json``, ``tokenizer.json``, ``model.safetensors``, ``MODEL_CARD.md``, and nothing else.

Everything that serves or measures a model starts from an `Artifact`, which is known to be whole: the vocabulary, the
network and the weights agree, and every weight is finite. Nothing in the directory is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.adaptation import MOST_PAIRS, MOST_THETA, Adaptation
from model.shapes import NetworkError, checked_network, parameter_shapes
from model.tokenizer import Tokenizer, TokenizerError

FORMAT = 1
CONFIG, TOKENIZER, WEIGHTS, CARD = "config.json", "tokenizer.json", "model.safetensors", "MODEL_CARD.md"
FILES = (CONFIG, TOKENIZER, WEIGHTS, CARD)
_CONFIG_STAGING = f".{CONFIG}.new"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: What `NAME` says, in words.
NAMED = "a model's name has up to 64 letters (A to Z), digits, ., - and _, and begins with a letter or digit"


class ArtifactError(ValueError):
    """A model directory that cannot be read or written: one line that says which file, what is wrong, what to do."""


class _Adaptation(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size: int = Field(ge=1, le=MOST_PAIRS)
    theta: float = Field(gt=0, le=MOST_THETA)
    weight: float = Field(gt=0, lt=1)


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1]
    name: str = Field(pattern=f"^{NAME.pattern}$")
    network: dict[str, Any]
    start: str | None
    vocabulary_size: int
    measured: dict[str, Any]
    training: dict[str, Any]
    adaptation: _Adaptation | None = None


@dataclass(frozen=True, eq=False)
class Artifact:
    """A model: what it is, what it knows, and its words.

    name: letters, digits, ``.``, ``_``, ``-``, at most 64. id: ``name@`` and the first 12 hex digits of the SHA-256
    over all four files, so states made by other weights, words or settings are told apart. network: ``{"kind": ...}``
    and its arguments, see `model.shapes`. start: the word consumed before any text, so that an empty session stands
    where a text begins; None means zeros. measured: figures that evaluation found, may be empty. training: how it was
    made, free. weights: float32 in memory whatever the file holds, named as Chainer names them ("embed/W").
    adaptation: how sessions best adapt, found on validation text; the usual where config.json does not say.
    """

    name: str
    id: str
    network: dict[str, Any]
    start: str | None
    measured: dict[str, Any]
    tokenizer: Tokenizer
    weights: dict[str, NDArray[np.float32]]
    card: str
    training: dict[str, Any] = field(default_factory=dict)
    adaptation: Adaptation = field(default_factory=Adaptation)

    @property
    def start_id(self) -> int | None:
        """The id of `start`, or None."""
        return None if self.start is None else self.tokenizer.id_of(self.start)

    @property
    def parameters(self) -> int:
        """How many numbers the network has learnt."""
        return sum(weight.size for weight in self.weights.values())

    @classmethod
    def load(cls, path: Path | str) -> Artifact:
        """Read and check a model directory. Raises ArtifactError, one line, for anything that is not as it should be:
        a directory or file that is missing, damaged or of another format, a kind of network that is not known, a
        vocabulary of another size than the network's, a weight that is missing, extra, ill-shaped or not finite.
        """
        directory = Path(path)
        contents = {name: _read(directory, name) for name in FILES}
        config = _parse_config(directory / CONFIG, contents[CONFIG])
        network = _network_of(directory / CONFIG, config)
        try:
            tokenizer = Tokenizer.load(directory / TOKENIZER)
        except TokenizerError as error:
            raise ArtifactError(_line(str(error))) from error
        if len(tokenizer) != network["vocabulary_size"]:
            raise ArtifactError(
                f"{directory}: {TOKENIZER} has {len(tokenizer)} words and the network in {CONFIG} is for "
                f"{network['vocabulary_size']}; the files do not belong together, take them from one model"
            )
        if config.start is not None and tokenizer.id_of(config.start) is None:
            raise ArtifactError(f"{directory / CONFIG}: start is {config.start!r}, which is no word of {TOKENIZER}")
        try:
            card = contents[CARD].decode()
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{directory / CARD}: not UTF-8 at byte {error.start}") from error
        return cls(
            name=config.name,
            id=f"{config.name}@{_digest(contents)[:12]}",
            network=network,
            start=config.start,
            measured=config.measured,
            tokenizer=tokenizer,
            weights=_parse_weights(directory / WEIGHTS, contents[WEIGHTS], network),
            card=card,
            training=config.training,
            adaptation=Adaptation() if config.adaptation is None else Adaptation(**config.adaptation.model_dump()),
        )

    @classmethod
    def write(
        cls,
        path: Path | str,
        *,
        name: str,
        network: Mapping[str, Any],
        start: str | None,
        tokenizer: Tokenizer,
        weights: Mapping[str, NDArray[np.floating[Any]]],
        card: str,
        measured: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> Artifact:
        """Write a model directory as one: `path` holds the old model until the new one is complete, on the disk and
        read back, and then the new one. Returns what was written, as `load` would.

        A model directory at `path` is replaced. Raises ArtifactError if something else is there, if the disk is full
        (what was there stays), and for everything that `load` refuses.
        """
        target = Path(path).resolve()
        _refuse_to_replace(target)
        config = {
            "format": FORMAT,
            "name": name,
            "network": dict(network),
            "start": start,
            "vocabulary_size": len(tokenizer),
            "measured": dict(measured or {}),
            "training": dict(training or {}),
        }
        tensors = _as_stored(weights, dtype)
        staging: Path | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = target.parent / f".{target.name}.new-{secrets.token_hex(4)}"
            staging.mkdir()
            _write_file(staging / CONFIG, _config_bytes(config))
            tokenizer.save(staging / TOKENIZER)
            _write_file(staging / WEIGHTS, safetensors.numpy.save(tensors))
            _write_file(staging / CARD, card.encode())
            _sync(staging / TOKENIZER)
            _sync(staging)
            written = cls.load(staging)
            _swap(staging, target)
        except OSError as error:
            raise ArtifactError(
                _line(f"cannot write {target}: {error.strerror or error}; nothing was changed")
            ) from error
        except ArtifactError as error:
            raise ArtifactError(str(error).replace(f"{staging}", f"{target} (not written)")) from error
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)
        return written

    @classmethod
    def record(cls, path: Path | str, measured: Mapping[str, Any], *, of: str) -> Artifact:
        """Put figures into a model directory's ``measured``, over those of the same name; its id changes with them.
        of: the id of the model that was measured.

        Raises ArtifactError as `load` does, if another model is there by now, and if nothing can be written, which
        leaves the old figures.
        """
        directory = Path(path).resolve()
        there = cls.load(directory).id
        if there != of:
            raise ArtifactError(f"{directory}: {there} is there now; it is {of} that was measured")
        config = json.loads(_read(directory, CONFIG))
        config["measured"] |= dict(measured)
        staging = directory / _CONFIG_STAGING
        try:
            _write_file(staging, _config_bytes(config))
            staging.replace(directory / CONFIG)
            _sync(directory)
        except OSError as error:
            with suppress(OSError):  # where nothing can be written nothing can be taken away either
                staging.unlink()
            raise ArtifactError(f"cannot write {directory / CONFIG}: {error.strerror or error}") from error
        return cls.load(directory)


def _line(text: str) -> str:
    """One line, whatever a library put into its message."""
    return " ".join(text.split())


def _read(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not directory.exists():
            left = directory.parent / f".{directory.name}.replaced"
            hint = f"; an interrupted write left it at {left}: rename it back" if left.exists() else ""
            raise ArtifactError(f"{directory}: there is no such model directory{hint}") from error
        if not directory.is_dir():
            raise ArtifactError(f"{directory}: a file; a model is a directory with {', '.join(FILES)}") from error
        raise ArtifactError(f"{directory}: {name} is missing; a model has {', '.join(FILES)}") from error
    except OSError as error:
        raise ArtifactError(f"{directory / name}: cannot be read: {error.strerror or error}") from error


def _refuse_constant(value: str) -> None:
    raise ValueError(f"{value} is not JSON")


def _parse_config(path: Path, content: bytes) -> _Config:
    try:
        config = json.loads(content.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(_line(f"{path}: not JSON: {error}")) from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{path}: not a JSON object")
    if config.get("format") != FORMAT:
        raise ArtifactError(
            f"{path}: format is {config.get('format')!r:.40}, this program reads format {FORMAT}; "
            "take the program's version that wrote the model, or write the model anew"
        )
    try:
        return _Config.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        given = "" if first["type"] == "missing" else f" (it is {first['input']!r:.80})"
        raise ArtifactError(_line(f"{path}: {where}: {first['msg']}{given}")) from error


def _network_of(path: Path, config: _Config) -> dict[str, Any]:
    try:
        network = checked_network(config.network)
    except NetworkError as error:
        raise ArtifactError(f"{path}: network: {error}") from error
    if config.vocabulary_size != network["vocabulary_size"]:
        raise ArtifactError(
            f"{path}: vocabulary_size is {config.vocabulary_size} and the network's is {network['vocabulary_size']}"
        )
    return network


def _parse_weights(path: Path, content: bytes, network: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    try:
        tensors: dict[str, NDArray[Any]] = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(_line(f"{path}: not a safetensors file, or damaged: {error}")) from error
    shapes = parameter_shapes(network)
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise ArtifactError(f"{path}: {_listed(missing)} missing; {network['kind']} has {', '.join(shapes)}")
    if extra := sorted(tensors.keys() - shapes.keys()):
        raise ArtifactError(f"{path}: {_listed(extra)} unexpected; {network['kind']} has {', '.join(shapes)}")
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ArtifactError(f"{path}: {name} has shape {tensor.shape}, the network in {CONFIG} needs {shape}")
        if tensor.dtype not in (np.float32, np.float16):
            raise ArtifactError(f"{path}: {name} is {tensor.dtype}; weights are float32 or float16")
        weight = np.array(tensor, dtype=np.float32, order="C")
        if not np.isfinite(weight).all():
            raise ArtifactError(f"{path}: {name} holds {int((~np.isfinite(weight)).sum())} values that are not finite")
        weight.flags.writeable = False  # shared by everything that serves the model
        weights[name] = weight
    return weights


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def _digest(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in FILES:
        # The length keeps bytes from moving unseen from one file to the next.
        digest.update(f"{name} {len(contents[name])}\n".encode())
        digest.update(contents[name])
    return digest.hexdigest()


def _config_bytes(config: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(_line(f"{CONFIG} cannot be written as JSON: {error}")) from error


def _as_stored(
    weights: Mapping[str, NDArray[np.floating[Any]]], dtype: Literal["float32", "float16"]
) -> dict[str, NDArray[Any]]:
    with np.errstate(over="ignore"):  # what overflows is not finite, and refused when the file is read back
        return {name: np.ascontiguousarray(weight, dtype=dtype) for name, weight in weights.items()}


def _refuse_to_replace(target: Path) -> None:
    """Only a model may be replaced by a model: ``--out`` may have been meant for something else."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise ArtifactError(f"{target}: is a file; name a directory for the model")
    if others := sorted(entry.name for entry in target.iterdir() if entry.name not in (*FILES, _CONFIG_STAGING)):
        raise ArtifactError(
            f"{target}: holds {_listed(others).rsplit(' ', 1)[0]}, no part of a model, which would be lost; "
            "name another directory"
        )


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(staging: Path, target: Path) -> None:
    """Put a complete directory in place. A directory cannot be renamed over another, so the old one steps aside."""
    old = target.parent / f".{target.name}.replaced"
    shutil.rmtree(old, ignore_errors=True)
    replaces = target.exists()
    if replaces:
        target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        if replaces:
            old.rename(target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
