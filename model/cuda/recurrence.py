"""A whole sequence through one LSTM layer on a CUDA device; `model.recurrence` says what is computed.

A step is two kernels: a matrix product that is added to what the inputs gave, and the gates. At the sizes of language
models either takes a few microseconds, less than it takes to launch, so steps are recorded, `STEPS` at a time, and
launched as one. A recording knows its arrays by address, so the arrays of a sequence live in a `Sequence` that is used
again and again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.cuda.device import Array, Device
from model.cuda.recordings import Recordings

#: Steps of one recording. Those that fill none, fewer than this, are launched one by one: any length of sequence is
#: replayed from the same few recordings.
STEPS = 8
_THREADS = 256


class Sequence:
    """The arrays of one layer and one sequence of up to `capacity` steps, B rows and H units, and its recordings.

    `forward` fills them and `backward` reads them, so a sequence between the two is in nobody else's hands.
    """

    def __init__(self, device: Device, capacity: int, B: int, H: int, dtype: Any) -> None:
        self.capacity = capacity
        self._device, self._B, self._H = device, B, H
        kernels = device.kernels("recurrence", real="float" if dtype == np.float32 else "double")
        self._forward_step, self._backward_step = kernels("lstm_forward"), kernels("lstm_backward")
        empty = device.xp.empty
        self._W_h, self._b = empty((4 * H, H), dtype), empty(4 * H, dtype)
        self._gates, self._d_gates = empty((capacity, B, 4 * H), dtype), empty((capacity, B, 4 * H), dtype)
        self._cells, self._hs, self._d_hs = (empty((capacity + 1, B, H), dtype) for _ in range(3))
        self._tanh_cells, self._d_c = empty((capacity, B, H), dtype), empty((B, H), dtype)
        self.recordings = Recordings(device)

    def forward(self, x: Array, h0: Array, c0: Array, W_x: Array, W_h: Array, b: Array) -> tuple[Array, Array, Array]:
        """hs (T, B, H), h_T, c_T of x (T, B, E): new arrays."""
        T, B, H = len(x), self._B, self._H
        self._W_h[...], self._b[...] = W_h, b
        self._hs[0], self._cells[0] = h0, c0
        gates = self._gates[:T].reshape(T * B, 4 * H)
        x, W_x = map(self._device.xp.ascontiguousarray, (x, W_x))
        self._device.product(x.reshape(T * B, x.shape[2]), W_x, gates, transpose_b=True)
        self._run(True, T)
        return self._hs[1 : T + 1].copy(), self._hs[T].copy(), self._cells[T].copy()

    def backward(
        self, x: Array, W_x: Array, d_hs: Array | None, d_h: Array | None, d_c: Array | None, *, with_x: bool
    ) -> tuple[Array | None, ...]:
        """Gradients of x (None unless `with_x`), h0, c0, W_x, W_h and b, of those of hs, h_T and c_T: new arrays."""
        T, B, H, xp = len(x), self._B, self._H, self._device.xp
        x, W_x = map(xp.ascontiguousarray, (x, W_x))
        self._d_hs[0] = 0
        self._d_hs[1 : T + 1] = 0 if d_hs is None else d_hs
        if d_h is not None:
            self._d_hs[T] += d_h
        self._d_c[...] = 0 if d_c is None else d_c
        self._run(False, T)
        flat = self._d_gates[:T].reshape(T * B, 4 * H)
        x_flat, h_before = x.reshape(T * B, x.shape[2]), self._hs[:T].reshape(T * B, H)
        d_x = xp.empty_like(x) if with_x else None
        d_W_x, d_W_h = xp.zeros_like(W_x), xp.zeros_like(self._W_h)
        if d_x is not None:
            self._device.product(flat, W_x, d_x.reshape(x_flat.shape))
        self._device.product(flat, x_flat, d_W_x, transpose_a=True)
        self._device.product(flat, h_before, d_W_h, transpose_a=True)
        return d_x, self._d_hs[0].copy(), self._d_c.copy(), d_W_x, d_W_h, flat.sum(axis=0)

    def _run(self, forward: bool, T: int) -> None:
        whole = range(0, T - T % STEPS, STEPS)
        rest = range(T - T % STEPS, T)
        if forward:
            for first in whole:
                self._replay(forward, first)
            self._steps(forward, rest)
        else:
            self._steps(forward, rest)
            for first in reversed(whole):
                self._replay(forward, first)

    def _replay(self, forward: bool, first: int) -> None:
        """`STEPS` steps."""
        steps = range(first, first + STEPS)
        self.recordings.run((forward, first), lambda: self._steps(forward, steps))

    def _steps(self, forward: bool, steps: range) -> None:
        product, B, H = self._device.product, self._B, self._H
        blocks = -(-B * H // _THREADS)
        for t in steps if forward else reversed(steps):
            if forward:
                product(self._hs[t], self._W_h, self._gates[t], transpose_b=True, accumulate=True)
                forward_arrays = self._gates, self._b, self._cells, self._tanh_cells, self._hs
                self._forward_step(blocks, _THREADS, *forward_arrays, t, B, H)
            else:
                arrays = self._gates, self._cells, self._tanh_cells, self._d_hs, self._d_c, self._d_gates
                self._backward_step(blocks, _THREADS, *arrays, t, B, H)
                product(self._d_gates[t], self._W_h, self._d_hs[t], accumulate=True)


class Sequences:
    """Those of one device: taken for a forward pass, given back when its backward pass can no longer be asked for."""

    #: As many are kept for later use. A training uses one a layer, and its validation one a layer.
    KEPT = 32

    def __init__(self, device: Device) -> None:
        self._device = device
        self._free: list[tuple[tuple[Any, ...], Sequence]] = []  # the one that was given back last stands last
        self.made = 0

    def take(self, T: int, B: int, H: int, dtype: Any) -> tuple[tuple[Any, ...], Sequence]:
        """A sequence of at least T steps, and the key to give it back with."""
        key = (B, H, np.dtype(dtype).char, self._device.tf32)
        for place in range(len(self._free) - 1, -1, -1):
            if self._free[place][0] == key:
                kept = self._free.pop(place)
                if kept[1].capacity >= T:
                    return kept
                break  # too short for what comes now: a longer one takes its place
        self.made += 1
        # Lengths vary from window to window; one that is a little longer should not need arrays of its own.
        capacity = max(1, -(-T // (4 * STEPS))) * 4 * STEPS
        return key, Sequence(self._device, capacity, B, H, dtype)

    def give_back(self, taken: tuple[tuple[Any, ...], Sequence]) -> None:
        self._free.append(taken)
        del self._free[: -self.KEPT]
