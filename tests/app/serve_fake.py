"""`nextword serve` with the fake runtime, in a process of its own: `python -m tests.app.serve_fake ARGUMENTS`.

SIGUSR1 closes the gate that every step goes through, SIGUSR2 opens it.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import model.runtimes
from app.cli import application
from tests.app.fake_runtime import FakeRuntime


def main() -> None:
    runtime = FakeRuntime()

    def load(*_: Any, **__: Any) -> FakeRuntime:
        return runtime

    model.runtimes.load = load  # type: ignore[assignment]
    signal.signal(signal.SIGUSR1, lambda *_: runtime.gate.clear())
    signal.signal(signal.SIGUSR2, lambda *_: runtime.gate.set())
    arguments = ["serve", *sys.argv[1:]]
    application(arguments)(arguments)


if __name__ == "__main__":
    main()
