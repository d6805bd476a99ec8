"""A CUDA device that is a CPU: our kernels compiled by the C++ compiler, everything else in NumPy.

A block's threads are fibers that take turns at each barrier, so kernels must reach the same barriers in all threads
of a block, early returns of whole threads aside. Nothing is learnt here about speed or about the driver.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from model.cuda.device import source

SHIM = Path(__file__).parent / "emulated.h"
COMPILER = shutil.which("g++") or shutil.which("c++")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to run the kernels with")


class DeviceFullError(Exception):
    """The emulated device has no memory left."""


class Counts(NamedTuple):
    """What has been asked of a device so far."""

    launches: int
    replays: int
    copies_in: int
    copies_out: int

    def since(self, before: Counts) -> Counts:
        return Counts(*(now - then for now, then in zip(self, before, strict=True)))


class _Arrays:
    """numpy, which may be told to have no memory left."""

    def __init__(self, device: EmulatedDevice) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if name not in ("empty", "zeros", "asarray", "empty_like", "zeros_like"):
            return function

        def allocate(*arguments: Any, **keywords: Any) -> Any:
            array = function(*arguments, **keywords)
            if array.nbytes > self._device.memory:
                raise DeviceFullError(f"{array.nbytes} bytes, and {self._device.memory} are left")
            if name == "empty":
                array.fill(np.nan if array.dtype.kind == "f" else 77)  # whoever reads before writing shall see
            return array

        return allocate


class EmulatedDevice:
    """`model.cuda.device.Device`. `launches` counts what was queued one by one, `replays` recordings, `copies_in` and
    `copies_out` those of either that have run. `nodes` are how many parts the last recording has.

    A lazy one does nothing before somebody waits for it, so whoever does not wait sees what was there before.
    """

    memory_errors = (DeviceFullError,)

    def __init__(self, memory: int = 1 << 40, *, lazy: bool = False) -> None:
        self.xp = _Arrays(self)
        self.memory = memory
        self.tf32 = False
        self.launches = self.replays = self.copies_in = self.copies_out = self.waits = 0
        self.nodes = 0
        self._recording: list[Callable[[], None]] | None = None
        self._lazy = lazy
        self._queued: deque[Callable[[], None]] = deque()
        self._begun = 0  # how many of all that was queued have been begun

    @property
    def counts(self) -> Counts:
        return Counts(self.launches, self.replays, self.copies_in, self.copies_out)

    def kernels(self, name: str, **types: str) -> Callable[[str], Any]:
        library = _compiled(source(name), tuple(sorted(types.items())))

        def kernel(entry: str) -> Any:
            function = getattr(library, f"emulate_{entry}")

            def launch(blocks: int, threads: int, *arguments: Any) -> None:
                assert blocks > 0
                assert 0 < threads <= 1024
                values = [_argument(argument) for argument in arguments]
                pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
                pointers.kept = values, arguments
                self._queue(lambda: function(blocks, threads, pointers))

            return launch

        return kernel

    def product(
        self,
        a: Any,
        b: Any,
        out: Any,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        assert a.dtype == b.dtype
        assert out.dtype == (np.float32 if a.dtype == np.float16 else a.dtype)
        assert all(array.strides[1] == array.itemsize for array in (a, b, out))

        def work() -> None:
            left, right = (array.astype(out.dtype) for array in (a, b))
            result = (left.T if transpose_a else left) @ (right.T if transpose_b else right)
            out[...] = out + result if accumulate else result

        self._queue(work)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self._recording = recording = []
        try:
            work()
        finally:
            self._recording = None
        self.nodes = len(recording)

        def run() -> None:
            for queued in recording:
                queued()

        def replay() -> None:
            self.replays += 1
            self._run(run)

        return replay

    def pinned(self, size: int) -> Any:
        return np.full(size, 77, np.uint8)

    def copy_in(self, array: Any, host: Any) -> None:
        self._copy("copies_in", array, host)

    def copy_out(self, host: Any, array: Any) -> None:
        self._copy("copies_out", host, array)

    def _copy(self, direction: str, to: Any, origin: Any) -> None:
        assert to.flags.c_contiguous
        assert origin.flags.c_contiguous

        def work() -> None:
            setattr(self, direction, getattr(self, direction) + 1)
            size = min(to.nbytes, origin.nbytes)
            to.reshape(-1).view(np.uint8)[:size] = origin.reshape(-1).view(np.uint8)[:size]

        self._queue(work)

    def mark(self) -> Callable[[], None]:
        end = self._begun + len(self._queued)

        def wait() -> None:
            self.waits += 1
            while self._begun < end:
                self._begun += 1
                self._queued.popleft()()

        return wait

    def running(self) -> Any:
        return nullcontext()

    def free_memory(self) -> int:
        return self.memory

    def release(self) -> None:
        pass

    def _queue(self, work: Callable[[], None]) -> None:
        if self._recording is not None:
            self._recording.append(work)
            return
        self.launches += 1
        self._run(work)

    def _run(self, work: Callable[[], None]) -> None:
        if self._lazy:
            self._queued.append(work)
        else:
            work()


def _argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, int):
        return ctypes.c_int32(value)
    return {"l": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}[value.dtype.char](value.item())


_LIBRARIES: dict[str, ctypes.CDLL] = {}


def _compiled(text: str, types: tuple[tuple[str, str], ...]) -> ctypes.CDLL:
    defines = [f"-D{name}={value}" for name, value in types]
    key = hashlib.sha256(f"{text}{SHIM.read_text()}{defines}".encode()).hexdigest()
    if key not in _LIBRARIES:
        kernels = re.split(r'extern "C" __global__ void (?:__launch_bounds__\(\w+\)\s+)?(\w+)\(', text)[1:]
        entries = {
            name: "__s" in body or "sort(" in body for name, body in zip(kernels[::2], kernels[1::2], strict=True)
        }
        with tempfile.TemporaryDirectory() as folder:
            unit, library = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
            calls = (
                f'extern "C" void emulate_{entry}(int blocks, int threads, void** arguments) '
                f"{{ emulated::launch({entry}, {str(barriers).lower()}, blocks, threads, arguments); }}\n"
                for entry, barriers in entries.items()
            )
            unit.write_text(f'#include "{SHIM}"\n{text}\n{"".join(calls)}')
            command = [str(COMPILER), "-std=c++17", "-O2", "-shared", "-fPIC", "-fno-gnu-unique", "-w", "-DEMULATED"]
            subprocess.run([*command, *defines, str(unit), "-o", str(library)], check=True)
            _LIBRARIES[key] = ctypes.CDLL(str(library))
    return _LIBRARIES[key]
