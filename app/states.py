"""Who points at which sequence state. The states themselves lie by slot in a slab, where the runtime wants them.

A state in a slot is a value: it is written once, by the engine thread, and never changed while anybody points at it.
A session moves forward by pointing at another slot, so a request that fails leaves nothing to undo.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.slots import Slots
from model.runtimes.base import Floats, Ids, Runtime, State
from model.runtimes.slab import slab_of

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

    def __init__(self, runtime: Runtime, capacity: int, spare_bytes: int = 0) -> None:
        self._tensors = runtime.state_tensors
        self.spare = spare_bytes // self.bytes_each
        capacity += self.spare
        self.slab = slab_of(runtime, capacity + 1)
        self._capacity = capacity
        self._slots = Slots(capacity)
        self._shared: dict[int, int] = {}  # how many point at a slot beside the first

    @property
    def bytes_each(self) -> int:
        """What one state takes, in bytes."""
        return sum(4 * tensor.size for tensor in self._tensors)

    @property
    def width(self) -> int:
        """H, how many values a hidden output has."""
        return self._tensors[-1].size

    @property
    def in_use(self) -> int:
        """How many slots are handed out."""
        return len(self._slots)

    @property
    def references(self) -> int:
        """How many point at those."""
        return self.in_use + sum(self._shared.values())

    def take(self) -> int:
        """A slot nobody points at. Raises `StatesFullError`."""
        slot = self._slots.take()
        if not slot:
            raise StatesFullError(f"all {self._capacity} state slots are in use")
        return slot

    def trim(self) -> None:
        """Give the memory of free slots back to the operating system, as far as many lie side by side."""
        self.slab.trim(self._slots.trim())

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
            self._slots.free(slot)
        elif others == 1:
            del self._shared[slot]
        else:
            self._shared[slot] = others - 1

    def pack(self, slot: int) -> bytes:
        """The state in this slot: its tensors one after the other, float32, little-endian."""
        return b"".join(tensor.astype("<f4", copy=False).tobytes() for tensor in self.slab.read([slot]))

    def unpack(self, slot: int, content: bytes) -> None:
        """Put what `pack` gave into a slot that was taken for it. Raises ValueError when the size is another one."""
        if len(content) != self.bytes_each:
            raise ValueError(f"{len(content)} bytes are no state, which has {self.bytes_each}")
        values = np.frombuffer(content, dtype="<f4")
        ends = np.cumsum([tensor.size for tensor in self._tensors])
        self.slab.write([slot], tuple(part[None] for part in np.split(values, ends[:-1])))

    def clear(self, slots: Sequence[int] | Ids) -> None:
        """Zero these slots, so that nothing of the sequence that was there before can be read."""
        self.slab.clear(slots)

    def read(self, slots: Sequence[int] | Ids) -> State:
        """Copies of these slots' states: (B, size) for each tensor."""
        return self.slab.read(slots)

    def read_hidden(self, slots: Sequence[int] | Ids) -> Floats:
        """(B, H) hidden outputs of these slots: the last tensor of their states."""
        return self.slab.hidden(slots)

    def write(self, slots: Sequence[int], state: State) -> None:
        """Put row b of `state` into slot `slots[b]`."""
        self.slab.write(slots, state)
