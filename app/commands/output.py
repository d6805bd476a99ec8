"""What commands print, where standard output may be a closed pipe, a disk that is full, or ASCII only."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn


@contextmanager
def printing(stop: Callable[[str], NoReturn]) -> Iterator[None]:
    """What is printed in here, if it cannot be written, calls `stop` with the reason in one line. A closed pipe, as
    `| head` leaves one, is none: it ends the command quietly. A character that the encoding lacks is escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # typer ends quietly
        _discard()
        stop(f"standard output cannot be written: {error.strerror or error}")


def can_show(text: str) -> bool:
    """Whether the encoding of standard output has all its characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_json(content: dict[str, Any], *, indent: int | None = None) -> str:
    """JSON that is JSON in the encoding of standard output, whose own escapes are none."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    return text if can_show(text) else json.dumps(content, indent=indent, allow_nan=False)


def _discard() -> None:
    """What has been printed and not written would fail once more at the end of the process."""
    with suppress(OSError):  # no file, in tests
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
