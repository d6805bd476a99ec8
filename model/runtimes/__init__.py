"""Where a model runs: one seam (base.py), one file a runtime."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from model.devices import cuda_failure, no_cuda_expected
from model.runtimes.base import DeviceMemoryError, Runtime

if TYPE_CHECKING:  # model.artifact knows the shapes of the states that runtimes hold
    from model.artifact import Artifact

log = logging.getLogger("nextword")

#: What --runtime takes. "auto" is the GPU if there is one, else the CPU.
RUNTIMES = ("auto", "cpu", "cpu-float32", "cuda", "cuda-float32", "chainer")

_CUDA_LIBRARIES = "CUDA's headers and libraries come with pip install 'nextword[cuda13]' (or [cuda12])"


class RuntimeUnavailableError(RuntimeError):
    """A runtime that this machine or installation cannot run; one line that says what to install."""


def load(artifact: Artifact, name: str = "auto", *, threads: int | None = None) -> Runtime:
    """The model, ready to run. `threads` is for the CPU runtimes.

    "auto" is the GPU if one computes, tried, and the CPU if not; why a GPU is not used is logged, unless nothing but
    the CPU was to be expected. Raises RuntimeUnavailableError, ValueError for a name that is not in `RUNTIMES`.
    """
    if name == "auto":
        try:
            return load(artifact, "cuda")
        except RuntimeUnavailableError as error:
            if not no_cuda_expected():
                log.warning("the model runs on the CPU: %s", error)
        return load(artifact, "cpu", threads=threads)
    if name in ("cpu", "cpu-float32"):
        from model.runtimes.cpu import CpuRuntime

        return CpuRuntime(artifact, quantised=name == "cpu", threads=threads)
    if name in ("cuda", "cuda-float32"):
        return _load_cuda(artifact, float16=name == "cuda")
    if name == "chainer":
        try:
            from model.runtimes.reference import ReferenceRuntime
        except ModuleNotFoundError as error:
            raise RuntimeUnavailableError(str(error)) from error
        return ReferenceRuntime(artifact)
    raise ValueError(f"no runtime {name!r}; there are {', '.join(RUNTIMES)}")


def _load_cuda(artifact: Artifact, *, float16: bool) -> Runtime:
    if (reason := cuda_failure()) is not None:
        raise RuntimeUnavailableError(f"the cuda runtime needs a GPU: {reason}")
    from model.cuda.device import cupy_device
    from model.runtimes.cuda import CudaRuntime

    try:
        runtime = CudaRuntime(artifact, cupy_device(0), float16=float16)
        runtime.try_out()
    except DeviceMemoryError as error:
        raise RuntimeUnavailableError(f"the model does not fit: {error}") from error
    except ValueError as error:
        raise RuntimeUnavailableError(f"{error}: take --runtime cuda-float32") from error
    except Exception as error:  # what a driver, a compiler or a library that does not fit raises is of many kinds
        line = " ".join(str(error).split())[:300]
        raise RuntimeUnavailableError(
            f"the GPU does not compute ({type(error).__name__}: {line}). {_CUDA_LIBRARIES}, the driver with the system"
        ) from error
    return runtime
