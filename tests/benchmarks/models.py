"""The models that are measured: the one that ships, and one of 33 million parameters, the size of AWD-LSTM's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.settings import SHIPPED_MODEL
from model.artifact import Artifact
from model.shapes import parameter_shapes
from model.tokenizer import END, UNKNOWN, Tokenizer

#: The shape of the model that ships, for where it is not there.
SHIPPED_SHAPE = {"kind": "lstm_stack", "vocabulary_size": 30_002, "embedding_size": 256, "hidden_sizes": [512, 256]}
#: WikiText-2's vocabulary and AWD-LSTM's layers (Merity et al. 2018).
LARGE_SHAPE = {
    "kind": "lstm_stack",
    "vocabulary_size": 33_278,
    "embedding_size": 400,
    "hidden_sizes": [1150, 1150, 400],
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A model directory, how a report names it, and how many parameters it has."""

    path: Path
    description: str
    parameters: int


def shipped(directory: Path, chosen: Path | None = None) -> Measured:
    """The model directory `chosen`, or the one that ships, or random weights of its shape, written into `directory`."""
    path = chosen or SHIPPED_MODEL
    if chosen is not None or path.exists():
        artifact = Artifact.load(path)
        return Measured(path, f"{_shape(artifact.network)}: {artifact.id}", _parameters(artifact.network))
    return _random(directory / "shipped-shape", SHIPPED_SHAPE)


def large(directory: Path) -> Measured:
    """Random weights of the large shape, written into `directory`."""
    return _random(directory / "large-shape", LARGE_SHAPE)


def common_words(artifact: Artifact, count: int) -> list[str]:
    """`count` words to send: the first ones of the vocabulary that are made of letters and digits."""
    return [word for word in artifact.tokenizer.vocabulary if word.isalnum()][:count]


def _random(path: Path, network: dict[str, Any]) -> Measured:
    draw = np.random.default_rng(1)
    weights = {}
    for name, shape in parameter_shapes(network).items():
        # As the networks are initialised: embeddings in +-0.1, layers in +-1/sqrt(H).
        bound = 0.1 if name == "embed/W" else (shape[0] / 4) ** -0.5
        weights[name] = draw.uniform(-bound, bound, shape).astype(np.float32)
    words = [UNKNOWN, END, *(f"word{number}" for number in range(network["vocabulary_size"] - 2))]
    artifact = Artifact.write(
        path,
        name=path.name,
        network=network,
        start=END,
        tokenizer=Tokenizer.from_vocabulary(words, "split"),
        weights=weights,
        card="Random weights, for benchmarks.\n",
    )
    return Measured(path, f"{_shape(artifact.network)}: random weights", _parameters(artifact.network))


def _shape(network: dict[str, Any]) -> str:
    sizes = network.get("hidden_sizes") or [network["hidden_size"]]
    return (
        f"{network['vocabulary_size']:,} words, {network['kind']} of {' + '.join(map(str, sizes))} units, "
        f"{_parameters(network) / 1e6:.1f} M parameters"
    )


def _parameters(network: dict[str, Any]) -> int:
    return sum(int(np.prod(shape)) for shape in parameter_shapes(network).values())
