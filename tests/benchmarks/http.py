"""The HTTP benchmark: one-word predicts over keep-alive connections, beside servers that do less or the same."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import model.runtimes
from model.artifact import Artifact
from tests.benchmarks import models, profiler, report
from tests.benchmarks.harness import Answer, BenchmarkError, Worker, interleaved, median, paired_ratio
from tests.benchmarks.servers import Server, free_port, nextword

SESSIONS = (1, 16, 64, 256)
AIMED_AT = 64

#: Rows of the report: what each is called.
OURS, POSITION, LOGGING = "ours", "position", "logging"
ECHO, TUTORIAL, LITSERVE = "echo", "tutorial", "litserve"
TITLES = {
    OURS: "**nextword serve**",
    POSITION: "**the same, each request with its `position`**",
    LOGGING: "**the same with its access log, as it comes**",
    ECHO: "(a) FastAPI that echoes and does nothing",
    TUTORIAL: "(b) Chainer and FastAPI with a lock",
    LITSERVE: "(c) LitServe, dynamic batching, PyTorch",
}
_OWN = (OURS, POSITION, LOGGING)
#: Differences in log-probability between an answer under load and the same session's alone.
_CLOSE = 1e-3

#: What each load answered, by row and by number of sessions, one a round.
Measured = dict[str, dict[int, list[Answer]]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds, seconds before a turn counts, seconds that count."""

    rounds: int = 5
    warm_up: float = 0.3
    seconds: float = 1.5


QUICK = Effort(rounds=1, warm_up=0.1, seconds=0.6)


def _start(name: str, path: Path) -> Server:
    port = free_port()
    peers, python = "tests.benchmarks.peers", sys.executable
    match name:
        case "ours":
            return Server(nextword(port, path, "--no-access-log"), port)
        case "logging":
            return Server(nextword(port, path, "--access-log"), port)
        case "echo":
            return Server([python, "-m", f"{peers}.echo", str(port)], port)
        case "tutorial":
            return Server([python, "-m", f"{peers}.tutorial", str(port), str(path)], port)
        case "litserve":
            return Server([python, "-m", f"{peers}.litserve_server", str(port), str(path)], port, ready="/health")
    raise ValueError(f"no server {name!r}")


def _missing(server: Server, error: BenchmarkError) -> str:
    """Why a peer cannot be measured, where it is not installed; else the error itself."""
    for line in server.output().splitlines():
        if line.startswith("ModuleNotFoundError"):
            return line.partition("'")[2].rstrip("'") + " is not installed"
    raise error


def measure(path: Path, effort: Effort) -> tuple[Measured, dict[str, str], dict[str, float]]:
    """What every load answered; why servers that are absent are missing; how far answers were from those alone."""
    artifact = Artifact.load(path)
    words = models.common_words(artifact, 50)
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        load = stack.enter_context(Worker("tests.benchmarks.load"))
        load.ready()
        servers = {}
        for name in (OURS, LOGGING, ECHO, TUTORIAL, LITSERVE):
            server = stack.enter_context(_start(name, path))
            try:
                server.wait_ready()
            except BenchmarkError as error:
                missing[name] = _missing(server, error)
                continue
            server.pause()
            servers[name] = server
        rows = {name: servers[OURS if name == POSITION else name] for name in TITLES if name not in missing}

        def turn(name: str, server: Server, sessions: int) -> Answer:
            server.resume()
            before = server.cpu_seconds()
            answer = load.ask(
                port=server.port,
                connections=sessions,
                words=words,
                positions=name == POSITION,
                counts=name != ECHO,
                warm_up=effort.warm_up,
                seconds=effort.seconds,
            )
            answer["server_cpu"] = (server.cpu_seconds() - before) / max(answer["replies"], 1)
            server.pause()
            return answer

        measured: Measured = {name: {} for name in rows}
        for sessions in SESSIONS:
            turns = {name: partial(turn, name, server, sessions) for name, server in rows.items()}
            for name, answers in interleaved(turns, effort.rounds).items():
                measured[name][sessions] = answers
    far = {}
    for name, by in measured.items():
        if name != ECHO:
            own = name in _OWN
            runtime = "cpu" if own else "cpu-float32"
            far[name] = distance_from_alone(artifact, runtime, words, by[AIMED_AT][-1], leaves_unknown_out=own)
    return measured, missing, far


def distance_from_alone(
    artifact: Artifact, runtime: str, words: list[str], answer: Answer, *, leaves_unknown_out: bool
) -> float:
    """The largest difference in log-probability between what one session was told and what it is told alone."""
    alone = model.runtimes.load(artifact, runtime)
    tokenizer = artifact.tokenizer
    ids = [tokenizer.id_of(word) for word in words]
    told = dict(answer["answers"])
    state = alone.zero_state(1)
    if artifact.start_id is not None:
        state = alone.advance(np.array([artifact.start_id]), state)
    largest = 0.0
    for count in range(1, max(told, default=0) + 1):
        state = alone.advance(np.array([ids[(count - 1) % len(ids)]], np.int64), state)
        if count in told:
            row = alone.log_probabilities(state[-1])[0]
            # Words that are about as likely may change places: each is held to its own value, the list to the best.
            values = np.array([value for _, value in told[count]])
            own = row[[tokenizer.id_of(word) for word, _ in told[count]]]
            # We leave <unk> out of the list, the peers do not.
            listed = np.delete(row, tokenizer.unknown_id) if leaves_unknown_out else row
            best = np.sort(listed)[::-1][: len(values)]
            largest = max(largest, np.abs(values - own).max(), np.abs(values - best).max())
    return float(largest)


