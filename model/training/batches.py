"""Windows of a long text, in parallel streams: the batches of truncated back-propagation through time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compat import chainer
from model.training.jitter import window_ends
from model.training.processes import Processes

Window = tuple[NDArray[np.int32], NDArray[np.int32]]


class ParallelSequentialIterator(chainer.dataset.Iterator):
    """Cuts `ids` (N,) into `batch_size` streams of equal length and walks through all of them at once.

    Each call of `next` gives words and the words that follow them, both (T, B) int32 with T = `window` (less at a
    stream's end), and the next call goes on where it stopped, so a hidden state carried over is the right one. At the
    end of an epoch every stream starts again: `is_new_epoch` says so, and the state must then be reset.
    Every word is consumed once an epoch, but the last word, which is only a target, and before it the (N - 1) modulo
    `batch_size` words that do not make the streams longer. All that is given out are views of one int32 array, however
    large: nothing is copied.

    With several `processes` each walks through its own share of the streams. With `jitter`, a seed, the windows vary in
    length around `window`, in another way each epoch.
    """

    def __init__(
        self,
        ids: NDArray[np.integer[Any]],
        batch_size: int,
        window: int,
        *,
        repeat: bool = True,
        jitter: int | None = None,
        processes: Processes | None = None,
    ) -> None:
        """Raises ValueError when the text is too short to give each stream two words, and when the streams cannot be
        divided among the processes.
        """
        length = (len(ids) - 1) // batch_size  # words a stream consumes; one more word is its last target
        if length < 1:
            raise ValueError(
                f"{len(ids)} words are too few for {batch_size} streams of at least two words: "
                f"use a smaller batch_size or more text"
            )
        stream: NDArray[np.int32] = np.ascontiguousarray(ids, dtype=np.int32)
        own = (processes or Processes()).own
        self._words: NDArray[np.int32] = own(stream[: batch_size * length].reshape(batch_size, length))
        self._targets: NDArray[np.int32] = own(stream[1 : batch_size * length + 1].reshape(batch_size, length))
        self._window = window
        self._repeat = repeat
        self._jitter = jitter
        self._length = length
        self._known: tuple[int, NDArray[np.int64]] = -1, np.empty(0, np.int64)
        self._position = 0
        self._streams = batch_size
        self.batch_size = len(self._words)  # the B of this process
        self.epoch = 0
        self.is_new_epoch = False

    def __next__(self) -> Window:
        if not self._repeat and self.epoch > 0:
            raise StopIteration
        part = slice(self._position, self._position + self.next_length)
        self._position = part.stop
        self.is_new_epoch = self._position == self._length
        if self.is_new_epoch:
            self._position = 0
            self.epoch += 1
        return self._words[:, part].T, self._targets[:, part].T

    @property
    def epoch_detail(self) -> float:
        """Epochs done, with the fraction of the current one."""
        return self.epoch + self._position / self._length

    @property
    def words_an_epoch(self) -> int:
        """Words consumed in one epoch, all streams together."""
        return self._length * self._streams

    @property
    def next_length(self) -> int:
        """T of the next window."""
        if self._jitter is None:
            return min(self._window, self._length - self._position)
        ends = self._ends(self._jitter, self.epoch)
        return int(ends[np.searchsorted(ends, self._position, side="right")]) - self._position

    def windows_in(self, epochs: float) -> int:
        """Calls of `next` in so many epochs from the start, at least one."""
        if self._jitter is None:
            return max(1, round(epochs * -(-self._length // self._window)))
        whole, part = divmod(epochs, 1)
        windows = [len(self._ends(self._jitter, epoch)) for epoch in range(int(whole) + 1)]
        return max(1, sum(windows[:-1]) + round(part * windows[-1]))

    def _ends(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Where the windows of an epoch end; those of the last one asked for are kept."""
        if self._known[0] != epoch:
            self._known = epoch, window_ends(self._length, self._window, seed, epoch)
        return self._known[1]

    def serialize(self, serializer: Any) -> None:
        self._position = serializer("position", self._position)
        self.epoch = serializer("epoch", self.epoch)
        self.is_new_epoch = serializer("is_new_epoch", self.is_new_epoch)
