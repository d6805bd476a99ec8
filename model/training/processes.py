"""The processes that train one network together: one alone, or as many as `mpiexec` has started, on any machines.

Each walks through streams of its own, with the same weights, and all take the mean of their gradients before each step:
the data-parallel, synchronous way of ChainerMN (Akiba et al. 2017), which comes with Chainer and speaks MPI. What is
said here between processes goes through MPI's pickles, so all of them have to be the same user's.
"""

from __future__ import annotations

import os
import stat
import sys
import time
import traceback
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import numpy as np

Shared = TypeVar("Shared")

#: Exit status of all processes when one has met a defect.
_DEFECT = 1

#: How long mpiexec may take to read why a process ends.
_READ_SECONDS = 5.0


class MPIError(RuntimeError):
    """No MPI can be used here; the message says what to install."""


class Processes:
    """A process alone. With more of them, every method but `abort` is to be called by all, in the same order."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that reads the text, writes the files and speaks."""
        return self.rank == 0

    def share(self, make: Callable[[], Shared]) -> Shared:
        """What `make` gives in the first process; the others wait for it."""
        return make()

    def any(self, said: bool) -> bool:
        """Whether anyone says so."""
        return said

    def mean(self, value: Any) -> Any:
        """The mean of a scalar over all."""
        return value

    def own(self, rows: Any) -> Any:
        """Of rows that stand for the streams of all, those of this process.

        Raises ValueError where they do not divide evenly.
        """
        streams, left = divmod(len(rows), self.size)
        if left:
            raise ValueError(f"{len(rows)} streams cannot be divided evenly among {self.size} processes")
        return rows[self.rank * streams : (self.rank + 1) * streams]

    def all_rows(self, own: Any) -> Any:
        """The inverse of `own`: the rows (B, ...) of every process, in order."""
        return own

    def set_out(self, network: Any) -> None:
        """Give all the first one's weights."""

    def average_gradients(self, network: Any) -> None:
        """Replace each gradient by its mean over all."""

    def abort(self, status: int) -> None:
        """End all the others too, wherever they are; returns only where there are none."""

    @contextmanager
    def one_fate(self) -> Iterator[None]:
        """A defect in one process ends all, with its traceback, instead of leaving the others waiting for it."""
        yield


class MPIProcesses(Processes):
    """The processes of one `mpiexec`, on CPUs."""

    def __init__(self) -> None:
        """Raises ModuleNotFoundError where mpi4py is missing, MPIError where MPI itself is."""
        try:
            import mpi4py.MPI  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "mpi4py is not installed: --distributed speaks MPI. pip install 'nextword[mpi]'", name=error.name
            ) from error
        except (ImportError, RuntimeError) as error:
            raise MPIError(
                f"there is no MPI that mpi4py could use ({' '.join(str(error).split())}): install MPICH or Open MPI, "
                "or pip install mpich"
            ) from error
        from model.compat import chainer  # noqa: F401  # chainermn takes Chainer as it finds it

        import chainermn  # isort: skip

        self._communicator = chainermn.create_communicator("naive")
        self._mpi = self._communicator.mpi_comm
        self.rank = self._communicator.rank
        self.size = self._communicator.size

    def share(self, make: Callable[[], Shared]) -> Shared:
        shared: Shared = self._mpi.bcast(make() if self.first else None)
        return shared

    def any(self, said: bool) -> bool:
        return bool(self.mean(float(said)))

    def mean(self, value: Any) -> Any:
        total = np.zeros(1, np.float64)
        self._mpi.Allreduce(np.array([value], np.float64), total)
        return total[0] / self.size

    def all_rows(self, own: Any) -> Any:
        rows = np.empty((self.size * len(own), *own.shape[1:]), own.dtype)
        self._mpi.Allgather(np.ascontiguousarray(own), rows)
        return rows

    def set_out(self, network: Any) -> None:
        self._communicator.bcast_data(network)

    def average_gradients(self, network: Any) -> None:
        self._communicator.multi_node_mean_grad(network)

    def abort(self, status: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if self.size > 1:
            _wait_until_read(sys.stderr.fileno())  # mpiexec passes on nothing that it has not read when it ends all
            self._mpi.Abort(status)
            os._exit(status)  # should the end not have come by then

    @contextmanager
    def one_fate(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            if self.size > 1:
                sys.stderr.write(f"process {self.rank} of {self.size}:\n{traceback.format_exc()}")
                self.abort(_DEFECT)
            raise


def _wait_until_read(pipe: int) -> None:
    """Wait until a pipe is empty, or for `_READ_SECONDS`; not at all for what is no pipe, or where nobody can tell."""
    if sys.platform == "win32":
        return
    import fcntl
    import termios

    until = time.monotonic() + _READ_SECONDS
    unread = array("i", [0])
    with suppress(OSError):
        while stat.S_ISFIFO(os.fstat(pipe).st_mode) and time.monotonic() < until:
            fcntl.ioctl(pipe, termios.FIONREAD, unread)
            if not unread[0]:
                return
            time.sleep(0.01)


class GradientAveraging:
    """An optimiser hook: every step is by the mean of the gradients of all processes. To stand before all others."""

    name = "GradientAveraging"
    call_for_each_param = False
    timing = "pre"

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def __call__(self, optimizer: Any) -> None:
        self._processes.average_gradients(optimizer.target)
