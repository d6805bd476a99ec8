"""The engine benchmark: words/s and ms a step of every runtime, of its bare graphs, and of other frameworks."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks import models, report
from tests.benchmarks.harness import MissingError, Worker, interleaved, median, paired_ratio

#: Contenders by the names of `tests.benchmarks.steps`, and what the report calls them.
CONTENDERS = {
    "cpu": "**cpu (int8)**",
    "engine": "cpu (int8) in the service's engine",
    "cpu-graphs": "limit: its bare graphs",
    "cpu-float32": "**cpu-float32**",
    "cpu-float32-graphs": "limit: its bare graphs",
    "chainer": "**chainer (the reference)**",
    "chainer-by-hand": "Chainer, top 10 by argpartition",
    "numpy": "NumPy by hand",
    "torch": "PyTorch, `nn.LSTM`",
}
BATCHES = (1, 8, 32, 128)
LIMITS = {"cpu": "cpu-graphs", "cpu-float32": "cpu-float32-graphs", "engine": "cpu-graphs"}
_OTHERS = ("chainer", "chainer-by-hand", "numpy", "torch")

#: Seconds a step by contender and batch, one a round.
Taken = dict[str, dict[int, list[float]]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds, seconds and steps a turn at least."""

    rounds: int = 6
    seconds: float = 0.15
    steps: int = 2


QUICK = Effort(rounds=2, seconds=0.02, steps=1)


def measure(model: Path, threads: int, effort: Effort) -> tuple[Taken, dict[str, str]]:
    """Seconds a step, and why contenders that are absent from it are missing."""
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker("tests.benchmarks.steps", name, str(model), str(threads), threads=threads))
            for name in CONTENDERS
        }
        for name, worker in list(workers.items()):
            try:
                worker.ready()
            except MissingError as error:
                missing[name] = str(error)
                del workers[name]

        def turn(worker: Worker, batch: int) -> float:
            taken: float = worker.ask(batch=batch, seconds=effort.seconds, least=effort.steps)["seconds"]
            return taken

        taken: Taken = {name: {} for name in workers}
        for batch in BATCHES:
            turns = {name: partial(turn, worker, batch) for name, worker in workers.items()}
            for name, seconds in interleaved(turns, effort.rounds).items():
                taken[name][batch] = seconds
    return taken, missing


def shares(taken: Taken) -> str:
    """How much of the bare graphs' words/s each runtime reaches, and how many times those of the others."""
    rows = []
    for runtime, limit in LIMITS.items():
        cells = [report.number(paired_ratio(taken[limit][batch], taken[runtime][batch])) for batch in BATCHES]
        rows.append([f"{CONTENDERS[runtime].strip('*')} / its bare graphs", *cells])
    for other in _OTHERS:
        if other in taken:
            cells = [report.number(paired_ratio(taken[other][batch], taken["cpu"][batch])) for batch in BATCHES]
            rows.append([f"cpu (int8) / {CONTENDERS[other].strip('*')}", *cells])
    return report.table(["words/s, ratios", *(f"B={batch}" for batch in BATCHES)], rows)


def figures(taken: Taken, missing: Mapping[str, str]) -> str:
    """Milliseconds a step and words/s of every contender."""
    rows = []
    for name, title in CONTENDERS.items():
        if name in missing:
            rows.append([title, *[f"not measured: {missing[name]}"], *[""] * (len(BATCHES) - 1)])
        elif name in taken:
            cells = []
            for batch in BATCHES:
                step = median(taken[name][batch])
                cells.append(f"{report.number(1000 * step)} ({batch / step:,.0f})")
            rows.append([title, *cells])
    return report.table(["milliseconds a step (words/s)", *(f"B={batch}" for batch in BATCHES)], rows)


def aims(shape: str, taken: Taken) -> list[report.Aim]:
    """What was aimed at, for one of the shapes "shipped" and "large"."""
    found = []
    for runtime, limit in LIMITS.items():
        for batch in (32, 128):
            share = paired_ratio(taken[limit][batch], taken[runtime][batch])
            title = CONTENDERS[runtime].strip("*")
            found.append(report.Aim(f"{title}, share of the bare graphs' words/s at {batch}", share, 0.9))
    if shape == "large":
        times = paired_ratio(taken[faster_chainer(taken)][1], taken["cpu"][1])
        found.append(report.Aim("cpu, words/s at batch 1 over Chainer's (the faster of both)", times, 15))
    return found


def faster_chainer(taken: Taken) -> str:
    """Which of both is at batch 1."""
    return min(("chainer", "chainer-by-hand"), key=lambda name: median(taken[name][1]))


def reading(parameters: int, taken: Taken) -> str:
    """How fast weights are read at batch 1, where nothing else takes long: memory decides what is possible."""
    rates = []
    for name, bytes_each in (("cpu", 1), ("cpu-float32", 4), (faster_chainer(taken), 4)):
        rate = parameters * bytes_each / median(taken[name][1]) / 1e9
        rates.append(f"{CONTENDERS[name].strip('*')} {report.number(rate)} GB/s")
    return (
        f"At batch 1 every weight is read once a step, {parameters / 1e6:.0f} MB in int8 and four times as much in "
        f"float32: {', '.join(rates)}. Between two that read as fast as the memory allows there is a factor of four."
    )


def run(command: str, *, quick: bool, model: Path | None, threads: Sequence[int]) -> str:
    """Measure, and write the section."""
    parts = ["## The engine: one step of a batch\n", report.circumstances(command)]
    parts.append(
        "\nA step: every sequence of the batch consumes a word and gets its ten likeliest next words with their "
        "log-probabilities. Bare graphs: the runtime's two, run by nothing but a loop. Each contender has a process of "
        "its own and is held to the threads given; words are drawn at random."
    )
    effort = QUICK if quick else Effort()
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        shapes = {"shipped": models.shipped(Path(directory), model), "large": models.large(Path(directory))}
        for shape, measured in shapes.items():
            for count in threads:
                taken, missing = measure(measured.path, count, effort)
                parts.append(f"\n### {measured.description}; {count} thread{'s' if count > 1 else ''}\n")
                parts += [aim.line() for aim in aims(shape, taken)]
                parts += ["", reading(measured.parameters, taken)]
                parts += ["", shares(taken), "", figures(taken, missing)]
    return "\n".join(parts)
