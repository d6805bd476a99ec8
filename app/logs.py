"""The log: one line each, for people or for machines, in which nothing that came with a request is left unescaped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import threading
import time
from contextlib import suppress
from typing import Literal

from app.caller import REQUEST_ID

#: The lines of so many seconds are written together.
GATHER_SECONDS = 0.1

#: When so many lines wait because nobody takes them off the process's hands, more are dropped, and counted.
MOST_WAITING = 50_000

Format = Literal["json", "text"]

#: Line breaks would let a request write lines of its own, escape sequences would move the reader's cursor.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def escaped(text: str) -> str:
    """`text` on one line.

    >>> escaped("a\\nb")
    'a\\\\nb'
    """
    return text.translate(_CONTROLS)


def stamp(seconds: float) -> str:
    """Seconds since 1970 in UTC, to the millisecond.

    >>> stamp(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"


class LineFormatter(logging.Formatter):
    """Log records as one line each; in text, a traceback follows on lines that begin with a bar."""

    def __init__(self, style: Format) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        level, message, at = record.levelname.lower(), record.getMessage(), stamp(record.created)
        request_id = REQUEST_ID.get()
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._json:
            fields = {"time": at, "level": level, "event": message, "logger": record.name}
            if request_id:
                fields["request_id"] = request_id
            if trace:
                fields["exception"] = trace
            return json.dumps(fields)
        line = f"{at} {level} {escaped(message)}"
        if request_id:
            line += f" request_id={request_id}"
        return "\n".join([line, *(f"  | {escaped(part)}" for part in trace.splitlines())])


def configure(style: Format, level: str) -> None:
    """Send what this process logs to its standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(style))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


class RequestLog:
    """A line for every request: written by a thread of its own, so that a reader who is slow holds nobody up.

    `put` belongs to the event loop. What it is given needs no escaping: ids are of a safe alphabet, routes are the
    service's own templates (never a path, which may hold the id of a session), owners are names of keys.
    """

    def __init__(self, style: Format, descriptor: int = 2) -> None:
        self.dropped = 0
        self._json = style == "json"
        self._descriptor = descriptor
        self._lines: list[str] = []
        self._handed = 0  # lines, on the event loop
        self._written = 0  # of those, on the thread
        self._batches: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        self._second = -1
        self._stamp = ""
        self._thread = threading.Thread(target=self._write, name="nextword-log", daemon=True)
        self._thread.start()

    def put(self, method: str, route: str, status: int, seconds: float, request_id: str, owner: str) -> None:
        """Log a request that took so many `seconds`, and is over."""
        if len(self._lines) + self._handed - self._written >= MOST_WAITING:
            self.dropped += 1
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        if self._json:
            by = f',"owner":"{owner}"' if owner else ""
            line = (
                f'{{"time":"{self._stamp}.{int((now - second) * 1000):03d}Z","level":"info","event":"request",'
                f'"request_id":"{request_id}","method":"{method}","route":"{route}","status":{status},'
                f'"ms":{seconds * 1000:.3f}{by}}}\n'
            )
        else:
            by = f" owner={owner}" if owner else ""
            line = (
                f"{self._stamp}.{int((now - second) * 1000):03d}Z info {method} {route} {status} "
                f"{seconds * 1000:.3f} ms request_id={request_id}{by}\n"
            )
        if not self._lines:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._hand_over)
        self._lines.append(line)

    def close(self, seconds: float = 2.0) -> None:
        """Write what is left, for so long at most."""
        self._hand_over()
        self._batches.put(None)
        self._thread.join(seconds)

    def _hand_over(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._handed += len(lines)
            self._batches.put(lines)

    def _write(self) -> None:
        while (lines := self._batches.get()) is not None:
            left = memoryview("".join(lines).encode())
            with suppress(OSError):  # nobody reads the log any more, and there is nowhere to say so
                while left:
                    left = left[os.write(self._descriptor, left) :]
            self._written += len(lines)
