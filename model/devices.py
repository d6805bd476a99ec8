"""Which CUDA devices answer. CuPy may load where no device does; only the driver tells."""

from __future__ import annotations

import functools
import importlib
import importlib.util


@functools.cache
def cuda_failure() -> str | None:
    """Why no CUDA device can be used, in one line, or None if one can. Asks the driver once."""
    if no_cuda_expected():
        return "CuPy is not installed (pip install 'nextword[cuda13]', or [cuda12])"
    try:
        runtime = importlib.import_module("cupy").cuda.runtime
        count = int(runtime.getDeviceCount())
    except ImportError as error:
        return f"CuPy does not load: {_line(error)}"
    except Exception as error:  # CUDARuntimeError, which only a CuPy that loads can name
        return f"the CUDA driver does not answer: {_line(error)}"
    return None if count else "no CUDA device is there"


def no_cuda_expected() -> bool:
    """Whether CuPy is not even installed: nobody who wants a GPU has come so far."""
    return importlib.util.find_spec("cupy") is None


def cuda_device_count() -> int:
    """How many CUDA devices can be used."""
    if cuda_failure() is not None:
        return 0
    return int(importlib.import_module("cupy").cuda.runtime.getDeviceCount())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
