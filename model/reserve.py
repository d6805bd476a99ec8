"""Memory that is reserved whole, of which only those pages are there that were written to."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

#: Whether the operating system takes back memory page by page.
_TAKEN_BACK = hasattr(mmap, "MADV_DONTNEED") and hasattr(mmap, "MAP_ANONYMOUS")

#: It is asked to for at least so many bytes at once.
_RUN = 1 << 14


class Reserve:
    """`count` rows of `size` bytes, zeros at first, as the `view` of all their bytes.

    The operating system commits a page when it is first written to, and takes it back in `trim`.
    """

    def __init__(self, count: int, size: int) -> None:
        self._size = size
        self._mapped = mmap.mmap(-1, count * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if _TAKEN_BACK else None
        self.view = np.zeros(count * size, np.uint8).data if self._mapped is None else memoryview(self._mapped)

    def clear(self) -> None:
        """Give back all of it: zeros again."""
        if self._mapped is None:
            np.frombuffer(self.view, np.uint8)[:] = 0
        else:
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def trim(self, free: NDArray[np.int64]) -> None:
        """Give back what only these rows take, in rising order; what they hold is lost."""
        if self._mapped is None or not len(free):
            return
        ends = np.flatnonzero(np.diff(free, append=free[-1] + 2) != 1)
        first = free[np.concatenate(([0], ends[:-1] + 1))]
        begin = -(-first * self._size // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (free[ends] + 1) * self._size // mmap.PAGESIZE * mmap.PAGESIZE - begin
        worth = length >= _RUN
        for start, count in zip(begin[worth].tolist(), length[worth].tolist(), strict=True):
            self._mapped.madvise(mmap.MADV_DONTNEED, start, count)
