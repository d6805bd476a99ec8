"""The calls to CuPy that an emulated device cannot check."""

from __future__ import annotations

import numpy as np
import pytest

from model.cuda.device import CupyDevice, cupy_device
from tests.gpu.device import needs_gpu

pytestmark = needs_gpu


@pytest.fixture
def device() -> CupyDevice:
    return cupy_device(0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (1, 40, 24), (7, 1, 3), (33, 65, 17), (128, 256, 512)])
def test_products_of_every_layout(device: CupyDevice, dtype: type, m: int, n: int, k: int) -> None:
    random = np.random.default_rng(m)
    a, b = random.normal(size=(m, k)).astype(dtype), random.normal(size=(k, n)).astype(dtype)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    xp, out_dtype = device.xp, np.float64 if dtype == np.float64 else np.float32
    # Rows that lie apart, as in a layer's inputs.
    wide_a, wide_b = xp.zeros((m, k + 8), dtype), xp.zeros((k, n + 8), dtype)
    wide_a[:, :k], wide_b[:, :n] = xp.asarray(a), xp.asarray(b)
    lefts = (wide_a[:, :k], False), (xp.asarray(a.T.copy()), True), (xp.asarray(a), False)
    rights = (wide_b[:, :n], False), (xp.asarray(b.T.copy()), True), (xp.asarray(b), False)
    for left, transpose_a in lefts:
        for right, transpose_b in rights:
            out = xp.ones((m, n), out_dtype)
            for times in (1, 2):
                device.product(
                    left, right, out, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=times == 2
                )
                tolerance = 1e-12 if dtype == np.float64 else 1e-4
                np.testing.assert_allclose(out.get(), times * exact, rtol=tolerance, atol=tolerance * k)


def test_tf32_rounds_and_float32_does_not(device: CupyDevice) -> None:
    random = np.random.default_rng(0)
    a, b = (device.xp.asarray(random.normal(size=(256, 256)).astype(np.float32)) for _ in "ab")
    exact = a.get().astype(np.float64) @ b.get().astype(np.float64)
    errors = []
    for device.tf32 in (False, True):
        try:
            for product in (lambda out: device.product(a, b, out), lambda out: device.xp.dot(a, b, out=out)):
                out = device.xp.empty((256, 256), np.float32)
                product(out)
                errors.append(float(np.abs(out.get() - exact).max()))
        finally:
            device.tf32 = False
    assert max(errors[:2]) < 1e-3 < min(errors[2:])
    assert max(errors[2:]) < 0.2


def test_what_is_recorded_runs_when_it_is_replayed_and_not_before(device: CupyDevice) -> None:
    xp = device.xp
    a, out = xp.eye(8, dtype=np.float32), xp.zeros((8, 8), np.float32)
    device.product(a, a, out, accumulate=True)
    replay = device.record(lambda: device.product(a, a, out, accumulate=True))
    assert out[0, 0].get() == 1
    for _ in range(3):
        replay()
    assert out[0, 0].get() == 4
    with device.running():
        replay()
        device.mark()()
    assert out[0, 0].get() == 5


def test_a_recording_takes_what_is_in_pinned_memory_and_leaves_there_what_comes_out(device: CupyDevice) -> None:
    xp = device.xp
    there, back = (device.pinned(4 * 64).view(np.float32) for _ in "ab")
    with device.running():
        W, x, out = (
            xp.asarray(np.eye(64, dtype=np.float32)),
            xp.zeros((1, 64), np.float32),
            xp.empty((1, 64), np.float32),
        )

        def step() -> None:
            device.copy_in(x, there)
            device.product(x, W, out, transpose_b=True)
            device.copy_out(back, out)

        there[:] = 0
        step()
        replay = device.record(step)
        for number in range(3):
            there[:] = np.arange(64) + number
            replay()
            device.mark()()
            np.testing.assert_array_equal(back, np.arange(64) + number)


def test_a_recording_that_fails_leaves_the_device_usable(device: CupyDevice) -> None:
    def fail() -> None:
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        device.record(fail)
    test_what_is_recorded_runs_when_it_is_replayed_and_not_before(device)


def test_copies_to_and_from_pinned_memory(device: CupyDevice) -> None:
    there, back = (device.pinned(400).view(np.float32) for _ in "ab")
    there[:] = np.arange(100)
    with device.running():
        array = device.xp.zeros(100, np.float32)
        device.copy_in(array, there)
        device.copy_out(back, array)
        device.mark()()
    np.testing.assert_array_equal(back, there)


def test_memory_that_is_not_there_is_the_error_that_is_said(device: CupyDevice) -> None:
    with pytest.raises(device.memory_errors):
        device.xp.empty(1 << 45, np.uint8)
    device.release()
    assert device.free_memory() > 0
