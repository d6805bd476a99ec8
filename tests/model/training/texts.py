"""Small texts and recipes to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

TEXT = "the cat dog bird sat ran flew on under over a mat tree house and then it saw her him again"
WORDS = TEXT.split()


def sentences(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size=random.integers(4, 12))) + "." for _ in range(count)]


def write_text(path: Path, count: int = 60) -> Path:
    """One document of so many lines."""
    path.write_text("\n".join(sentences(count)) + "\n", encoding="utf-8")
    return path


#: AWD-LSTM at its smallest: fields of a recipe's training.
AWD: dict[str, Any] = {
    "epochs": 2.5,
    "jitter": True,
    "schedule": "one_cycle",
    "warmup": 0.0,
    "beta2": 0.99,
    "dropout": 0.0,
    "candidates": 0,
    "weight_decay": 1.2e-6,
    "validations": 2,
    "average_from": 0.6,
    "regularisation": {
        "embedding": 0.1,
        "input": 0.2,
        "hidden": 0.2,
        "output": 0.2,
        "weight": 0.3,
        "activation": 2.0,
        "temporal": 1.0,
    },
}


def table(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"'{name}' = {table(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(table, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else repr(value)


def write_recipe(
    path: Path, *, data: dict[str, Any] | None = None, network: dict[str, Any] | None = None, **training: Any
) -> Path:
    """A recipe for texts of `write_text` that exercises all there is: dropout, candidates, some epochs."""
    tables = {
        "data": data or {"policy": "english", "documents": {"text.txt": 1.0}},
        "network": network or {"kind": "lstm_stack", "embedding_size": 8, "hidden_sizes": [12, 8]},
        "training": {
            "epochs": 2.5,
            "batch_size": 4,
            "window": 12,
            "learning_rate": 0.01,
            "warmup": 0.1,
            "gradient_clipping": 0.5,
            "dropout": 0.3 if network is None else 0.0,
            "candidates": 8,
            "full_softmax_from": 0.6,
            "validations": 2,
        }
        | training,
    }
    lines = ["description = 'For tests.'"]
    for name, fields in tables.items():
        lines += [f"[{name}]", *(f"{field} = {table(value)}" for field, value in fields.items())]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
