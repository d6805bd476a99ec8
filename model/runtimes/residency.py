"""Which states of many are on a device that holds few: bookkeeping only, for somebody else to copy what it says."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.runtimes.base import Ids

#: Where a slot's state is, if not in a row of the device. Of a slot that is `ZERO` it is the zero state.
ZERO, HOST = -1, -2

_NOTHING = np.empty(0, np.int64)


class Placement(NamedTuple):
    """The rows for a batch, once what is spilled has been copied to the host, and then what is loaded from it."""

    sources: Ids  # (B,) rows to read from, `ZERO` for the zero state
    rows: Ids  # (B,) rows to write to
    spilled_slots: Ids = _NOTHING
    spilled_rows: Ids = _NOTHING
    loaded_slots: Ids = _NOTHING
    loaded_rows: Ids = _NOTHING


class Residency:
    """`rows` rows for the states of `slots` slots. Those used least recently make room; all are `ZERO` at first."""

    def __init__(self, slots: int, rows: int) -> None:
        self._row_of = np.full(slots, ZERO, np.int32)
        self._slot_of = np.full(rows, -1, np.int64)
        self._used = np.zeros(rows, np.int64)
        self._free: list[int] = list(range(rows))[::-1]
        self._clock = 0

    @property
    def rows(self) -> int:
        return len(self._slot_of)

    @property
    def resident(self) -> int:
        """How many rows are taken."""
        return self.rows - len(self._free)

    def place(self, sources: Ids, slots: Ids) -> Placement:
        """Rows for the states of `sources`, which are read, and of `slots`, which are written, each one once.

        Raises ValueError where both together are more than there are rows.
        """
        self._clock += 1
        before, there = self._row_of[sources], self._row_of[slots]
        # Most batches need nothing moved, and what finds out what to move takes longer than all the rest.
        lowest, lowest_there = np.minimum.reduce(before, initial=0), np.minimum.reduce(there, initial=0)
        if lowest == lowest_there == 0:
            self._used[before] = self._used[there] = self._clock
            return Placement(before.astype(np.int64), there.astype(np.int64))
        absent, new, spilled, spilled_slots, loaded = [_NOTHING] * 5
        if lowest == HOST:
            absent = np.unique(sources[before == HOST])
        if lowest_there < 0:
            new = slots[there < 0]
            if len(absent):
                new = np.setdiff1d(new, absent)
        for wanted in (before, there):
            self._used[wanted[wanted >= 0]] = self._clock
        if len(absent) or len(new):
            spilled = self._make_room(len(absent) + len(new))
            if len(spilled):
                spilled_slots = self._slot_of[spilled]
                self._row_of[spilled_slots] = HOST
                self._slot_of[spilled] = -1
                self._free.extend(spilled.tolist())
            loaded = self._settle(absent)
            self._settle(new)
            # A slot that was the zero state has a row now if it is written, too; it is still read as the zero state.
            after = self._row_of[sources]
            after[before == ZERO] = ZERO
            before, there = after, self._row_of[slots]
        return Placement(before.astype(np.int64), there.astype(np.int64), spilled_slots, spilled, absent, loaded)

    def find(self, slots: Ids) -> Ids:
        """The rows of these slots, `ZERO` or `HOST`, as they are."""
        return self._row_of[slots].astype(np.int64)

    def forget(self, slots: Ids, place: int = ZERO) -> None:
        """These slots' states are now at `place`, and whatever rows they had are free."""
        rows = self._row_of[slots]
        rows = np.unique(rows[rows >= 0])
        self._slot_of[rows] = -1
        self._free.extend(rows.tolist())
        self._row_of[slots] = place

    def _make_room(self, needed: int) -> Ids:
        """Rows to be freed so that so many are free: a few more than that, or the next batch would need some again."""
        missing = needed - len(self._free)
        if missing <= 0:
            return _NOTHING
        idle = np.flatnonzero((self._slot_of >= 0) & (self._used < self._clock))
        if len(idle) < missing:
            raise ValueError(f"{needed} more states at once do not fit into {self.rows} rows")
        count = min(len(idle), max(missing, self.rows // 32))
        if count == len(idle):
            return idle
        oldest: Ids = idle[np.argpartition(self._used[idle], count - 1)[:count]]
        return oldest

    def _settle(self, slots: Ids) -> Ids:
        """Give each of these a free row."""
        if len(slots) == 0:
            return _NOTHING
        rows = np.array(self._free[-len(slots) :][::-1], dtype=np.int64)
        del self._free[-len(slots) :]
        self._row_of[slots] = rows
        self._slot_of[rows] = slots
        self._used[rows] = self._clock
        return rows
