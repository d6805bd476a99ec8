"""What nextword is measured against: the same weights in other frameworks and servers.

Each runs in a process of its own, so none needs to be installed for the others to be measured.
"""

from __future__ import annotations

from typing import Any, Protocol

from model.runtimes.base import Floats, Ids


class Network(Protocol):
    """A network in another framework. A state is a list of arrays (or tensors), a row a sequence."""

    def zero_state(self, batch: int) -> list[Any]: ...

    def step(self, ids: Ids, state: list[Any], k: int) -> tuple[list[Any], Ids, Floats]:
        """ids (B,) -> the state after them, ids (B, k) of the likeliest words and their log-probabilities (B, k)."""
