"""Matrix products by cuBLAS, called directly.

CuPy's own functions refuse to call cuBLAS while a stream is being captured (cupy/cupy#6290), and what is recorded here
is products above all. cuBLAS itself allows it: https://docs.nvidia.com/cuda/cublas/#cuda-graphs-support
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

# From cuBLAS's and CUDA's headers, where these values cannot change any more.
_NOT_TRANSPOSED, _TRANSPOSED, _DEFAULT_ALGORITHM = 0, 1, -1
_R = {"f": 0, "d": 1, "e": 2}  # CUDA_R_32F, CUDA_R_64F, CUDA_R_16F
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_FAST_TF32 = 68, 70, 77
_ALLOCATION_FAILED = 3
_int, _size, _pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
_ARGUMENTS = {
    "cublasCreate_v2": [_pointer],
    "cublasSetStream_v2": [_pointer, _pointer],
    "cublasSetWorkspace_v2": [_pointer, _pointer, _size],
    "cublasGemmEx": [
        *(_pointer, _int, _int, _int, _int, _int),  # handle, transpositions, m, n, k
        *(_pointer, _pointer, _int, _int, _pointer, _int, _int),  # alpha; a and b, each with its type and stride
        *(_pointer, _pointer, _int, _int, _int, _int),  # beta; c; compute type, algorithm
    ],
}

#: What cuBLAS may write partial sums to, in bytes: as much as NVIDIA advises for Hopper. It would otherwise allocate
#: memory of its own, in the middle of a capture.
WORKSPACE_BYTES = 32 << 20


def library() -> ctypes.CDLL:
    """cuBLAS, which CuPy has found and loaded. Raises OSError or RuntimeError where it is not to be found."""
    found = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cublas")
    cublas = ctypes.CDLL(found.abs_path)
    for name, arguments in _ARGUMENTS.items():
        getattr(cublas, name).argtypes = arguments
    return cublas


class CublasError(RuntimeError):
    """cuBLAS did not do what it was asked for."""


class Cublas:
    """cuBLAS on the device that is CuPy's current one when this is made. Any thread may call `product`."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._library = library()
        self._lock = threading.Lock()
        handle = _pointer()
        self._call("cublasCreate_v2", ctypes.byref(handle))
        self._handle = handle
        self._stream: tuple[int, int] | None = None
        self._workspaces: dict[int, Any] = {}
        # Read from the host at the time of the call.
        self._coefficients = {
            dtype: (np.ones(1, dtype), np.zeros(1, dtype)) for dtype in (np.dtype(np.float32), np.dtype(np.float64))
        }

    def product(
        self,
        a: Any,
        b: Any,
        out: Any,
        *,
        transposed: Sequence[bool],
        accumulate: bool,
        tf32: bool,
        queue: int,
    ) -> None:
        """`Device.product`, into CuPy's current stream. transposed: of a, and of b.

        queue: the stream in which it will run, which is another one where the current one is only being captured.
        Products that can run at the same time must not share a workspace.
        """
        m, k = a.shape[::-1] if transposed[0] else a.shape
        n = b.shape[0] if transposed[1] else b.shape[1]
        if 0 in (m, n, k):
            return
        one, zero = self._coefficients[out.dtype]
        if out.dtype == np.float64:
            compute = _COMPUTE_64F
        else:
            compute = _COMPUTE_32F_FAST_TF32 if tf32 and a.dtype == np.float32 else _COMPUTE_32F
        operations = [_TRANSPOSED if it else _NOT_TRANSPOSED for it in transposed]
        with self._lock:
            self._use(self._xp.cuda.get_current_stream().ptr, queue)
            # cuBLAS takes columns for rows: (a b)^T = b^T a^T, and a row-major matrix is its transpose to it.
            self._call(
                "cublasGemmEx",
                self._handle,
                *(operations[1], operations[0], n, m, k),
                *(one.ctypes.data, b.data.ptr, _R[b.dtype.char], _apart(b), a.data.ptr, _R[a.dtype.char], _apart(a)),
                *((one if accumulate else zero).ctypes.data, out.data.ptr, _R[out.dtype.char], _apart(out)),
                *(compute, _DEFAULT_ALGORITHM),
            )

    def _use(self, stream: int, queue: int) -> None:
        if self._stream == (stream, queue):
            return
        if queue not in self._workspaces:
            self._workspaces[queue] = self._xp.empty(WORKSPACE_BYTES, np.uint8)
        # In this order: setting the stream takes the workspace away.
        self._stream = None
        self._call("cublasSetStream_v2", self._handle, stream)
        self._call("cublasSetWorkspace_v2", self._handle, self._workspaces[queue].data.ptr, WORKSPACE_BYTES)
        self._stream = stream, queue

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status == _ALLOCATION_FAILED:
            raise MemoryError(f"{name}: no memory on the device")
        if status:
            raise CublasError(f"{name} ended with status {status}")


def _apart(matrix: Any) -> int:
    """How many values lie between the beginnings of two rows; the stride of a single row may be anything."""
    return max(int(matrix.strides[0]) // int(matrix.itemsize), int(matrix.shape[1]))
