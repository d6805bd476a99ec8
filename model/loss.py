"""The training loss over a large vocabulary, without ever holding all its logits.

For N words and V vocabulary entries the logits and their gradient are two (N, V) arrays, far more than everything else
in a training step. Both live only for a block of rows here: each block's loss and gradients are made while its logits
are in the cache, in the forward pass, and the backward pass only scales them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.compat import chainer
from model.cuda.device import Device, Kernel, cupy_device

F = chainer.functions
Array = Any  # numpy.ndarray or cupy.ndarray

#: Logits of one block, in bytes. Blocks of 16 to 64 MiB are equally fast on a CPU; smaller ones pay for adding up dW.
BLOCK_BYTES = 48 << 20
#: The same on a CUDA device, where a block has to give every multiprocessor something to do.
CUDA_BLOCK_BYTES = 256 << 20
_THREADS = 512


def linear_softmax_cross_entropy(h: Any, W: Any, b: Any, t: Any) -> Any:
    """Mean over N of ``-log softmax(W h_n + b)[t_n]``, in nats: a scalar.

    h (N, H), W (V, H), b (V,) of one floating dtype; t (N,) int in [0, V). Differentiable (once) in h, W and b; equals
    `F.softmax_cross_entropy(F.linear(h, W, b), t)`.
    """
    return _LinearSoftmaxCrossEntropy().apply((h, W, b, t))[0]


class _LinearSoftmaxCrossEntropy(chainer.FunctionNode):
    def check_type_forward(self, in_types: Any) -> None:
        h, W, b, t = in_types
        check = chainer.utils.type_check.expect
        check(h.ndim == 2, W.ndim == 2, b.ndim == 1, t.ndim == 1, t.dtype.kind == "i")
        check(h.dtype.kind == "f", h.dtype == W.dtype, h.dtype == b.dtype)
        check(h.shape[1] == W.shape[1], W.shape[0] == b.shape[0], h.shape[0] == t.shape[0])

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        h, W, b, t = inputs
        device = device_of(h)
        if device is not None:
            return self._forward_on_cuda(device, inputs)
        xp = chainer.backend.get_array_module(h)
        N, V = h.shape[0], W.shape[0]
        rows = max(1, min(N, BLOCK_BYTES // (V * h.itemsize)))
        block = xp.empty((rows, V), h.dtype)
        with_gradients = chainer.config.enable_backprop
        if with_gradients:
            self.dh, self.dW, self.db = xp.empty_like(h), xp.zeros_like(W), xp.zeros_like(b)
        loss = xp.zeros((), h.dtype)
        for start in range(0, N, rows):
            part = slice(start, min(start + rows, N))
            logits = block[: part.stop - start]
            at = (xp.arange(part.stop - start), t[part])
            xp.dot(h[part], W.T, out=logits)
            logits += b
            logits -= logits.max(axis=1, keepdims=True)
            loss -= logits[at].sum()
            xp.exp(logits, out=logits)
            normaliser = logits.sum(axis=1, keepdims=True)
            loss += xp.log(normaliser).sum()
            if with_gradients:
                # d loss / d logits = (softmax - one-hot) / N, in the place of the logits.
                logits *= 1 / (N * normaliser)
                logits[at] -= h.dtype.type(1 / N)
                xp.dot(logits, W, out=self.dh[part])
                self.dW += xp.dot(logits.T, h[part])
                self.db += logits.sum(axis=0)
        return (xp.asarray(loss / N, h.dtype),)

    def _forward_on_cuda(self, device: Device, inputs: tuple[Array, ...]) -> tuple[Array]:
        xp = device.xp
        h, W, b, t = map(xp.ascontiguousarray, inputs)
        N, V = h.shape[0], W.shape[0]
        rows = max(1, min(N, CUDA_BLOCK_BYTES // (V * h.itemsize)))
        block, losses, targets = xp.empty((rows, V), h.dtype), xp.zeros(N, h.dtype), t.astype(np.int32)
        with_gradients = chainer.config.enable_backprop
        scale = h.dtype.type(1 / N if with_gradients and N else 0)
        kernel = _kernel(device, h.dtype.char)
        if with_gradients:
            self.dh, self.dW, self.db = xp.empty_like(h), xp.zeros_like(W), xp.zeros_like(b)
            ones = xp.ones((1, rows), h.dtype)
        for start in range(0, N, rows):
            part = slice(start, min(start + rows, N))
            logits = block[: part.stop - start]
            device.product(h[part], W, logits, transpose_b=True)
            kernel(len(logits), _THREADS, logits, b, targets[part], losses[part], V, scale)
            if with_gradients:
                device.product(logits, W, self.dh[part])
                device.product(logits, h[part], self.dW, transpose_a=True, accumulate=True)
                device.product(ones[:, : len(logits)], logits, self.db[None], accumulate=True)
        return (xp.asarray(losses.sum() / N, h.dtype),)

    def backward(self, indexes: tuple[int, ...], grad_outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        scale = grad_outputs[0].array
        gradients = (self.dh, self.dW, self.db, None)
        return tuple(
            None if gradients[index] is None else chainer.as_variable(gradients[index] * scale) for index in indexes
        )


def device_of(array: Array) -> Device | None:
    """The CUDA device that holds the array, or None for NumPy's arrays."""
    if chainer.backend.get_array_module(array) is np:
        return None
    return cupy_device(int(array.device.id))


def _kernel(device: Device, dtype: str) -> Kernel:
    return device.kernels("loss", real={"f": "float", "d": "double"}[dtype])("softmax_cross_entropy")
