"""Records by name, in the order in which they were used, outside of the interpreter's memory: see `app.stores.cells`.

Rows are numbers; in columns stands what is asked of many at once, or on the way to another row. Row 0 is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from app.slots import Slots
from app.stores.cells import Cells
from model.reserve import Reserve


class Table:
    """At most `capacity` records. The name of one is found in it at `name_at`; no name begins with another one."""

    def __init__(self, capacity: int, *, name_at: int) -> None:
        self._name_at = name_at
        self._capacity = capacity
        self._rows = Slots(capacity)
        self._cells = Cells(capacity)
        self._columns: list[Reserve] = []
        self._hashes = self._column(8).cast("q")  # of the name
        self._numbers = self._column(8).cast("q")  # of the record among the cells; 0: there is none
        self._until = self._column(8).cast("d")
        self._next = self._column(4).cast("i")  # in the chain of those whose hashes end alike; 0: the last
        # A ring in the order of use, which begins and ends at row 0.
        self._older = self._column(4).cast("i")
        self._newer = self._column(4).cast("i")
        chains = 1 << capacity.bit_length()
        self._mask = chains - 1
        self._heads = Reserve(chains, 4)
        self._first = self._heads.view.cast("i")  # of each chain

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        """All rows, the one not used for longest first. No other may be added, used or removed meanwhile."""
        row = self._newer[0]
        while row:
            yield row
            row = self._newer[row]

    def find(self, name: bytes) -> tuple[int, bytes]:
        """The row of the record with this name, and the record; row 0 if there is none."""
        hashed = hash(name)
        row = self._first[hashed & self._mask]
        while row:
            if self._hashes[row] == hashed:
                record = self._cells.get(self._numbers[row])
                if record.startswith(name, self._name_at):
                    return row, record
            row = self._next[row]
        return 0, b""

    def record(self, row: int) -> bytes:
        """The record in this row."""
        return self._cells.get(self._numbers[row])

    def add(self, name: bytes, record: bytes, until: float) -> int:
        """Put a record, whose name is not there, into a row of its own, the one used last. There has to be room."""
        row = self._rows.take()
        self._numbers[row] = self._cells.put(record)
        self._until[row] = until
        self._hashes[row] = hashed = hash(name)
        chain = hashed & self._mask
        self._next[row] = self._first[chain]
        self._first[chain] = row
        self._append(row)
        return row

    def use(self, row: int, record: bytes, until: float) -> None:
        """Put a record in the place of the one with the same name, and make it the one used last."""
        self._numbers[row] = self._cells.put(record, self._numbers[row])
        self._until[row] = until
        if self._newer[row]:
            self._take_out(row)
            self._append(row)

    def remove(self, row: int) -> None:
        """Forget the record in this row."""
        after, chain = self._next, self._hashes[row] & self._mask
        before = self._first[chain]
        if before == row:
            self._first[chain] = after[row]
        else:
            while after[before] != row:
                before = after[before]
            after[before] = after[row]
        self._take_out(row)
        self._cells.free(self._numbers[row])
        self._numbers[row] = 0
        self._rows.free(row)

    def over(self, now: float) -> NDArray[np.int64]:
        """The rows whose time is up to `now`."""
        end = self._rows.end
        numbers, until = np.asarray(self._numbers)[:end], np.asarray(self._until)[:end]
        return np.flatnonzero((until <= now) & (numbers != 0))

    def is_over(self, row: int, now: float) -> bool:
        """Whether there is a record in this row whose time is up to `now`."""
        return self._numbers[row] != 0 and self._until[row] <= now

    def trim(self) -> None:
        """Give back the memory of what is free."""
        free = self._rows.trim()
        for column in self._columns:
            column.trim(free)
        self._cells.trim()
        if not len(self):
            self._heads.clear()

    def _column(self, size: int) -> memoryview:
        """The bytes of one, `size` of them a row."""
        reserve = Reserve(self._capacity + 1, size)
        self._columns.append(reserve)
        return reserve.view

    def _append(self, row: int) -> None:
        last = self._older[0]
        self._newer[last] = row
        self._older[row] = last
        self._newer[row] = 0
        self._older[0] = row

    def _take_out(self, row: int) -> None:
        older, newer = self._older[row], self._newer[row]
        self._newer[older] = newer
        self._older[newer] = older
