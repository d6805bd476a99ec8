"""A whole sequence through one LSTM layer as one Chainer function.

A time-step loop in Chainer makes a node, several small arrays and a few dozen Python calls for each of T steps. Here
the inputs of all steps go through one matrix product; each step is one recurrent product and the gates, in place; and
the gradients of both matrices are one product each.

    i, f, o = sigmoid(.), g = tanh(.) of  W_x x_t + W_h h_{t-1} + b        (blocks of rows i, f, g, o)
    c_t = f * c_{t-1} + i * g,   h_t = o * tanh(c_t)                        (Gers et al. 2000)

The recurrent matrix is an ordinary input, so weight drop is a dropout on `W_h` before the call. On a CUDA device
`model.cuda.recurrence` computes the same in kernels of its own.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import numpy as np

from model.compat import chainer
from model.cuda.device import cupy_device
from model.cuda.recurrence import Sequences

F = chainer.functions
Array = Any  # numpy.ndarray or cupy.ndarray
Arrays = tuple[Array, ...]


def lstm(x: Any, h0: Any, c0: Any, W_x: Any, W_h: Any, b: Any) -> tuple[Any, Any, Any]:
    """Run x (T, B, E) through an LSTM layer of H units, from h0 and c0 (B, H).

    W_x (4H, E), W_h (4H, H), b (4H,), all of one floating dtype. Returns hs (T, B, H), h_T and c_T (B, H), each
    differentiable (once) with respect to all six inputs. T = 0 gives back h0 and c0.
    """
    hs, hT, cT = _LSTM().apply((x, h0, c0, W_x, W_h, b))
    return hs, hT, cT


def sequences_of(array: Array) -> Sequences | None:
    """What the array's device computes whole sequences with, or None for NumPy's arrays."""
    if chainer.backend.get_array_module(array) is np:
        return None
    return _sequences(int(array.device.id))


@functools.cache
def _sequences(device: int) -> Sequences:
    return Sequences(cupy_device(device))


class _LSTM(chainer.FunctionNode):
    def check_type_forward(self, in_types: Any) -> None:
        x, h0, c0, W_x, W_h, b = in_types
        check = chainer.utils.type_check.expect
        check(x.ndim == 3, h0.ndim == 2, c0.ndim == 2, W_x.ndim == 2, W_h.ndim == 2, b.ndim == 1)
        check(*(array.dtype.kind == "f" for array in in_types), *(array.dtype == x.dtype for array in in_types))
        check(h0.shape == c0.shape, h0.shape[0] == x.shape[1], W_x.shape[1] == x.shape[2])
        check(W_h.shape[1] == h0.shape[1], W_h.shape[0] == 4 * h0.shape[1], W_x.shape[0] == W_h.shape[0])
        check(b.shape[0] == W_h.shape[0])

    def forward(self, inputs: Arrays) -> Arrays:
        x, h0, c0, W_x, W_h, b = inputs
        T, B, E = x.shape
        H = h0.shape[1]
        sequences = sequences_of(x)
        if sequences is not None and B > 0:
            return self._forward_on_cuda(sequences, inputs)
        xp = chainer.backend.get_array_module(x)
        gates = xp.dot(x.reshape(T * B, E), W_x.T).reshape(T, B, 4 * H)
        gates += b
        cells = xp.empty((T, B, H), x.dtype)
        tanh_cells = xp.empty((T, B, H), x.dtype)
        hs = xp.empty((T, B, H), x.dtype)
        recurrent = xp.empty((B, 4 * H), x.dtype)
        W_hT = W_h.T
        h, c = h0, c0
        for t in range(T):
            xp.dot(h, W_hT, out=recurrent)
            gate = gates[t]
            gate += recurrent
            _activate(xp, gate, H)
            i, f, g, o = _blocks(gate, H)
            xp.multiply(f, c, out=cells[t])
            c = cells[t]
            c += i * g
            xp.tanh(c, out=tanh_cells[t])
            xp.multiply(o, tanh_cells[t], out=hs[t])
            h = hs[t]
        self.retain_inputs((0, 1, 2, 3, 4))
        if chainer.config.enable_backprop:
            self.gates, self.cells, self.tanh_cells, self.hs = gates, cells, tanh_cells, hs
        return hs, h.copy(), c.copy()

    def _forward_on_cuda(self, sequences: Sequences, inputs: Arrays) -> Arrays:
        x = inputs[0]
        taken = sequences.take(len(x), x.shape[1], inputs[1].shape[1], x.dtype)
        outputs: Arrays = taken[1].forward(x, *inputs[1:])
        if chainer.config.enable_backprop:
            self.retain_inputs((0, 1, 2, 3, 4))
            self.sequence = taken[1]
            weakref.finalize(self, sequences.give_back, taken).atexit = False
        else:
            sequences.give_back(taken)
        return outputs

    def backward(self, indexes: tuple[int, ...], grad_outputs: Arrays) -> Arrays:
        x, h0, c0, W_x, W_h = (variable.array for variable in self.get_retained_inputs())
        g_hs, g_h, g_c = (None if g is None else g.array for g in grad_outputs)
        if hasattr(self, "sequence"):
            on_cuda = self.sequence.backward(x, W_x, g_hs, g_h, g_c, with_x=0 in indexes)
            return tuple(chainer.as_variable(on_cuda[index]) for index in indexes)
        xp = chainer.backend.get_array_module(x)
        T, B, E = x.shape
        H = h0.shape[1]
        dh = xp.zeros((B, H), x.dtype) if g_h is None else g_h.copy()
        dc = xp.zeros((B, H), x.dtype) if g_c is None else g_c.copy()
        d_gates = xp.empty((T, B, 4 * H), x.dtype)
        for t in reversed(range(T)):
            i, f, g, o = _blocks(self.gates[t], H)
            tanh_c = self.tanh_cells[t]
            if g_hs is not None:
                dh += g_hs[t]
            d_i, d_f, d_g, d_o = _blocks(d_gates[t], H)
            # h = o tanh(c): through the output gate, and through the cell to the step before.
            d_o[...] = dh * tanh_c * o * (1 - o)
            dc += dh * o * (1 - tanh_c * tanh_c)
            d_g[...] = dc * i * (1 - g * g)
            d_i[...] = dc * g * i * (1 - i)
            d_f[...] = dc * (self.cells[t - 1] if t else c0) * f * (1 - f)
            dc *= f
            xp.dot(d_gates[t], W_h, out=dh)
        flat = d_gates.reshape(T * B, 4 * H)
        h_before = xp.concatenate([h0[None], self.hs[:-1]]) if T else self.hs
        gradients = (
            xp.dot(flat, W_x).reshape(T, B, E) if 0 in indexes else None,
            dh,
            dc,
            xp.dot(flat.T, x.reshape(T * B, E)),
            xp.dot(flat.T, h_before.reshape(T * B, H)),
            flat.sum(axis=0),
        )
        return tuple(chainer.as_variable(gradients[index]) for index in indexes)


def _blocks(gates: Array, H: int) -> Arrays:
    """The views (B, H) of i, f, g, o in (B, 4H)."""
    return gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H : 3 * H], gates[:, 3 * H :]


def _activate(xp: Any, gates: Array, H: int) -> None:
    """In place. sigmoid(a) = tanh(a / 2) / 2 + 1/2 never overflows, and is one tanh over the whole array."""
    _, _, g, _ = _blocks(gates, H)
    g *= 2
    gates *= 0.5
    xp.tanh(gates, out=gates)
    i_f, o = gates[:, : 2 * H], gates[:, 3 * H :]
    for sigmoid in (i_f, o):
        sigmoid *= 0.5
        sigmoid += 0.5
