from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest

from model import devices


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    devices.cuda_failure.cache_clear()
    yield
    devices.cuda_failure.cache_clear()


def cupy(monkeypatch: pytest.MonkeyPatch, count: int | Exception) -> None:
    """A CuPy whose driver says how many devices there are, or fails."""

    def get_device_count() -> int:
        if isinstance(count, Exception):
            raise count
        return count

    module = types.ModuleType("cupy")
    module.__spec__ = types.SimpleNamespace()  # what find_spec looks for
    module.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=get_device_count))
    monkeypatch.setitem(sys.modules, "cupy", module)


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy(monkeypatch, 2)
    assert devices.cuda_device_count() == 2
    assert devices.cuda_failure() is None


def test_a_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy(monkeypatch, RuntimeError("cudaErrorInsufficientDriver:\n driver too old"))
    assert devices.cuda_device_count() == 0
    assert devices.cuda_failure() == "the CUDA driver does not answer: cudaErrorInsufficientDriver: driver too old"


def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy(monkeypatch, 0)
    assert devices.cuda_device_count() == 0
    assert devices.cuda_failure() == "no CUDA device is there"


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert devices.cuda_device_count() == 0
    assert "nextword[cuda13]" in str(devices.cuda_failure())
