"""The start benchmark: from the start of the process until it answers, and what it imports on the way."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from tests.benchmarks import models, report
from tests.benchmarks.harness import BenchmarkError, median
from tests.benchmarks.servers import Server, free_port, nextword

STARTS = 5
#: What serving must not import: it would not start without them.
FORBIDDEN = ("chainer", "torch", "cupy", "matplotlib")
ROWS = 12

_IMPORTED = re.compile(r"^import time: +(\d+) \| +(\d+) \| ( *)([\w.]+)$", re.MULTILINE)


def imports(trace: str) -> list[tuple[str, int, int]]:
    """Of `python -X importtime`: each module's name, how deep it is nested, microseconds with what it imports."""
    return [(name, len(indent) // 2, int(whole)) for _, whole, indent, name in _IMPORTED.findall(trace)]


def _traced(path: Path) -> list[tuple[str, int, int]]:
    port = free_port()
    with Server(nextword(port, path, python=["-X", "importtime"]), port) as server:
        server.wait_ready()
        server.stop()
        modules = imports(server.output())
    if not modules:
        raise BenchmarkError("python -X importtime wrote nothing")
    return modules


def run(command: str, *, quick: bool, model: Path | None) -> str:
    """Measure, and write the section."""
    where = report.circumstances(command)
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        chosen = models.shipped(Path(directory), model)
        alive, ready, cpu = [], [], []
        for _ in range(1 if quick else STARTS):
            port = free_port()
            with Server(nextword(port, chosen.path), port) as server:
                alive.append(server.wait_ready("/livez"))
                ready.append(server.wait_ready())
                cpu.append(server.cpu_seconds())
        modules = _traced(chosen.path)
    loaded = sorted({name for name, _, _ in modules} & set(FORBIDDEN))
    packages = [(name, whole) for name, _, whole in modules if "." not in name or name.startswith(("app.", "model."))]
    slowest = sorted(packages, key=lambda package: -package[1])[:ROWS]
    total = sum(whole for _, depth, whole in modules if depth == 0)
    aims = [
        report.Aim("ready after", median(ready), 2, least=False, unit=" s"),
        report.Aim(f"modules imported of {', '.join(FORBIDDEN)}", len(loaded), 0, least=False),
    ]
    rows = [[f"`{name}`", f"{microseconds / 1000:,.0f}"] for name, microseconds in slowest]
    return "\n".join(
        [
            "## Start\n",
            where,
            f"- {chosen.description}",
            f"\nFrom the start of the process, its files in the page cache, until /readyz answered 200; {len(ready)} "
            "starts.\n",
            *(aim.line() for aim in aims),
            f"\nEach: {', '.join(f'{seconds:.2f}' for seconds in ready)} s. /livez answered after {median(alive):.2f} "
            f"s, and until ready {median(cpu):.2f} s of CPU were used (medians). Imports took {total / 1e6:.2f} s of a "
            "start under `-X importtime`, which slows them:\n",
            report.table(["import, with what it imports", "ms"], rows),
        ]
    )
