"""Where a model runs: one seam (base.py), one file a runtime."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from model.devices import cuda_device_count
from model.runtimes.base import Runtime

if TYPE_CHECKING:  # model.artifact knows the shapes of the states that runtimes hold
    from model.artifact import Artifact

log = logging.getLogger("nextword")

#: What --runtime takes. "auto" is the GPU if there is one, else the CPU.
RUNTIMES = ("auto", "cpu", "cpu-float32", "chainer")


class RuntimeUnavailableError(RuntimeError):
    """A runtime that this machine or installation cannot run; one line that says what to install."""


def load(artifact: Artifact, name: str = "auto", *, threads: int | None = None) -> Runtime:
    """The model, ready to run. `threads` is for the CPU runtimes.

    "auto" is the GPU if one answers, and the CPU if not; a GPU that is there but cannot be used is logged.
    Raises RuntimeUnavailableError, ValueError for a name that is not in `RUNTIMES`.
    """
    if name == "auto":
        if cuda_device_count() == 0:
            return load(artifact, "cpu", threads=threads)
        try:
            return load(artifact, "chainer")
        except RuntimeUnavailableError as error:
            log.warning("a GPU is there, but the model runs on the CPU: %s", error)
            return load(artifact, "cpu", threads=threads)
    if name in ("cpu", "cpu-float32"):
        from model.runtimes.cpu import CpuRuntime

        return CpuRuntime(artifact, quantised=name == "cpu", threads=threads)
    if name == "chainer":
        try:
            from model.runtimes.reference import ReferenceRuntime
        except ModuleNotFoundError as error:
            raise RuntimeUnavailableError(str(error)) from error
        return ReferenceRuntime(artifact)
    raise ValueError(f"no runtime {name!r}; there are {', '.join(RUNTIMES)}")
