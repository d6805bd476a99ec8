"""Where the states of many sequences lie, by slot: beside the model that moves them on.

A slot holds one state. The service numbers the slots and knows who points at which; a slab only reads and writes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from model.reserve import Reserve
from model.runtimes.base import (
    Floats,
    Ids,
    Projection,
    Projects,
    Runtime,
    State,
    StateTensor,
    SubsetProjection,
    WordsProjection,
)


@runtime_checkable
class KeepsOutputs(Protocol):
    """Keeps hidden outputs under numbers."""

    def hidden(self, numbers: Sequence[int] | Ids, /) -> Floats:
        """(R, H) copies of them, in the host's memory."""


class Aside(Projects[Ids], KeepsOutputs, Protocol):
    """Hidden outputs that were put aside before their states moved on, by place."""

    def put(self, slots: Ids, first: int) -> None:
        """Keep those that are in these slots now, in the places from `first` on."""


class Slab(Projects[Ids], KeepsOutputs, Protocol):
    """States by slot; slots are (B,) int64. Every state is zeros at first. What it projects are the hidden outputs of
    slots, the last tensor of their states."""

    def warm_up(self, batch: int, *, top_k: int) -> None:
        """Do what makes the first call of each size up to `batch` slower than the others; no state changes."""

    def advance(self, ids: Ids, sources: Ids, slots: Ids) -> None:
        """Consume one word a sequence, from the state in its source into its slot.

        A sequence may end in the slot it began in; otherwise a slot is written once and is nobody's source.
        """

    def aside(self, places: int) -> Aside:
        """Room for so many hidden outputs."""

    def read(self, slots: Sequence[int] | Ids) -> State:
        """Copies of these slots' states."""

    def write(self, slots: Sequence[int] | Ids, state: State) -> None:
        """Put row b of `state` into slot `slots[b]`."""

    def clear(self, slots: Sequence[int] | Ids) -> None:
        """Make these the zero state, so that nothing of what was there before can be read."""

    def trim(self, free: Ids) -> None:
        """Give back memory that only these slots take, in rising order; their states are lost."""


@runtime_checkable
class HoldsStates(Protocol):
    """A runtime that keeps states where it computes."""

    def slab(self, slots: int) -> Slab: ...


def slab_of(runtime: Runtime, slots: int) -> Slab:
    """The runtime's own, or one in the host's memory."""
    return runtime.slab(slots) if isinstance(runtime, HoldsStates) else HostSlab(runtime, slots)


class HostRows:
    """States in the host's memory: one (slots, size) array a tensor."""

    def __init__(self, tensors: Sequence[StateTensor], slots: int) -> None:
        self._reserves = [Reserve(slots, 4 * tensor.size) for tensor in tensors]
        self.arrays = tuple(
            np.frombuffer(reserve.view, dtype=np.float32).reshape(slots, tensor.size)
            for reserve, tensor in zip(self._reserves, tensors, strict=True)
        )

    def read(self, slots: Sequence[int] | Ids) -> State:
        rows: Ids = np.asarray(slots, dtype=np.int64)
        return tuple(array.take(rows, axis=0) for array in self.arrays)

    def hidden(self, slots: Sequence[int] | Ids, /) -> Floats:
        return self.arrays[-1].take(np.asarray(slots, dtype=np.int64), axis=0)

    def write(self, slots: Sequence[int] | Ids, state: State) -> None:
        rows: Ids = np.asarray(slots, dtype=np.int64)
        for array, tensor in zip(self.arrays, state, strict=True):
            array[rows] = tensor

    def clear(self, slots: Sequence[int] | Ids) -> None:
        for array in self.arrays:
            array[slots] = 0.0

    def trim(self, free: Ids) -> None:
        for reserve in self._reserves:
            reserve.trim(free)


class _HostOutputs(ABC):
    """Hidden outputs in the host's memory, which the runtime is handed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.vocabulary_size, self.threads = runtime.vocabulary_size, runtime.threads

    @abstractmethod
    def hidden(self, numbers: Sequence[int] | Ids, /) -> Floats: ...

    def project(self, numbers: Ids, /, *, top_k: int, targets: Ids | None = None) -> Projection:
        return self._runtime.project(self.hidden(numbers), top_k=top_k, targets=targets)

    def project_subset(self, numbers: Ids, ids: Ids, /, *, top_k: int) -> SubsetProjection:
        return self._runtime.project_subset(self.hidden(numbers), ids, top_k=top_k)

    def project_words(self, numbers: Ids, words: Ids, /, *, top_k: int) -> WordsProjection:
        return self._runtime.project_words(self.hidden(numbers), words, top_k=top_k)

    def log_probabilities(self, numbers: Ids, /) -> Floats:
        return self._runtime.log_probabilities(self.hidden(numbers))


class HostSlab(HostRows, _HostOutputs):
    """A `Slab` for a runtime that takes and gives arrays."""

    def __init__(self, runtime: Runtime, slots: int) -> None:
        HostRows.__init__(self, runtime.state_tensors, slots)
        _HostOutputs.__init__(self, runtime)

    def warm_up(self, batch: int, *, top_k: int) -> None:
        """The runtime's own calls are all there is."""

    def advance(self, ids: Ids, sources: Ids, slots: Ids) -> None:
        self.write(slots, self._runtime.advance(ids, self.read(sources)))

    def aside(self, places: int) -> Aside:
        return _HostAside(self._runtime, self, places)


class _HostAside(_HostOutputs):
    """`Aside`."""

    def __init__(self, runtime: Runtime, slab: HostSlab, places: int) -> None:
        super().__init__(runtime)
        self._slab = slab
        self._outputs = np.zeros((places, runtime.state_tensors[-1].size), np.float32)

    def put(self, slots: Ids, first: int) -> None:
        self._outputs[first : first + len(slots)] = self._slab.hidden(slots)

    def hidden(self, numbers: Sequence[int] | Ids, /) -> Floats:
        return self._outputs.take(np.asarray(numbers, dtype=np.int64), axis=0)
