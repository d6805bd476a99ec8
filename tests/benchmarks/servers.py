"""Servers under measurement, each in a process group of its own that stands still while another one is measured."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.benchmarks.harness import BenchmarkError, environment

START_SECONDS = 120.0


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def nextword(port: int, model: Path, *options: str, python: Sequence[str] = ()) -> list[str]:
    """The command that serves `model` on the CPU; `python`: options of the interpreter."""
    serve = [sys.executable, *python, "-c", "from app.cli import main; main()", "serve", "--runtime", "cpu"]
    return [*serve, "--port", str(port), "--model", str(model), "--log-level", "warning", *options]


class Server:
    """A command that serves HTTP on `port`, until the end of the `with` block."""

    def __init__(self, command: Sequence[str], port: int, *, ready: str = "/readyz") -> None:
        self.port = port
        self._ready = ready
        self._command = command
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self.began = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, env=environment(), start_new_session=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, path: str | None = None) -> float:
        """Seconds from the start of the process until `path` answered 200, asked every 2 ms.

        Raises BenchmarkError if the process ends, or takes two minutes.
        """
        message = f"GET {path or self._ready} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        while time.perf_counter() - self.began < START_SECONDS:
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self._command} ended with status {self._process.returncode}: {self.log()}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    connection.sendall(message)
                    if connection.recv(64).startswith(b"HTTP/1.1 200"):
                        return time.perf_counter() - self.began
            except OSError:
                pass  # not yet
            time.sleep(0.002)
        raise BenchmarkError(f"{self._command} was not ready after {START_SECONDS:.0f} seconds: {self.log()}")

    def pause(self) -> None:
        """Let it stand still, so that it takes nothing from the one that is measured."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """What its processes have used so far."""
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if int(fields[2]) == self.pid:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def thread_seconds(self) -> dict[str, tuple[float, float]]:
        """What each thread of its first process has used so far, in its own code and in system calls."""
        used = {}
        for path in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            head, _, rest = path.read_text(encoding="utf-8", errors="replace").rpartition(")")
            user, system = (int(field) / os.sysconf("SC_CLK_TCK") for field in rest.split()[11:13])
            name = head.partition("(")[2]
            used["event loop" if path.parent.name == str(self.pid) else f"{name} {path.parent.name}"] = user, system
        return used

    def resident_bytes(self) -> int:
        """The memory that its first process holds. Raises BenchmarkError where there is no /proc."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )
        except OSError as error:
            raise BenchmarkError(f"memory is read from /proc, which is not there: {error}") from error

    def log(self) -> str:
        """The end of what it wrote."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-3000:].strip()

    def output(self) -> str:
        """All that it wrote."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self._process.poll() is None:
            self.resume()
            os.killpg(self.pid, signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what its first process may have left behind

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()