def _rates(measured: Measured, name: str, sessions: int) -> list[float]:
    return [answer["per_second"] for answer in measured[name][sessions]]


def _milliseconds(measured: Measured, name: str, sessions: int, which: str) -> float:
    return 1000 * median([answer[which] for answer in measured[name][sessions]])


def aims(measured: Measured) -> list[report.Aim]:
    """What was aimed at, at 64 sessions."""
    found = []
    for other, least in ((ECHO, 0.6), (TUTORIAL, 20), (LITSERVE, 3)):
        ratio = None
        if other in measured:
            ratio = paired_ratio(_rates(measured, OURS, AIMED_AT), _rates(measured, other, AIMED_AT))
            if math.isinf(ratio):
                ratio = None  # it answered nothing in the time
        found.append(report.Aim(f"requests/s over {TITLES[other]}", ratio, least))
    p99 = _milliseconds(measured, OURS, AIMED_AT, "p99")
    errors = sum(answer["errors"] for row in _OWN for by in measured[row].values() for answer in by)
    found.append(report.Aim("p99", p99, 50, least=False, unit=" ms"))
    found.append(report.Aim("errors, at any number of sessions", errors, 0, least=False))
    return found


def ratios(measured: Measured) -> str:
    """Our requests/s over those of the others."""
    rows = []
    for row in _OWN:
        for other in (ECHO, TUTORIAL, LITSERVE):
            if other in measured and (row == OURS or other == ECHO):
                cells = [
                    report.number(paired_ratio(_rates(measured, row, count), _rates(measured, other, count)))
                    for count in SESSIONS
                ]
                rows.append([f"{TITLES[row].strip('*')} / {TITLES[other]}", *cells])
    return report.table(["requests/s, ratios", *map(_sessions, SESSIONS)], rows)


def figures(measured: Measured, missing: Mapping[str, str]) -> str:
    """Requests/s and latencies, and what they cost."""
    rates, costs = [], []
    for name, title in TITLES.items():
        if name in missing:
            rates.append([title, f"not measured: {missing[name]}", *[""] * (len(SESSIONS) - 1)])
            continue
        cells = []
        for count in SESSIONS:
            p50, p99 = (_milliseconds(measured, name, count, which) for which in ("p50", "p99"))
            errors = sum(answer["errors"] for answer in measured[name][count])
            text = f"{median(_rates(measured, name, count)):,.0f}; {report.number(p50)} / {report.number(p99)}"
            cells.append(text + (f"; **{errors} errors**" if errors else ""))
        rates.append([title, *cells])
        cells = []
        for count in SESSIONS:
            server = median([1e6 * answer["server_cpu"] for answer in measured[name][count]])
            generator = median([answer["cpu"] for answer in measured[name][count]])
            cells.append(f"{server:,.0f} ({generator:.2f})")
        costs.append([title, *cells])
    head = list(map(_sessions, SESSIONS))
    return "\n\n".join(
        (
            report.table(["requests/s; p50 / p99, ms", *head], rates),
            report.table(["server's CPU, µs a request (load generator's cores)", *head], costs),
        )
    )


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"


def _first_error(measured: Measured) -> str | None:
    for name, by in measured.items():
        for count, answers in by.items():
            for answer in answers:
                if answer["errors"]:
                    return f"{TITLES[name].strip('*')}, {_sessions(count)}: {answer['error']}"
    return None


def _measured(chosen: models.Measured, effort: Effort) -> str:
    """What one model's servers came to."""
    measured, missing, far = measure(chosen.path, effort)
    parts = [
        f"\n### {chosen.description}\n",
        f"At {AIMED_AT} sessions:\n",
        *(aim.line() for aim in aims(measured)),
        f"\n{ratios(measured)}\n",
        figures(measured, missing),
        "\nOne session's answers among 64, against the same words alone, largest difference in log-probability: "
        + "; ".join(f"{TITLES[name].strip('*')} {report.number(value)}" for name, value in far.items())
        + ".",
    ]
    wrong = [name for name, value in far.items() if value > _CLOSE]
    if wrong:
        names = ", ".join(TITLES[name] for name in wrong)
        parts.append(f"\n**Wrong answers**, more than {_CLOSE:g} off: {names}.")
    error = _first_error(measured)
    if error is not None:
        parts.append(f"\nThe first error: {error}")
    return "\n".join(parts)


def run(command: str, *, quick: bool, model: Path | None, profile: bool) -> str:
    """Measure, and write the section: the model that ships and one as large as AWD-LSTM, or `model` alone."""
    parts = ["## One-word predicts over HTTP\n", report.circumstances(command)]
    effort = QUICK if quick else Effort()
    parts.append(
        "\nEach connection is kept alive, has a session of its own, and sends the next word when it has the reply, ten "
        "predictions. The load generator is another process on the same cores. The servers have the same weights and, "
        "unless it is said, write no line of log for each request; those that are not measured stand still. "
        f"{effort.rounds} turns of {effort.seconds:g} s. The echo has no model, so it does not get slower with one."
    )
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        chosen = [models.shipped(Path(directory), model)]
        if model is None:
            chosen.append(models.large(Path(directory)))
        parts += [_measured(one, effort) for one in chosen]
        if profile:
            parts.append(f"\n{profiler.section(chosen[0].path)}")
    return "\n".join(parts)
