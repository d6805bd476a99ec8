"""The soak: a crowd at 80 % of what the service can do, for ten minutes, and what is left of both afterwards."""

from __future__ import annotations

import http.client
import re
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from model.artifact import Artifact
from tests.benchmarks import models, report
from tests.benchmarks.harness import Answer, BenchmarkError, Worker
from tests.benchmarks.servers import Server, free_port, nextword

#: So long a soak is; a shorter one is a try, and is not written down.
SECONDS = 600.0
LOAD = 0.8

#: Memory is compared between the first and the last of the seconds that count, this part of them each.
COMPARED = 0.1
#: What is allocated at first use, and histories that fill up to their limit, come before that.
WARM_UP = 0.1


class Soaked(NamedTuple):
    """What came of it. Memory in bytes, a sample a second."""

    capacity: float
    crowd: Answer
    memory: Sequence[int]
    metrics: dict[str, float]

    @property
    def compared(self) -> tuple[float, float, int]:
        """Memory at first and at last, means, and the most there was."""
        counted = self.memory[int(len(self.memory) * WARM_UP) :]
        some = max(1, int(len(counted) * COMPARED))
        return fmean(counted[:some]), fmean(counted[-some:]), max(counted)

    @property
    def drift(self) -> float:
        first, last, _ = self.compared
        return abs(last / first - 1)


def soak(path: Path, seconds: float) -> Soaked:
    """Find out what the service can do, then have the crowd stay for `seconds`. Raises BenchmarkError."""
    words = models.common_words(Artifact.load(path), 500)
    with ExitStack() as stack:
        port = free_port()
        server = stack.enter_context(Server(nextword(port, path, "--no-access-log"), port))
        crowd = stack.enter_context(Worker("tests.benchmarks.crowd"))
        crowd.ready()
        server.wait_ready()
        bar = stack.enter_context(
            Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        )
        thread = stack.enter_context(ThreadPoolExecutor(1))

        def stay(what: str, length: float, rate: float | None) -> tuple[Answer, list[int]]:
            found = thread.submit(crowd.ask, port=port, words=words, seconds=length, rate=rate, seed=1)
            task, memory, began = bar.add_task(what, total=length), [], time.monotonic()
            while not found.done():
                time.sleep(1)
                if (passed := time.monotonic() - began) < length:
                    memory.append(server.resident_bytes())
                bar.update(task, completed=passed)
            return found.result(), memory

        trial = max(3.0, min(15.0, seconds / 10))
        alone, _ = stay("typists alone", trial, None)
        # What a leaver or a slow reader asks for takes more than a typist's word: as much as typists can have is more
        # than the whole crowd can.
        crowded, _ = stay("all, as fast as it can", trial, _work(alone))
        capacity = _work(crowded)
        staying, memory = stay(f"at {LOAD:.0%} of {capacity:,.0f} requests/s", seconds, LOAD * capacity)
        if not memory:
            raise BenchmarkError("too short: memory is looked at once a second")
        return Soaked(capacity, staying, memory, scraped(port))


def _work(answer: Answer) -> float:
    """Requests and generated words a second."""
    counts = answer["counts"]
    return float((counts["requests"] + counts.get("words", 0)) / answer["seconds"])


def scraped(port: int) -> dict[str, float]:
    """What /metrics says, labels and all; and that the service is ready."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise BenchmarkError(f"afterwards /readyz answers {response.status}")
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    return {name: float(value) for name, value in re.findall(r"^(nextword_\S+) (\S+)$", page, re.MULTILINE)}


def _failures(metrics: dict[str, float]) -> float:
    """Answers 5xx; not those of /readyz, which is asked before there is a model."""
    failed = re.compile(r'nextword_http_requests_total\{(?!.*route="/readyz").*status="5\d\d"')
    return sum(value for name, value in metrics.items() if failed.match(name))


def run(command: str, *, model: Path | None, seconds: float) -> str:
    """Soak, and write the section."""
    where = report.circumstances(command)
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        chosen = models.shipped(Path(directory), model)
        found = soak(chosen.path, seconds)
    crowd, metrics = found.crowd, found.metrics
    counts = crowd["counts"]
    memory = " / ".join(f"{value / 2**20:.1f}" for value in found.compared)
    work = _work(crowd)
    wrong = sum(crowd["wrong"].values())
    aims = [
        report.Aim("memory at the end against the beginning, apart", 100 * found.drift, 5, least=False, unit=" %"),
        report.Aim(f"sessions lost, of {crowd['sessions']} looked at word by word", crowd["lost"], 0, least=False),
        report.Aim("answers against the contract", wrong, 0, least=False),
        report.Aim("answers 5xx, by the service's own count", _failures(metrics), 0, least=False),
        report.Aim(
            "requests in hand when all had gone",
            metrics["nextword_num_requests_running"] + metrics["nextword_num_requests_waiting"],
            0,
            least=False,
        ),
        report.Aim("load, of what it can do", work / found.capacity, 0.75),
    ]
    rows = [
        ["requests", f"{counts['requests']:,}"],
        ["words generated", f"{counts.get('words', 0):,}"],
        ["of the requests: sent twice, as if the answer had been lost", f"{counts.get('retries', 0):,}"],
        ["clients that left before their answer or in mid-stream, and asked again", f"{counts.get('left', 0):,}"],
        ["streams read 512 bytes at a time", f"{counts.get('slow', 0):,}"],
        ["malformed", f"{counts.get('malformed', 0):,}"],
        ["sessions opened, forked, rewound, deleted", f"{counts.get('opened', 0):,}"],
        ["requests and generated words/s that it can do", f"{found.capacity:,.0f}"],
        ["requests and generated words/s in the soak", f"{work:,.0f}"],
        ["one word, p50 / p99, ms", f"{1000 * crowd['p50']:.2f} / {1000 * crowd['p99']:.2f}"],
        ["memory at first / at last / at most, MiB", memory],
        ["the crowd's own cores", report.number(crowd["cpu"])],
    ]
    parts = [
        f"## A soak of {seconds:,.0f} seconds\n",
        where,
        f"- {chosen.description}",
        f"\nA crowd in another process on the same cores, at {LOAD:.0%} of what it reaches at most: typists, clients "
        "that leave, slow readers, openers, and some that send nonsense. What the contract says of each answer is "
        "checked at every step, and at the end where each session stands, its last 256 words included. Memory is the "
        f"resident set, sampled each second; the first {WARM_UP:.0%} do not count.\n",
        *(aim.line() for aim in aims),
        f"\n{report.table(['', 'figure'], rows)}",
    ]
    if crowd["wrong"]:
        parts.append("\n**Against the contract**: " + "; ".join(f"{what} ({n})" for what, n in crowd["wrong"].items()))
    return "\n".join(parts)
