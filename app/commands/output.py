"""What commands print, where standard output may be a pipe that nobody reads any more, or a disk that is full."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


@contextmanager
def printing(stop: Callable[[str], NoReturn]) -> Iterator[None]:
    """What is printed in here, if it cannot be written, calls `stop` with the reason in one line. A closed pipe, as
    `| head` leaves one, is none: it ends the command quietly.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # typer ends quietly
        _discard()
        stop(f"standard output cannot be written: {error.strerror or error}")


def _discard() -> None:
    """What has been printed and not written would fail once more at the end of the process."""
    with suppress(OSError):  # no file, in tests
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
