"""Contenders measured side by side: in turns, A B C A B C, and compared turn by turn, for machines are noisy."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

T = TypeVar("T")

Answer = dict[str, Any]


class BenchmarkError(RuntimeError):
    """Something that has to work for a figure to mean anything did not; one line."""


class MissingError(RuntimeError):
    """A peer that is not installed here: its row says so, and the others are measured."""


def interleaved(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each contender gives in each round; all of them take a turn before any takes its next one."""
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            results[name].append(measure())
    return results


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle. Raises ValueError for none."""
    if not values:
        raise ValueError("there is no median of nothing")
    return statistics.median(values)


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what slows a whole round down cancels out. Over nothing it is infinite.

    Raises ValueError for lists of different lengths.
    """
    return median([a / b if b else math.inf for a, b in zip(over, under, strict=True)])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the ascending values that at least `percent` of them do not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def environment(threads: int | None = None) -> dict[str, str]:
    """This process's environment for a contender, with as many threads for its matrix products as it is allowed.

    What overrides the kernels that OpenBLAS would choose for this CPU is left out.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "NEXTWORD_"))}
    return kept if threads is None else kept | dict.fromkeys(names, str(threads))


class Worker:
    """A module of ours that runs in a process of its own and answers questions, one JSON line for one JSON line.

    The process says `{}` when it is ready, or `{"missing": WHY}`. Between questions it sleeps.
    """

    def __init__(self, module: str, *arguments: str, threads: int | None = None) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(threads),
            text=True,
        )

    def ready(self) -> None:
        """Wait until it is. Raises MissingError, BenchmarkError."""
        answer = self._read()
        if "missing" in answer:
            self.close()
            raise MissingError(answer["missing"])

    def ask(self, **question: Any) -> Answer:
        """Raises BenchmarkError if the process has ended."""
        if self._process.stdin is None:
            raise BenchmarkError(f"{self._module} cannot be asked")
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_read` says why
        return self._read()

    def close(self) -> None:
        """End it: a worker that reads the end of its input stops."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Answer:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise BenchmarkError(f"{self._module} ended with status {self._process.wait()}; what it wrote stands above")
        answer: Answer = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer_questions(prepare: Callable[[], Callable[..., Answer]]) -> None:
    """The other side of `Worker`: `prepare` gives what answers the questions, or raises MissingError."""
    # Libraries that print must not speak in between: the pipe is ours, and what they say goes to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(answer: Answer) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    try:
        answer = prepare()
    except MissingError as error:
        reply({"missing": str(error)})
        return
    reply({})
    for line in sys.stdin:
        reply(answer(**json.loads(line)))
