"""Every file of kernels compiles for the GPUs it is meant for, where NVRTC is at hand; no device is needed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from model.cuda import device

TYPES = {
    "recurrence": ({"real": "float"}, {"real": "double"}),
    "loss": ({"real": "float"}, {"real": "double"}),
    "serving": ({"weight": "half"}, {"weight": "float"}),
}
CASES = [(name, types) for name, of in TYPES.items() for types in of]


def compiler() -> tuple[Any, Path]:
    """NVRTC as CuPy brings it, and the folder of CUDA's headers."""
    try:
        nvrtc = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
        nvrtc.getVersion()
        root = importlib.import_module("cupy.cuda").get_cuda_path()
    except (ImportError, RuntimeError) as error:  # CuPy finds its libraries when they are first used
        pytest.skip(f"no CuPy with NVRTC: {error}")
    headers = Path(root or "/usr/local/cuda") / "include"
    if not (headers / "cuda_fp16.h").exists():
        pytest.skip(f"no CUDA headers in {headers}")
    return nvrtc, headers


def test_no_file_of_kernels_is_left_out() -> None:
    assert {path.stem for path in Path(device.__file__).parent.glob("*.cu")} == set(TYPES)


# Hopper, and the oldest that CUDA 13 compiles for.
@pytest.mark.parametrize("architecture", ["sm_90", "sm_75"])
@pytest.mark.parametrize(("name", "types"), CASES, ids=[f"{name} {types}" for name, types in CASES])
def test_it_compiles(name: str, types: dict[str, str], architecture: str) -> None:
    nvrtc, headers = compiler()
    program = nvrtc.createProgram(device.source(name), f"{name}.cu", (), ())
    as_cupy = ["-ftz=true", "--device-as-default-execution-space"]
    options = ["-std=c++17", *as_cupy, f"-arch={architecture}", f"-I{headers}"]
    options += [f"-D{key}={of}" for key, of in types.items()]
    try:
        nvrtc.compileProgram(program, tuple(options))
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    ptx = nvrtc.getPTX(program)
    text = ptx if isinstance(ptx, str) else ptx.decode()
    assert (".f64" in text) == ("double" in types.values())  # float arithmetic that slips into double is slow
