"""Bytes by number, outside of the interpreter's memory.

Small objects of Python lie in arenas of 1 MiB, and one of those is given back only when nothing in it lives. Something
always does when a million sessions have come and gone: a text that is remembered, a connection, a name in a cache of
the interpreter. So nothing that a session has for as long as it lives is such an object.
"""

from __future__ import annotations

import struct

from app.slots import Slots
from model.reserve import Reserve

#: Bytes of a cell, one kind each. What fits into none is an object, which is then too large for an arena: the C library
#: gives back the pages that it was on.
SIZES = (128, 256, 512)

_KINDS = len(SIZES) + 1
_LENGTH = struct.Struct("<H")


class Cells:
    """Room for `capacity` contents."""

    def __init__(self, capacity: int) -> None:
        self._reserves = [Reserve(capacity + 1, size) for size in SIZES]
        self._views = [reserve.view for reserve in self._reserves]
        self._slots = [Slots(capacity) for _ in range(_KINDS)]
        self._large: list[bytes | None] = [None]

    def put(self, content: bytes, number: int = 0) -> int:
        """Keep this, in place of what is kept as `number`, if that is not 0; the number that it has now."""
        needed = _LENGTH.size + len(content)
        kind = 0 if needed <= SIZES[0] else 1 if needed <= SIZES[1] else 2 if needed <= SIZES[2] else 3
        if not number or number % _KINDS != kind:
            if number:
                self.free(number)
            slot = self._slots[kind].take()
            if not slot:
                raise IndexError("there is no room for another content")
            number = _KINDS * slot + kind
        slot = number // _KINDS
        if kind == len(SIZES):
            while len(self._large) <= slot:
                self._large.append(None)
            self._large[slot] = content
        else:
            at = SIZES[kind] * slot
            self._views[kind][at : at + needed] = _LENGTH.pack(len(content)) + content
        return number

    def get(self, number: int) -> bytes:
        """What is kept as this."""
        slot, kind = divmod(number, _KINDS)
        if kind == len(SIZES):
            content = self._large[slot]
            if content is None:
                raise IndexError(f"nothing is kept as {number}")
            return content
        view, at = self._views[kind], SIZES[kind] * slot
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        return view[at : at + length].tobytes()

    def free(self, number: int) -> None:
        """Keep it no longer."""
        slot, kind = divmod(number, _KINDS)
        self._slots[kind].free(slot)
        if kind == len(SIZES):
            self._large[slot] = None

    def trim(self) -> None:
        """Give back the memory of what is free."""
        for reserve, slots in zip(self._reserves, self._slots, strict=False):
            reserve.trim(slots.trim())
        self._slots[-1].trim()
        del self._large[self._slots[-1].end :]
