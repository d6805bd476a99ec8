"""Where sequence states live: one (capacity, size) float32 array for each tensor of a state, addressed by slot.

A state in a slot is a value: it is written once, by the engine thread, and never changed while anybody points at it.
A session moves forward by pointing at another slot, so a request that fails leaves nothing to undo.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.runtimes.base import Floats, Ids, State, StateTensor

#: Whether the operating system takes back memory page by page.
_TAKEN_BACK = hasattr(mmap, "MADV_DONTNEED") and hasattr(mmap, "MAP_ANONYMOUS")

#: It is asked to for at least so many neighbouring slots at once.
_RUN = 16

#: The slot of the state that every sequence begins in. Never handed out, never freed: a session without words costs
#: no state at all.
START = 0


class StatesFullError(RuntimeError):
    """No slot is free: more sessions and requests at once than the service was configured for."""


class States:
    """`capacity` slots beside START, and room for `spare_bytes` of states more: `spare` slots.

    Slots are handed out and taken back on the event loop; rows are read and written on the engine thread, and only
    rows of slots that the loop has handed to a request. The arrays are reserved whole, but the operating system
    commits a page of memory only when a row on it is first written, low slots are used first, and `trim` gives back
    what is free.
    """

    def __init__(self, tensors: Sequence[StateTensor], capacity: int, spare_bytes: int = 0) -> None:
        self.spare = spare_bytes // sum(4 * tensor.size for tensor in tensors)
        capacity += self.spare
        self._memory = [_reserved(4 * (capacity + 1) * tensor.size) for tensor in tensors]
        self._slabs = tuple(
            np.frombuffer(memory, dtype=np.float32).reshape(capacity + 1, tensor.size)
            for memory, tensor in zip(self._memory, tensors, strict=True)
        )
        self._capacity = capacity
        self._fresh = START + 1
        # Not a list: each number in that would be an object, which keeps those allocated around it from being freed.
        self._free: array[int] = array("q")
        self._shared: dict[int, int] = {}  # how many point at a slot beside the first

    @property
    def bytes_each(self) -> int:
        """What one state takes, in bytes."""
        return sum(slab.itemsize * slab.shape[1] for slab in self._slabs)

    @property
    def width(self) -> int:
        """H, how many values a hidden output has."""
        return int(self._slabs[-1].shape[1])

    @property
    def in_use(self) -> int:
        """How many slots are handed out."""
        return self._fresh - (START + 1) - len(self._free)

    @property
    def references(self) -> int:
        """How many point at those."""
        return self.in_use + sum(self._shared.values())

    def take(self) -> int:
        """A slot nobody points at. Raises `StatesFullError`."""
        if self._free:
            return self._free.pop()
        if self._fresh > self._capacity:
            raise StatesFullError(f"all {self._capacity} state slots are in use")
        slot = self._fresh
        self._fresh += 1
        return slot

    def trim(self) -> None:
        """Give the memory of free slots back to the operating system, as far as many lie side by side."""
        free = np.sort(np.array(self._free, dtype=np.int64))
        self._free = array("q", free[::-1].tolist())
        runs = np.split(free, np.flatnonzero(np.diff(free) != 1) + 1)
        for memory, slab in zip(self._memory, self._slabs, strict=True):
            if isinstance(memory, np.ndarray):
                continue
            row = slab.itemsize * slab.shape[1]
            for run in runs:
                if len(run) >= _RUN:
                    begin = -(-int(run[0]) * row // mmap.PAGESIZE) * mmap.PAGESIZE
                    end = (int(run[-1]) + 1) * row // mmap.PAGESIZE * mmap.PAGESIZE
                    if end > begin:
                        memory.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def share(self, slot: int) -> int:
        """One more points at this slot, and will `free` it; returns the slot."""
        if slot != START:
            self._shared[slot] = self._shared.get(slot, 0) + 1
        return slot

    def free(self, slot: int) -> None:
        """One less points at this slot; the last one gives it back. START is nobody's to give back."""
        if slot == START:
            return
        others = self._shared.get(slot)
        if others is None:
            self._free.append(slot)
        elif others == 1:
            del self._shared[slot]
        else:
            self._shared[slot] = others - 1

    def pack(self, slot: int) -> bytes:
        """The state in this slot: its tensors one after the other, float32, little-endian."""
        return b"".join(slab[slot].astype("<f4", copy=False).tobytes() for slab in self._slabs)

    def unpack(self, slot: int, content: bytes) -> None:
        """Put what `pack` gave into a slot that was taken for it. Raises ValueError when the size is another one."""
        values = np.frombuffer(content, dtype="<f4")
        ends = np.cumsum([slab.shape[1] for slab in self._slabs])
        if len(values) != ends[-1]:
            raise ValueError(f"{len(content)} bytes are no state, which has {self.bytes_each}")
        for slab, part in zip(self._slabs, np.split(values, ends[:-1]), strict=True):
            slab[slot] = part

    def clear(self, slots: Sequence[int]) -> None:
        """Zero these slots, so that nothing of the sequence that was there before can be read."""
        for slab in self._slabs:
            slab[slots] = 0.0

    def read(self, slots: Sequence[int]) -> State:
        """Copies of these slots' states: (B, size) for each tensor."""
        rows: Ids = np.array(slots, dtype=np.int64)
        return tuple(slab.take(rows, axis=0) for slab in self._slabs)

    def read_hidden(self, slots: Sequence[int]) -> Floats:
        """(B, H) hidden outputs of these slots: the last tensor of their states."""
        return self._slabs[-1].take(np.array(slots, dtype=np.int64), axis=0)

    def write(self, slots: Sequence[int], state: State) -> None:
        """Put row b of `state` into slot `slots[b]`."""
        rows: Ids = np.array(slots, dtype=np.int64)
        for slab, tensor in zip(self._slabs, state, strict=True):
            slab[rows] = tensor


def _reserved(size: int) -> mmap.mmap | NDArray[np.uint8]:
    """So many bytes of zeros, no page of which is there before it is written where the system can do that."""
    if _TAKEN_BACK:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.zeros(size, dtype=np.uint8)
