"""The few calls through which this project uses a CUDA device: kernels, matrix products, copies, recorded work.

All of CuPy that is called by hand stands here, and cuBLAS in `model.cuda.cublas`. What computes with a `Device` only
hands it arrays, so that the tests can run the same code, kernels included, on a CPU.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.cuda.cublas import Cublas

Array = Any  # cupy.ndarray
#: kernel(blocks, threads a block, arguments): queues it. Integers among the arguments are C's int.
Kernel = Callable[..., None]

# From CUDA's headers, where these values cannot change any more.
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_ERROR_MEMORY_ALLOCATION = 2
# CuPy's COMPUTE_TYPE_DEFAULT and COMPUTE_TYPE_TF32.
_CUPY_DEFAULT, _CUPY_TF32 = 1, 7


class Device(Protocol):
    """What a device is asked for. Everything is queued; only `wait` waits."""

    xp: Any  # the module whose functions make arrays here
    memory_errors: tuple[type[BaseException], ...]  # raised where the device has no memory left
    tf32: bool  # whether the factors of float32 products are rounded to 10 bits, for the tensor cores

    def kernels(self, name: str, **types: str) -> Callable[[str], Kernel]:
        """The kernels of NAME.cu, by name, with these C types in the place of those names."""

    def product(
        self,
        a: Array,
        b: Array,
        out: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        """``out = a b`` or, with `accumulate`, ``out += a b``; rows may lie apart, values in a row may not.

        a and b are both float16 (`out` float32), float32 or float64; the sums are float32, or float64.
        """

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What `work` queues, to be queued again at once: one CUDA graph. `work` is called once, and nothing runs.

        It may use no memory but arrays that live as long as the recording, and must have run before.
        """

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Host memory that a copy can read or write while the host goes on."""

    def copy_in(self, array: Array, host: NDArray[Any]) -> None:
        """From pinned memory; queued."""

    def copy_out(self, host: NDArray[Any], array: Array) -> None:
        """Into pinned memory; queued."""

    def mark(self) -> Callable[[], None]:
        """A point in the queue; calling it waits until all that was queued before it has run."""

    def running(self) -> Any:
        """A context in which work goes into this device's own queue, and not into CuPy's current stream."""

    def free_memory(self) -> int:
        """Bytes of the device's memory that can still be allocated."""

    def release(self) -> None:
        """Give memory that is held for later use back to the device."""


class CupyDevice:
    """A `Device` through CuPy."""

    def __init__(self, index: int = 0) -> None:
        self.xp = importlib.import_module("cupy")
        self.index = index
        self.memory_errors: tuple[type[BaseException], ...] = (self.xp.cuda.memory.OutOfMemoryError, MemoryError)
        self._kernels: dict[tuple[str, tuple[str, ...], str], Kernel] = {}
        with self.xp.cuda.Device(index):
            self._stream = self.xp.cuda.Stream(non_blocking=True)
            self._cublas = Cublas(self.xp)
        self.tf32 = False  # whatever CUPY_TF32 says
        self._recording_for: int | None = None  # the stream that what is being recorded will run in

    @property
    def tf32(self) -> bool:
        return bool(self.xp._core.get_compute_type(np.float32) == _CUPY_TF32)

    @tf32.setter
    def tf32(self, rounded: bool) -> None:
        """For CuPy's own products of float32, too, of all devices."""
        self.xp._core.set_compute_type(np.float32, _CUPY_TF32 if rounded else _CUPY_DEFAULT)

    def kernels(self, name: str, **types: str) -> Callable[[str], Kernel]:
        definitions = tuple(f"-D{key}={value}" for key, value in sorted(types.items()))

        def kernel(entry: str) -> Kernel:
            key = name, definitions, entry
            if key not in self._kernels:
                module = self.xp.RawModule(code=source(name), options=("-std=c++17", *definitions))
                self._kernels[key] = _launcher(module.get_function(entry))
            return self._kernels[key]

        return kernel

    def product(
        self,
        a: Array,
        b: Array,
        out: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        queue = self.xp.cuda.get_current_stream().ptr if self._recording_for is None else self._recording_for
        self._cublas.product(
            a, b, out, transposed=(transpose_a, transpose_b), accumulate=accumulate, tf32=self.tf32, queue=queue
        )

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        queue = self.xp.cuda.get_current_stream().ptr
        with self._stream as stream:
            stream.begin_capture()
            self._recording_for = queue
            try:
                work()
            except BaseException:
                with suppress(self.xp.cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                raise
            finally:
                self._recording_for = None
            graph = self._within_memory(stream.end_capture)
        return functools.partial(self._within_memory, graph.launch)

    def _within_memory(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What CUDA itself has no memory for is a MemoryError, too: CuPy says so of its own arrays only."""
        try:
            return call(*arguments)
        except self.xp.cuda.runtime.CUDARuntimeError as error:
            if error.status == _ERROR_MEMORY_ALLOCATION:
                raise MemoryError(f"CUDA has no memory left: {error}") from error
            raise

    def pinned(self, size: int) -> NDArray[np.uint8]:
        return np.frombuffer(self._within_memory(self.xp.cuda.alloc_pinned_memory, size), np.uint8, size)

    def copy_in(self, array: Array, host: NDArray[Any]) -> None:
        self._copy(array.data.ptr, host.ctypes.data, host.nbytes, _HOST_TO_DEVICE)

    def copy_out(self, host: NDArray[Any], array: Array) -> None:
        self._copy(host.ctypes.data, array.data.ptr, host.nbytes, _DEVICE_TO_HOST)

    def _copy(self, to: int, origin: int, size: int, kind: int) -> None:
        self.xp.cuda.runtime.memcpyAsync(to, origin, size, kind, self.xp.cuda.get_current_stream().ptr)

    def mark(self) -> Callable[[], None]:
        event = self.xp.cuda.Event(disable_timing=True)
        event.record(self.xp.cuda.get_current_stream())
        wait: Callable[[], None] = event.synchronize
        return wait

    def running(self) -> Any:
        return self._stream

    def free_memory(self) -> int:
        with self.xp.cuda.Device(self.index):
            free, _ = self.xp.cuda.runtime.memGetInfo()
        return int(free) + int(self.xp.get_default_memory_pool().free_bytes())

    def release(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()


def _launcher(function: Any) -> Kernel:
    def launch(blocks: int, threads: int, *arguments: Any) -> None:
        passed = tuple(np.int32(value) if isinstance(value, int) else value for value in arguments)
        function((blocks,), (threads,), passed)

    return launch


def source(name: str) -> str:
    """The CUDA C++ of a file of kernels."""
    return (Path(__file__).parent / f"{name}.cu").read_text(encoding="utf-8")


@functools.cache
def cupy_device(index: int) -> CupyDevice:
    """The device of that number; always the same object."""
    return CupyDevice(index)
