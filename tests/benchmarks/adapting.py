"""What adapting costs: the engine's step for sessions with full caches, beside the same for sessions without."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from model.adaptation import Adaptation
from tests.benchmarks import models, report
from tests.benchmarks.engine import QUICK, Effort
from tests.benchmarks.harness import Worker, interleaved, median, paired_ratio

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
    return "\n".join(parts)
