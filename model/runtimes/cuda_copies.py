"""What goes to a CUDA device and what comes back, through host memory that is pinned once and used again and again.

Whoever writes into such memory waits first until what was sent from it before has arrived.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.cuda.device import Array, Device
from model.cuda.network import CudaNetwork, Source
from model.runtimes.base import Floats, Ids, State, StateTensor

#: States that come from or go to the host at once.
STAGED = 256


class CudaCopies:
    """Rows of states and of hidden outputs, and integers: up to five for each of `most` sequences."""

    def __init__(self, device: Device, network: CudaNetwork, tensors: tuple[StateTensor, ...], most: int) -> None:
        self._device, self._network, self._tensors = device, network, tensors
        self.staged = min(STAGED, most)
        xp, stride, H = device.xp, network.stride, network.hidden_size
        # One row more than sequences: what fills a batch up is written there.
        states = xp.zeros((self.staged + 1, stride), np.float32)
        self.staging = Source("staging", states, stride, network.columns[-1])
        self.hidden = Source("hidden", xp.zeros((self.staged, H), np.float32), H, 0)
        self._pinned_states = device.pinned(4 * self.staged * stride).view(np.float32)
        self._states_sent: Callable[[], None] = lambda: None
        self._inputs = xp.zeros(5 * most, np.int32)
        self._input_views: dict[tuple[int, ...], tuple[Array, list[Array]]] = {}
        self._pinned_inputs = device.pinned(4 * 5 * most).view(np.int32)
        self._inputs_sent: Callable[[], None] = lambda: None

    def read_rows(self, source: Source, rows: Ids) -> State:
        """Copies of whole states."""
        stride = self._network.stride
        values = self._fetch(source, rows, 0, stride)
        columns = zip(self._network.columns, self._tensors, strict=True)
        return tuple(np.ascontiguousarray(values[:, first : first + tensor.size]) for first, tensor in columns)

    def read_hidden(self, source: Source, rows: Ids) -> Floats:
        return self._fetch(source, rows, source.column, self._network.hidden_size)

    def copy_hidden(self, source: Source, rows: Ids, out: Array) -> None:
        """The hidden outputs of these rows, at most `most`, into an array on the device (R, H)."""
        (place,) = self._send((len(rows), rows, -1))
        self._network.read_rows(len(rows), out, source, source.column, self._network.hidden_size, place)

    def _fetch(self, source: Source, rows: Ids, column: int, size: int) -> Floats:
        values = np.empty((len(rows), size), np.float32)
        flat = self.staging.array.reshape(-1)
        for first in range(0, len(rows), self.staged):
            n = len(rows[first : first + self.staged])
            out = flat[: n * size]
            if source is not self.staging:  # rows 0, 1, ... of which are there already
                (place,) = self._send((n, rows[first : first + n], -1))
                self._network.read_rows(n, out, source, column, size, place)
            self._states_sent()
            fetched = self._pinned_states[: n * size]
            self._device.copy_out(fetched, out)
            self._device.mark()()
            values[first : first + n] = fetched.reshape(n, size)
        return values

    def write_rows(self, source: Source, rows: Ids, state: State) -> None:
        """Whole states into these rows."""
        stride = self._network.stride
        for first in range(0, len(rows), self.staged):
            n = len(rows[first : first + self.staged])
            self._states_sent()
            values = self._pinned_states[: n * stride]
            table = values.reshape(n, stride)
            table[:] = 0
            for column, tensor in zip(self._network.columns, state, strict=True):
                table[:, column : column + tensor.shape[1]] = tensor[first : first + n]
            self._device.copy_in(self.staging.array[:n], values)
            self._states_sent = self._device.mark()
            if source is not self.staging:
                (place,) = self._send((n, rows[first : first + n], -1))
                self._network.write_rows(n, source.array, self.staging.array, place)

    def write_hidden(self, hidden: Floats) -> Ids:
        """Put these, `staged` at most, into `hidden`; returns their rows."""
        if len(hidden) == 0:
            return np.empty(0, np.int64)
        self._states_sent()
        values = self._pinned_states[: hidden.size]
        values.reshape(hidden.shape)[:] = hidden
        self._device.copy_in(self.hidden.array[: len(hidden)], values)
        self._states_sent = self._device.mark()
        return np.arange(len(hidden))

    def prepare(self, *columns: tuple[int, Ids, int]) -> tuple[NDArray[np.int32], Array, list[Array]]:
        """Make integers ready to be sent in one copy, each column filled up to a length with a number.

        Returns from where and to where it is to be copied, and where the columns are then. `prepared_sent` follows.
        """
        self._inputs_sent()
        end = 0
        for length, values, fill in columns:
            filled = end + len(values)
            self._pinned_inputs[end:filled] = values
            end += length
            self._pinned_inputs[filled:end] = fill
        whole, parts = self._inputs_for(tuple(length for length, _, _ in columns))
        return self._pinned_inputs[:end], whole, parts

    def _send(self, *columns: tuple[int, Ids, int]) -> list[Array]:
        host, whole, parts = self.prepare(*columns)
        self._device.copy_in(whole, host)
        self.prepared_sent()
        return parts

    def prepared_sent(self) -> Callable[[], None]:
        """What was prepared is queued; calling what this returns waits until it, and all before it, has run."""
        self._inputs_sent = self._device.mark()
        return self._inputs_sent

    def _inputs_for(self, lengths: tuple[int, ...]) -> tuple[Array, list[Array]]:
        """Where these columns go, and each of them. Views of an array on the device take longer than those here."""
        if lengths not in self._input_views:
            ends = np.cumsum(lengths).tolist()
            parts = [self._inputs[end - length : end] for length, end in zip(lengths, ends, strict=True)]
            self._input_views[lengths] = self._inputs[: ends[-1]], parts
        return self._input_views[lengths]
