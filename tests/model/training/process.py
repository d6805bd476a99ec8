"""`nextword train` in a process of its own, that may be killed; what goes wrong in it is decided beforehand.

The processes are forked from a server that has Chainer loaded, so that each starts in milliseconds.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import model.training.trainer as trainer_module
from app.cli import application
from model.artifact import Artifact
from model.training import snapshot
from model.training.processes import Processes
from model.training.updater import GradientClipping, TruncatedBPTTUpdater

#: Something done to the process before the command starts; it is given the way to speak to the test.
Setup = Callable[[Connection], None]
PATIENCE = 60.0  # seconds; nothing here takes so long unless it hangs


class Process:
    """A started `nextword train` with these arguments."""

    def __init__(self, arguments: Sequence[str | Path], output: Path, *setups: Setup) -> None:
        self._output = output
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(list(map(str, arguments)), output, setups, theirs))
        self._process.start()
        theirs.close()

    def told(self) -> Any:
        """The next thing that a setup sends; None when the process has ended instead."""
        assert self._ours.poll(PATIENCE), "the process hangs"
        try:
            return self._ours.recv()
        except EOFError:
            return None

    def send(self, number: int) -> None:
        os.kill(self._process.pid or 0, number)

    def status(self) -> int:
        """Waits for the end: the exit status, or minus the number of the signal that killed it."""
        self._process.join(PATIENCE)
        status = self._process.exitcode
        self._process.kill()
        self._process.join()
        self._ours.close()
        assert status is not None, f"the process hangs; so far it said:\n{self.output}"
        return status

    @property
    def output(self) -> str:
        """All that it has written so far."""
        return self._output.read_text()


def _main(arguments: list[str], output: Path, setups: Sequence[Setup], connection: Connection) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.stdout.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    for setup in setups:
        setup(connection)
    application(arguments)(arguments)


# --- Setups -----------------------------------------------------------------------------------------------------------


def snapshots_every(seconds: float, _connection: Connection) -> None:
    trainer_module.train = functools.partial(trainer_module.train, snapshot_seconds=seconds)


def kill_in_update(iteration: int, _connection: Connection) -> None:
    """Killed between the gradients of an update and its step."""
    clip = GradientClipping.__call__

    def killing(self: GradientClipping, optimizer: Any) -> None:
        if optimizer.t == iteration:
            os.kill(os.getpid(), signal.SIGKILL)
        clip(self, optimizer)

    GradientClipping.__call__ = killing  # type: ignore[method-assign]


def kill_before_replacing(name: str, times: int, _connection: Connection) -> None:
    """Killed when the new content of a file is written for the `times`-th time, and not yet in its place."""
    replace = Path.replace
    left = [times]

    def killing(self: Path, target: Path) -> Path:
        if Path(target).name == name:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = killing  # type: ignore[method-assign,assignment]


def kill_after_snapshot(iteration: int, _connection: Connection) -> None:
    save = snapshot.save

    def killing(path: Path, trainer: Any, processes: Processes) -> None:
        save(path, trainer, processes)
        if trainer.updater.iteration == iteration:
            os.kill(os.getpid(), signal.SIGKILL)

    snapshot.save = killing


def kill_before_model(_connection: Connection) -> None:
    def killing(*_: Any, **__: Any) -> Artifact:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    Artifact.write = killing  # type: ignore[method-assign]


def tell_iterations(connection: Connection) -> None:
    """Sends the number of each update when it is done."""
    update = TruncatedBPTTUpdater.update_core

    def telling(self: TruncatedBPTTUpdater) -> None:
        update(self)
        connection.send(self.iteration)

    TruncatedBPTTUpdater.update_core = telling  # type: ignore[method-assign]


def limit_file_size(size: int, _connection: Connection) -> None:
    """No file may grow beyond so many bytes: writing fails as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def raising(setattr_: Callable[..., None], iteration: int, *numbers: int) -> None:
    """Signals that come in the middle of an update of this process."""
    clip = GradientClipping.__call__

    def signalled(self: GradientClipping, optimizer: Any) -> None:
        if optimizer.t == iteration:
            for number in numbers:
                signal.raise_signal(number)
        clip(self, optimizer)

    setattr_(GradientClipping, "__call__", signalled)


def interrupt(iteration: int, times: int, _connection: Connection) -> None:
    """As if someone pressed Ctrl-C during that update, so many times."""
    raising(setattr, iteration, *[signal.SIGINT] * times)
