"""States on a CUDA device by slot; those that do not fit wait in the host's memory.

The words that a batch consumes are not launched by themselves but with what is asked next, nearly always what may come
after them: a step of the service is one launch. They are on their way before anything else is done.

What was launched in vain is not launched again, for it may have run in part: the states are lost then, and whoever asks
for one is told so, until it is written or cleared. Only where there was no memory for the launch nothing has run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from model.cuda.device import Array
from model.cuda.network import NO_MOVES, Moves, Source
from model.runtimes.base import DeviceMemoryError, Floats, Ids, State, StateLostError
from model.runtimes.cuda_outputs import CudaAside, CudaOutputs
from model.runtimes.residency import HOST, ZERO, Placement, Residency
from model.runtimes.slab import HostRows

if TYPE_CHECKING:
    from model.runtimes.cuda import CudaRuntime

T = TypeVar("T")

#: Of the memory that is free on the device, the part that states may take. What is left is for the few things that
#: are allocated later: recordings, and distributions that are fetched whole.
SHARE = 0.7


class CudaSlab(CudaOutputs):
    """`model.runtimes.slab.Slab`: rows on the device for the states used last, and the host's memory for all.

    Everything is under the runtime's lock: a service reads states from other threads than the one that computes.
    """

    def __init__(self, runtime: CudaRuntime, slots: int, key: str, rows: int | None = None) -> None:
        """key: no other slab of this runtime has it. rows: at most so many on the device, fewer if it is full."""
        self._host = HostRows(runtime.state_tensors, slots)
        stride = runtime.network.stride
        fitting = int(runtime.on.free_memory() * SHARE) // (4 * stride)
        rows = max(2, min(slots, fitting, rows or slots))
        while True:
            try:
                # One more, for what fills a batch up.
                self._states = runtime.on.xp.zeros((rows + 1, stride), np.float32)
                break
            except runtime.on.memory_errors:
                if rows <= 2:
                    raise
                rows = max(2, rows // 2)
        self.residency = Residency(slots, rows)
        super().__init__(runtime, Source(key, self._states, stride, runtime.network.columns[-1]))
        self._asides = itertools.count()
        self._waiting: tuple[Moves, Ids] | None = None  # those of the last batch, and its slots, if not launched yet
        self._lost: set[int] = set()  # slots
        # Of one launch: as many sources and as many slots have to be there together.
        self._most = min(runtime.most, rows // 2)

    def warm_up(self, batch: int, *, top_k: int) -> None:
        """Record each size of batch, with as many who are asked about and with none."""

        def work() -> None:
            n = 1
            while True:
                nobody = np.full(n, ZERO, np.int64)
                aside = np.full(n, len(self._states) - 1, np.int64)
                moves = Moves(np.zeros(n, np.int64), nobody, aside)
                self._runtime.advance_rows(self._source, moves)
                self._runtime.project_rows(self._source, nobody, top_k, None, moves)
                if n >= min(batch, self._most):
                    break
                n = min(2 * n, self._runtime.most)

        self._settled(work)

    def advance(self, ids: Ids, sources: Ids, slots: Ids) -> None:
        for piece in self._pieces(len(ids)) if len(ids) else ():

            def work(piece: slice = piece) -> None:
                placed = self._place(sources[piece], slots[piece])
                self._found(slots[piece])
                self._waiting = Moves(ids[piece], placed.sources, placed.rows), slots[piece]

            self._settled(work)

    def _ask(self, numbers: Ids, moving: bool, ask: Callable[[slice, Ids, Moves], T]) -> list[T]:
        def work() -> list[T]:
            if not moving:
                self._settle()
            answers = []
            for piece in self._pieces(len(numbers)):
                rows = self._place(numbers[piece]).sources
                answers.append(self._launch(partial(ask, piece, rows)))
            return answers

        return self._compute(work)

    def aside(self, places: int) -> CudaAside:
        key = f"{self._source.key}, aside {next(self._asides)}"
        return self._runtime.compute(lambda: CudaAside(self._runtime, self, key, places))

    def copy_hidden(self, slots: Ids, out: Array) -> None:
        """The hidden outputs of these slots (B,), as they are now, into rows of the device (B, H)."""

        def work() -> None:
            for piece in self._pieces(len(slots)) if len(slots) else ():
                rows = self._place(slots[piece]).sources
                self._runtime.copies.copy_hidden(self._source, rows, out[piece])

        self._settled(work)

    def hidden(self, slots: Sequence[int] | Ids, /) -> Floats:
        def work() -> Floats:
            wanted = np.asarray(slots, np.int64)
            self._check(wanted)
            rows = self.residency.find(wanted)
            values = self._host.hidden(wanted)
            there = rows != HOST
            values[there] = self._runtime.copies.read_hidden(self._source, rows[there])
            return values

        return self._settled(work)

    def read(self, slots: Sequence[int] | Ids) -> State:
        def work() -> State:
            wanted = np.asarray(slots, np.int64)
            self._check(wanted)
            rows = self.residency.find(wanted)
            state = self._host.read(wanted)
            there = rows != HOST
            for values, found in zip(state, self._runtime.copies.read_rows(self._source, rows[there]), strict=True):
                values[there] = found
            return state

        return self._settled(work)

    def write(self, slots: Sequence[int] | Ids, state: State) -> None:
        def work() -> None:
            self._host.write(slots, state)
            self._forget(np.asarray(slots, np.int64), HOST)

        self._settled(work)

    def clear(self, slots: Sequence[int] | Ids) -> None:
        self._settled(lambda: self._forget(np.asarray(slots, np.int64)))

    def trim(self, free: Ids) -> None:
        def work() -> None:
            self._forget(free)
            self._host.trim(free)

        self._settled(work)

    def _settled(self, work: Callable[[], T]) -> T:
        """`work`, once the words before it are on their way."""

        def settled() -> T:
            self._settle()
            return work()

        return self._compute(settled)

    def _compute(self, work: Callable[[], T]) -> T:
        try:
            return self._runtime.compute(work)
        except DeviceMemoryError:
            self._lose()
            raise

    def _settle(self) -> None:
        if self._waiting is not None:
            self._launch(partial(self._runtime.advance_rows, self._source))

    def _launch(self, launch: Callable[[Moves], T]) -> T:
        """`launch`, with the words that wait."""
        try:
            answer = launch(NO_MOVES if self._waiting is None else self._waiting[0])
        except self._runtime.on.memory_errors:
            raise  # and nothing has run: tried once more where there is memory
        except Exception:
            self._lose()
            raise
        self._waiting = None
        return answer

    def _lose(self) -> None:
        """The states after the words that wait are not to be had."""
        if self._waiting is not None:
            self._lost.update(self._waiting[1].tolist())
            self._waiting = None

    def _check(self, slots: Ids) -> None:
        if self._lost and not self._lost.isdisjoint(slots.tolist()):
            raise StateLostError("the device failed while it computed this state")

    def _found(self, slots: Ids) -> None:
        if self._lost:
            self._lost.difference_update(slots.tolist())

    def _forget(self, slots: Ids, place: int = ZERO) -> None:
        """These slots' states are at `place` from now on."""
        self._found(slots)
        self.residency.forget(slots, place)

    def _place(self, sources: Ids, slots: Ids | None = None) -> Placement:
        self._check(sources)
        placed = self.residency.place(sources, np.empty(0, np.int64) if slots is None else slots)
        if len(placed.spilled_slots):
            self._settle()
            self._host.write(placed.spilled_slots, self._runtime.copies.read_rows(self._source, placed.spilled_rows))
        if len(placed.loaded_slots):
            self._settle()
            values = self._host.read(placed.loaded_slots)
            self._runtime.copies.write_rows(self._source, placed.loaded_rows, values)
        return placed

    def _pieces(self, count: int) -> Iterator[slice]:
        return (slice(first, first + self._most) for first in range(0, max(count, 1), self._most))
