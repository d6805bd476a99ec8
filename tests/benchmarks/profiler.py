"""Where the server's time goes under load: the CPU of its threads, and what py-spy sees 250 times a second."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from model.artifact import Artifact
from tests.benchmarks import models, report
from tests.benchmarks.harness import BenchmarkError, Worker
from tests.benchmarks.servers import Server, free_port, nextword

SESSIONS = 64
SECONDS = 6
ROWS = 30

_LINE = re.compile(r":\d+\)$")


def section(path: Path) -> str:
    """Markdown: shares of the samples, by function, its own and with all that it calls. Raises BenchmarkError."""
    spy = shutil.which("py-spy")
    if spy is None:
        raise BenchmarkError("--profile needs py-spy (pip install py-spy)")
    words = models.common_words(Artifact.load(path), 50)
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as directory,
        Worker("tests.benchmarks.load") as load,
        Server(nextword(port, path, "--no-access-log"), port) as server,
    ):
        load.ready()
        server.wait_ready()
        stacks = Path(directory) / "stacks"
        record = [spy, "record", "--pid", str(server.pid), "--duration", str(SECONDS), "--rate", "250", "--gil"]
        watching = subprocess.Popen(
            [*record, "--format", "raw", "--output", str(stacks)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        # A little longer than it is watched, for py-spy needs a moment to begin.
        question = {"connections": SESSIONS, "words": words, "positions": False, "counts": True}
        before = server.thread_seconds()
        answer = load.ask(port=port, warm_up=0.5, seconds=SECONDS + 2, **question)
        after = server.thread_seconds()
        _, errors = watching.communicate()
        if not stacks.exists():
            raise BenchmarkError(f"py-spy gave nothing: {errors.strip()[-300:]}")
        found = shares(stacks.read_text(encoding="utf-8"))
    rows = []
    for name, (user, system) in after.items():
        user_before, system_before = before.get(name, (0.0, 0.0))
        costs = [1e6 * (user - user_before) / answer["replies"], 1e6 * (system - system_before) / answer["replies"]]
        if sum(costs) >= 1:
            rows.append([name, *(f"{cost:,.0f}" for cost in costs)])
    threads = report.table(["CPU of each thread, µs a request", "user", "system"], rows)
    return (
        f"### Where the time goes at {SESSIONS} sessions\n\n{threads}\n\nSamples are of the thread that holds the "
        f"interpreter's lock: ONNX Runtime leaves it to others while it computes.\n\n{found}"
    )


def shares(stacks: str) -> str:
    """Tables from py-spy's raw format: a line a stack, its frames from the outermost in, and how often it was seen."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_LINE.sub(")", frame) for frame in stack.split(";")]
        seen = int(count)
        total += seen
        own[frames[-1]] += seen
        for frame in set(frames):
            whole[frame] += seen
    if not total:
        raise BenchmarkError("py-spy saw nothing at work")
    # The frames that every stack begins with say nothing.
    within = [(name, seen) for name, seen in whole.most_common() if seen < 0.9 * total]
    head = ["share of the samples", "%"]
    return "\n\n".join(
        report.table([f"{head[0]}, {title}", head[1]], [[f"`{name}`", f"{100 * n / total:.1f}"] for name, n in top])
        for title, top in (("with what it calls", within[:ROWS]), ("itself", own.most_common(ROWS)))
    )
