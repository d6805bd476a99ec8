"""DEPLOYING.md: its sums are right."""

from __future__ import annotations

import math
import re
from pathlib import Path

from app.stores.choice import COPIES
from model.shapes import state_tensors

TEXT = (Path(__file__).parents[1] / "DEPLOYING.md").read_text(encoding="utf-8")


def cells(label: str) -> list[float]:
    """The numbers of the table row that begins with `label`, its words after them left out."""
    (row,) = re.findall(rf"^\| {re.escape(label)}[^|]*\|(.*)\|$", TEXT, re.MULTILINE)
    found = []
    for cell in row.split("|"):
        if match := re.fullmatch(r"\s*([\d,.]+)( B| µs| %)?\s*", cell):
            scale = {" %": 0.01, " µs": 1e-6}.get(match[2], 1.0)
            found.append(float(match[1].replace(",", "")) * scale)
    return found


def same(label: str, expected: list[float]) -> None:
    """Within what three significant digits can say."""
    for shown, value in zip(cells(label), expected, strict=True):
        assert math.isclose(shown, value, rel_tol=0.005), (label, shown, value)


def test_the_table_follows_from_what_stands_above_it() -> None:
    sessions = cells("S ")
    assert sessions == [1e4, 1e6, 1e8]
    names = ("R:", "M:", "D:", "T:", "H:", "sessions in which", "words a minute", "load of a replica")
    R, M, D, T, H, typing, pace, load = (cells(name)[0] for name in names)
    words = [count * typing * pace / 60 for count in sessions]
    same("words a second", words)
    assert cells("C:") == [COPIES]
    assert cells("replicas of two cores") == [max(2, math.ceil(w / (load * R))) for w in words]
    (held,) = cells("C:")
    replicas = cells("replicas of two cores")
    same("memory for states, GB", [min(S, each * held) * M / 1e9 for S, each in zip(sessions, replicas, strict=True)])
    same("memory of Redis, GB", [count * D / 1e9 for count in sessions])
    same("threads of Redis", [w * T for w in words])
    assert cells("servers of Redis") == [math.ceil(w * T / load) for w in words]
    same("to Redis, MB a second", [w * D / 1e6 for w in words])
    same("replies, MB a second", [w * H / 1e6 for w in words])


def test_a_state_is_as_large_as_it_says() -> None:
    measured = {"kind": "lstm_stack", "vocabulary_size": 9, "embedding_size": 256, "hidden_sizes": [512, 256]}
    assert cells("a state") == [sum(4 * tensor.size for tensor in state_tensors(measured))]
    large = {"kind": "lstm_stack", "vocabulary_size": 9, "embedding_size": 400, "hidden_sizes": [1150, 1150, 400]}
    assert f"= {sum(4 * tensor.size for tensor in state_tensors(large)):,} B" in TEXT
