"""Where a model runs: one seam (base.py), one file a runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.runtimes.base import Runtime

if TYPE_CHECKING:  # model.artifact knows the shapes of the states that runtimes hold
    from model.artifact import Artifact

#: What --runtime takes. "auto" is the fastest that this machine can run.
RUNTIMES = ("auto", "cpu", "cpu-float32", "chainer")


class RuntimeUnavailableError(RuntimeError):
    """A runtime that this machine or installation cannot run; one line that says what to install."""


def load(artifact: Artifact, name: str = "auto", *, threads: int | None = None) -> Runtime:
    """The model, ready to run. `threads` is for the CPU runtimes.

    Raises RuntimeUnavailableError, ValueError for a name that is not in `RUNTIMES`.
    """
    if name in ("auto", "cpu", "cpu-float32"):
        from model.runtimes.cpu import CpuRuntime

        return CpuRuntime(artifact, quantised=name != "cpu-float32", threads=threads)
    if name == "chainer":
        try:
            from model.runtimes.reference import ReferenceRuntime
        except ModuleNotFoundError as error:
            raise RuntimeUnavailableError(str(error)) from error
        return ReferenceRuntime(artifact)
    raise ValueError(f"no runtime {name!r}; there are {', '.join(RUNTIMES)}")
