"""What adapting costs: the engine's step, and words over HTTP, for sessions with full caches, beside the same for
sessions without."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from model.adaptation import Adaptation
from model.artifact import Artifact
from tests.benchmarks import models, report
from tests.benchmarks.engine import QUICK, Effort
from tests.benchmarks.harness import Answer, Worker, interleaved, median, paired_ratio
from tests.benchmarks.servers import Server, free_port, nextword

CONTENDERS = ("engine", "engine-adapting")
BATCHES = (1, 8, 64, 128)
#: The batch that the aim is for.
AIMED_AT = 64
_EFFORT = Effort(rounds=9, seconds=0.15, steps=3)


def measure(model: Path, threads: int, effort: Effort) -> dict[str, dict[int, list[float]]]:
    """Seconds a step by contender and batch, one a round."""
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker("tests.benchmarks.steps", name, str(model), str(threads), threads=threads))
            for name in CONTENDERS
        }
        for worker in workers.values():
            worker.ready()

        def turn(worker: Worker, batch: int) -> float:
            taken: float = worker.ask(batch=batch, seconds=effort.seconds, least=effort.steps)["seconds"]
            return taken

        taken: dict[str, dict[int, list[float]]] = {name: {} for name in workers}
        for batch in BATCHES:
            turns = {name: partial(turn, worker, batch) for name, worker in workers.items()}
            for name, seconds in interleaved(turns, effort.rounds).items():
                taken[name][batch] = seconds
    return taken


def over_http(path: Path, *, quick: bool) -> dict[str, list[Answer]]:
    """What the load answered by contender, one a round: one-word predicts in sessions that are as long as the cache."""
    artifact, size = Artifact.load(path), Adaptation().size
    known = models.common_words(artifact, 20_000)
    chances = 1 / np.arange(1, len(known) + 1)
    words = np.random.default_rng(4).choice(known, size, p=chances / chances.sum()).tolist()
    with ExitStack() as stack:
        load = stack.enter_context(Worker("tests.benchmarks.load"))
        load.ready()
        servers = {}
        for name in CONTENDERS:
            port, adapt = free_port(), ("--adapt",) if name == CONTENDERS[1] else ()
            servers[name] = stack.enter_context(Server(nextword(port, path, "--no-access-log", *adapt), port))
            servers[name].wait_ready()
            servers[name].pause()

        def turn(server: Server) -> Answer:
            server.resume()
            answer = load.ask(
                port=server.port,
                connections=AIMED_AT,
                words=words,
                positions=False,
                counts=True,
                warm_up=0.1 if quick else 0.3,
                seconds=0.6 if quick else 1.5,
                before=size,
            )
            server.pause()
            return answer

        turns = {name: partial(turn, server) for name, server in servers.items()}
        return interleaved(turns, 1 if quick else _EFFORT.rounds)


def _over_http(path: Path, *, quick: bool) -> list[str]:
    """The part of the section."""
    measured = over_http(path, quick=quick)
    plain, adapting = (measured[name] for name in CONTENDERS)
    seconds = [[1 / answer["per_second"] for answer in answers] for answers in (adapting, plain)]
    errors = sum(answer["errors"] for answer in (*plain, *adapting))
    aims = [
        report.Aim(
            f"time of a word in {AIMED_AT} sessions that adapt, over one without",
            paired_ratio(*seconds),
            1.25,
            least=False,
        ),
        report.Aim("errors", errors, 0, least=False),
    ]
    rows = [
        [
            title,
            report.number(median([answer["per_second"] for answer in answers])),
            *(report.number(1000 * median([answer[which] for answer in answers])) for which in ("p50", "p99")),
        ]
        for title, answers in (("without", plain), ("adapting", adapting))
    ]
    return [
        f"\n### The whole service, over HTTP, {AIMED_AT} sessions\n",
        "`nextword serve` and `nextword serve --adapt`, threads as they come; each session has a connection, has "
        f"consumed {Adaptation().size} such words before and sends the next one when it has the reply.\n",
        "\n".join(aim.line() for aim in aims) + "\n",
        report.table([f"{AIMED_AT} sessions", "words/s", "p50, ms", "p99, ms"], rows),
    ]


def run(command: str, *, quick: bool, model: Path | None, threads: Sequence[int]) -> str:
    """Measure, and write the section."""
    size = Adaptation().size
    parts = ["## Sessions that adapt\n", report.circumstances(command)]
    parts.append(
        "\nA step of the service's engine (cpu, int8), as above: for sessions that do not adapt, and for sessions that "
        f"adapt to their last {size} words, which are as frequent as those of a language (the n-th with 1/n). "
        "Each contender has a process of its own; the ratio is that of the times."
    )
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        shapes = {"shipped": models.shipped(Path(directory), model), "large": models.large(Path(directory))}
        for shape, measured in shapes.items():
            for count in threads:
                taken = measure(measured.path, count, QUICK if quick else _EFFORT)
                plain, adapting = (taken[name] for name in CONTENDERS)
                ratios = {batch: paired_ratio(adapting[batch], plain[batch]) for batch in BATCHES}
                parts.append(f"\n### {measured.description}; {count} thread{'s' if count > 1 else ''}\n")
                if shape == "shipped":
                    text = f"time of a step of {AIMED_AT} sessions that adapt to {size} words, over one without"
                    parts.append(report.Aim(text, ratios[AIMED_AT], 1.25, least=False).line() + "\n")
                head = ["milliseconds a step", *(f"B={batch}" for batch in BATCHES)]
                rows = [
                    [title, *(report.number(1000 * median(seconds[batch])) for batch in BATCHES)]
                    for title, seconds in (("without", plain), ("adapting", adapting))
                ]
                rows.append(["ratio", *(report.number(ratios[batch]) for batch in BATCHES)])
                parts.append(report.table(head, rows))
        parts += _over_http(shapes["shipped"].path, quick=quick)
    return "\n".join(parts)
