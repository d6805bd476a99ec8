"""The GPU benchmark: ceilings, serving steps and training beside PyTorch, agreement. Written a part at a time.

It ends within eight minutes, and what it has found so far is in the file whenever it is stopped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.artifact import Artifact
from model.shapes import parameter_shapes, state_tensors
from tests.benchmarks import models, report
from tests.benchmarks.harness import BenchmarkError, MissingError, Worker, interleaved, median, paired_ratio

BATCHES = tuple(1 << power for power in range(13))
PACKAGES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "chainer", "torch")
OURS, THEIRS = "cuda", "torch"
#: Texts that runtimes are compared on.
STREAMS = 64


@dataclass(frozen=True, slots=True)
class Effort:
    batches: Sequence[int] = BATCHES
    rounds: int = 3
    step_seconds: float = 0.25
    training_seconds: float = 5.0
    text: int = 150


QUICK = Effort(batches=(1, 64, 4096), rounds=1, step_seconds=0.1, training_seconds=1.0, text=20)


@dataclass(frozen=True, slots=True)
class Floor:
    """What a step of B sequences cannot be quicker than, counted: each weight is read once or multiplied at the full
    rate, logits are written and read once, states are read and written."""

    products: int  # multiplications of one sequence's step
    state: int  # values of a state
    vocabulary: int
    ceilings: dict[str, Any]

    @classmethod
    def of(cls, network: dict[str, Any], ceilings: dict[str, Any]) -> Floor:
        shapes = parameter_shapes(network)
        matrices = sum(
            int(np.prod(shape)) for shape in shapes.values() if len(shape) == 2
        )  # the tied one is multiplied
        return cls(matrices, sum(t.size for t in state_tensors(network)), network["vocabulary_size"], ceilings)

    def seconds(self, batch: int) -> float:
        bandwidth, rate = self.ceilings["bandwidth"], self.ceilings["float16"]
        product = max(2 * self.products / bandwidth, 2 * self.products * batch / rate)
        return float(product + 2 * 4 * batch * (self.vocabulary + self.state) / bandwidth)


def run(
    command: str, *, quick: bool, model: Path | None, data: Path | None, write: Callable[[str], None] | None
) -> str:
    """Measure; `write` is given the section each time there is more of it.

    data: a text to compare runtimes on; without one, one is drawn from the model. Raises BenchmarkError for one that is
    too short.
    """
    effort = QUICK if quick else Effort()
    parts = ["## A GPU\n", report.circumstances(command, PACKAGES)]

    def add(*lines: str) -> None:
        parts.extend(lines)
        if write is not None:
            write("\n".join(parts))

    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        large, shipped = models.large(Path(directory)), models.shipped(Path(directory), model)
        given = None if data is None else _words(data, Artifact.load(shipped.path), effort)
        ceilings = _ask_once("ceilings", large.path)
        add(
            f"- {ceilings['name']}. Ceilings, measured here: products of random 8192 x 8192 float16 matrices "
            f"{ceilings['float16'] / 1e12:,.0f} TFLOP/s, TF32 {ceilings['tf32'] / 1e12:,.0f}, float32 (4096) "
            f"{ceilings['float32'] / 1e12:,.0f}; a copy of 2 GiB {ceilings['bandwidth'] / 1e12:.2f} TB/s, read and "
            f"written; one small recorded kernel, launched and waited for, {ceilings['launch'] * 1e6:.1f} us.",
            "\nEach contender is a process of its own; they take turns. PyTorch's step is cuDNN's LSTM, a product and "
            "topk in float16 in a CUDA graph, states kept in place; ours also goes from slot to slot and has the "
            "entropy and one more word's log-probability. A step is timed from words on the host to words on the host.",
        )
        for measured, is_large in ((large, True), (shipped, False)):
            add(*_serving(measured, ceilings, effort, is_large=is_large))
        add(*_training(large, effort))
        add(*_agreement(shipped, effort, data, given))
    return "\n".join(parts)


def _ask_once(name: str, path: Path, **question: Any) -> dict[str, Any]:
    with Worker("tests.benchmarks.gpu_steps", name, str(path)) as worker:
        worker.ready()
        return worker.ask(**question)


def _contenders(stack: ExitStack, module: str, names: Sequence[str], path: Path) -> tuple[dict[str, Worker], list[str]]:
    """Those that are ready, and lines that say why others are not."""
    workers = {name: stack.enter_context(Worker(module, name, str(path))) for name in names}
    ready, missing = {}, []
    for name, worker in workers.items():
        try:
            worker.ready()
            ready[name] = worker
        except (MissingError, BenchmarkError) as error:
            if name not in (THEIRS,):
                raise
            missing.append(f"\nNo PyTorch: {error}.")
    return ready, missing


def _serving(measured: models.Measured, ceilings: dict[str, Any], effort: Effort, *, is_large: bool) -> list[str]:
    floor = Floor.of(Artifact.load(measured.path).network, ceilings)
    rows, speeds, ratios = [], {}, []
    with ExitStack() as stack:
        workers, missing = _contenders(stack, "tests.benchmarks.gpu_steps", (OURS, THEIRS), measured.path)
        for batch in effort.batches:
            try:
                taken = _steps(workers, batch, effort)
            except BenchmarkError as error:
                if THEIRS not in workers:
                    raise
                # A peer that cannot go on does not end the measuring of ours.
                missing.append(f"\nPyTorch stopped at batch {batch}: {error}.")
                del workers[THEIRS]
                taken = _steps(workers, batch, effort)
            ours = median(taken[OURS])
            speeds[batch] = batch / ours
            row = [f"{batch:,}", f"{ours * 1e6:,.1f}", report.number(batch / ours)]
            row += [f"{floor.seconds(batch) * 1e6:,.1f}", f"{floor.seconds(batch) / ours:.2f}"]
            if THEIRS in taken:
                ratios.append(paired_ratio(taken[THEIRS], taken[OURS]))
                row += [f"{median(taken[THEIRS]) * 1e6:,.1f}", f"{ratios[-1]:.2f}"]
            rows.append([*row, *[""] * (7 - len(row))])
    aims = []
    if is_large and effort.batches[-1] in speeds:
        aims.append(report.Aim("words a second at batch 4096", speeds[effort.batches[-1]], 4_000_000))
        aims.append(report.Aim("a step at batch 1", 1e6 / speeds[1], 100, least=False, unit=" us"))
    aims.append(report.Aim("PyTorch's step over ours, the least of all batches", min(ratios, default=None), 1.5))
    head = ["batch", "us a step", "words/s", "floor, us", "floor / step", "PyTorch, us", "PyTorch / ours"]
    return [f"\n### {measured.description}\n", *(aim.line() for aim in aims), "", report.table(head, rows), *missing]


def _steps(workers: dict[str, Worker], batch: int, effort: Effort) -> dict[str, list[float]]:
    def asked(worker: Worker) -> Callable[[], float]:
        return lambda: float(worker.ask(batch=batch, seconds=effort.step_seconds)["seconds"])

    return interleaved({name: asked(worker) for name, worker in workers.items()}, effort.rounds)


def _training(measured: models.Measured, effort: Effort) -> list[str]:
    rows, aims = [], []
    with ExitStack() as stack:
        workers, missing = _contenders(stack, "tests.benchmarks.gpu_training", ("nextword", THEIRS), measured.path)
        for tf32 in (False, True):
            asked = {
                name: lambda worker=worker, tf32=tf32: worker.ask(seconds=effort.training_seconds, tf32=tf32)["speed"]
                for name, worker in workers.items()
            }
            speeds = interleaved(asked, effort.rounds)
            ours = median(speeds["nextword"])
            ratio = paired_ratio(speeds["nextword"], speeds[THEIRS]) if THEIRS in speeds else None
            cells = [report.number(ours), report.number(median(speeds[THEIRS])) if ratio is not None else "-"]
            rows.append(["TF32" if tf32 else "float32", *cells, "-" if ratio is None else f"{ratio:.2f}"])
            if tf32:
                aims = [
                    report.Aim("words a second in training, TF32", ours, 200_000),
                    report.Aim("times PyTorch's words a second, TF32", ratio, 1.0),
                ]
    return [
        f"\n### Training: {measured.description}\n",
        "80 streams, windows of 70, SGD, gradients clipped, the loss over all words, no dropout.\n",
        *(aim.line() for aim in aims),
        "",
        report.table(["products", "words/s", "PyTorch, words/s", "ours / PyTorch"], rows),
        *missing,
    ]


def _words(data: Path, artifact: Artifact, effort: Effort) -> list[list[int]]:
    """The first words of a text, in `STREAMS` pieces that are read side by side: a word of each at a time."""
    with data.open(encoding="utf-8", errors="replace") as file:
        text = file.read(STREAMS * effort.text * 40)  # a few more than are wanted, whatever the words are
    ids = artifact.tokenizer.encode(text).ids[: STREAMS * effort.text]
    if len(ids) < STREAMS:
        raise BenchmarkError(f"{data} has {len(ids)} words; {STREAMS} are the least to compare runtimes on")
    each = len(ids) // STREAMS
    words: list[list[int]] = ids[: each * STREAMS].reshape(STREAMS, each).T.tolist()
    return words


def _agreement(
    measured: models.Measured, effort: Effort, data: Path | None, given: list[list[int]] | None
) -> list[str]:
    count = effort.text if given is None else len(given)
    found = _ask_once("agreement", measured.path, streams=STREAMS, words=count, given=given)
    origin = "drawn from the model" if data is None else f"the beginning of {data.name}"
    reference = found["chainer"][1]
    rows = [
        [name, f"{largest:.1e}", f"{perplexity:.4f}", f"{100 * (perplexity / reference - 1):+.4f} %"]
        for name, (largest, perplexity) in found.items()
    ]
    change = 100 * abs(found[OURS][1] / reference - 1)
    aims = (
        report.Aim("float32: the largest difference in log-probability", found["cuda-float32"][0], 1e-4, least=False),
        report.Aim("float16: the largest difference in log-probability", found[OURS][0], 1e-2, least=False),
        report.Aim("float16: perplexity moves by", change, 0.2, least=False, unit=" %"),
    )
    return [
        f"\n### Agreement with Chainer: {measured.description}\n",
        f"{STREAMS} texts of {count} words, {origin}; whole rows of log-probabilities are compared.\n",
        *(aim.line() for aim in aims),
        "",
        report.table(["runtime", "largest difference", "perplexity", "of the reference's"], rows),
    ]
