"""What cuBLAS is told, by a library that takes its arguments at their word: columns for rows, strides, types."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.cuda import cublas
from model.cuda.cublas import Cublas, CublasError

DTYPES = {0: np.float32, 1: np.float64, 2: np.float16}
COMPUTED_IN = {68: np.float32, 70: np.float64, 77: np.float32}


class OnDevice:
    """An array whose address is asked for as CuPy's is."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape, self.strides, self.itemsize, self.dtype = array.shape, array.strides, array.itemsize, array.dtype
        self.data = SimpleNamespace(ptr=array.ctypes.data)


class Library:
    """cuBLAS as its manual has it: matrices are columns, `apart` values from one to the next."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.workspace = 0
        self.compute = 0
        self.status = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            getattr(self, f"_{name}")(*arguments)
            return self.status

        if name not in cublas._ARGUMENTS:
            raise AttributeError(name)
        return call

    def _cublasCreate_v2(self, handle: Any) -> None:  # noqa: N802
        handle._obj.value = 1234

    def _cublasSetStream_v2(self, handle: Any, stream: int) -> None:  # noqa: N802
        self.workspace = 0

    def _cublasSetWorkspace_v2(self, handle: Any, address: int, size: int) -> None:  # noqa: N802
        self.workspace = address

    def _cublasGemmEx(self, *arguments: Any) -> None:  # noqa: N802
        assert len(arguments) == len(cublas._ARGUMENTS["cublasGemmEx"])
        assert self.workspace
        _, op_a, op_b, m, n, k, alpha, a, a_type, a_apart, b, b_type, b_apart, beta, c, c_type, c_apart = arguments[:17]
        self.compute = arguments[17]
        number = COMPUTED_IN[self.compute]
        left = columns(a, a_type, a_apart, (k, m) if op_a else (m, k))
        right = columns(b, b_type, b_apart, (n, k) if op_b else (k, n))
        out = columns(c, c_type, c_apart, (m, n))
        factor, old = (columns(it, c_type, 1, (1, 1))[0, 0] for it in (alpha, beta))
        product = (left.T if op_a else left).astype(number) @ (right.T if op_b else right).astype(number)
        out[...] = factor * product + (old * out if old else 0)


def columns(address: int, kind: int, apart: int, shape: tuple[int, int]) -> Any:
    rows, count = shape
    assert apart >= rows
    dtype = np.dtype(DTYPES[kind])
    size = (apart * (count - 1) + rows) * dtype.itemsize
    flat = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
    strides = (dtype.itemsize, apart * dtype.itemsize)
    return np.lib.stride_tricks.as_strided(flat, shape, strides)


class Current:
    """CuPy, of which only the current stream counts."""

    def __init__(self) -> None:
        self.stream = SimpleNamespace(ptr=7)
        self.cuda = SimpleNamespace(get_current_stream=lambda: self.stream)
        self.made: list[int] = []

    def empty(self, size: int, dtype: Any) -> OnDevice:
        array = OnDevice(np.empty(16, np.uint8))
        self.made.append(array.data.ptr)
        return array


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch) -> tuple[Cublas, Library, Current]:
    there, xp = Library(), Current()
    monkeypatch.setattr(cublas, "library", lambda: there)
    return Cublas(xp), there, xp


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (1, 6, 5), (7, 1, 3), (4, 6, 5), (0, 3, 2)])
def test_products_of_every_layout(stated: Any, dtype: type, m: int, n: int, k: int) -> None:
    ours, there, _ = stated
    random = np.random.default_rng(m)
    a, b = random.normal(size=(m, k)).astype(dtype), random.normal(size=(k, n)).astype(dtype)
    out_dtype = np.float64 if dtype == np.float64 else np.float32
    exact = a.astype(out_dtype) @ b.astype(out_dtype)
    wide_a, wide_b = np.zeros((m, k + 8), dtype), np.zeros((k, n + 8), dtype)
    wide_a[:, :k], wide_b[:, :n] = a, b
    for left, transpose_a in ((wide_a[:, :k], False), (a.T.copy(), True), (a, False)):
        for right, transpose_b in ((wide_b[:, :n], False), (b.T.copy(), True), (b, False)):
            whole = np.ones((m, n + 3), out_dtype)
            for times in (1, 2):
                factors = OnDevice(left), OnDevice(right), OnDevice(whole[:, :n])
                ours.product(
                    *factors, transposed=(transpose_a, transpose_b), accumulate=times == 2, tf32=False, queue=7
                )
                np.testing.assert_allclose(whole[:, :n], times * exact, rtol=1e-5, atol=1e-5)
            assert (whole[:, n:] == 1).all()
    if m:
        assert COMPUTED_IN[there.compute] == out_dtype


def test_tf32_is_for_float32_only(stated: Any) -> None:
    ours, there, _ = stated
    for dtype, expected in ((np.float16, 68), (np.float32, 77), (np.float64, 70)):
        out = np.zeros((2, 2), np.float64 if dtype == np.float64 else np.float32)
        factor = OnDevice(np.eye(2, dtype=dtype))
        ours.product(factor, factor, OnDevice(out), transposed=(False, False), accumulate=False, tf32=True, queue=7)
        assert there.compute == expected


def test_each_queue_has_a_workspace_that_setting_the_stream_does_not_take_away(stated: Any) -> None:
    ours, there, xp = stated
    factor, out = OnDevice(np.eye(2, dtype=np.float32)), OnDevice(np.zeros((2, 2), np.float32))

    def product(stream: int, queue: int) -> int:
        xp.stream.ptr = stream
        ours.product(factor, factor, out, transposed=(False, False), accumulate=False, tf32=False, queue=queue)
        return there.workspace

    plain = product(7, 7)
    assert product(9, 7) == plain  # captured in another stream, to run in that one
    assert product(9, 9) != plain
    assert product(7, 7) == plain
    calls = len(there.calls)
    product(7, 7)
    assert there.calls[calls:] == ["cublasGemmEx"]  # what is set stays
    assert len(xp.made) == 2


def test_errors_are_told_apart(stated: Any) -> None:
    ours, there, _ = stated
    factor, out = OnDevice(np.eye(2, dtype=np.float32)), OnDevice(np.zeros((2, 2), np.float32))
    for status, error in ((3, MemoryError), (13, CublasError)):
        there.status = status
        with pytest.raises(error):
            ours.product(factor, factor, out, transposed=(False, False), accumulate=False, tf32=False, queue=7)


def test_the_library_has_what_is_called() -> None:
    """Where CuPy is installed; no device is needed."""
    pytest.importorskip("cuda.pathfinder")
    try:
        there = cublas.library()
    except (OSError, RuntimeError) as error:
        pytest.skip(f"no cuBLAS: {error}")
    assert all(hasattr(there, name) for name in cublas._ARGUMENTS)
