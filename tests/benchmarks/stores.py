"""What it costs to keep sessions elsewhere: one-word predicts with each store, and going back in a long session."""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from model.artifact import Artifact
from tests.app.redis_server import redis_server
from tests.benchmarks import models, report
from tests.benchmarks.harness import Answer, Worker, interleaved, median, paired_ratio
from tests.benchmarks.servers import Server, free_port, nextword

SESSIONS = 64
MEMORY, SQLITE, REDIS = "memory", "sqlite", "redis"
AIMS = {SQLITE: 0.7, REDIS: 0.6}
KEY = "a key that only this benchmark has"

#: How long the session is that is gone back in, and how often; in how many other ones, far.
LENGTH = 1000
BACK = 40
FAR = 5

WORD, FAR_BACK = "one word", "fork 500 words back, never been there"


def measure(path: Path, *, quick: bool) -> tuple[dict[str, list[Answer]], dict[str, dict[str, float]]]:
    """What the load answered with each store; medians in seconds of going back, by store and what was done."""
    words = models.common_words(Artifact.load(path), 50)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextword-benchmark-")))
        redis = stack.enter_context(redis_server(folder, "--appendfsync", "everysec"))
        load = stack.enter_context(Worker("tests.benchmarks.load"))
        load.ready()
        places = {MEMORY: MEMORY, SQLITE: f"sqlite:{folder / 'sessions.db'}", REDIS: redis.url}
        servers = {}
        for name, place in places.items():
            port = free_port()
            options = ("--no-access-log", "--store", place, "--session-key", KEY)
            servers[name] = stack.enter_context(Server(nextword(port, path, *options), port))
            servers[name].wait_ready()
            servers[name].pause()

        def turn(server: Server) -> Answer:
            server.resume()
            before = server.cpu_seconds()
            answer = load.ask(
                port=server.port,
                connections=SESSIONS,
                words=words,
                positions=True,
                counts=True,
                warm_up=0.1 if quick else 0.3,
                seconds=0.6 if quick else 2.0,
            )
            answer["server_cpu"] = (server.cpu_seconds() - before) / max(answer["replies"], 1)
            server.pause()
            return answer

        turns = {name: partial(turn, server) for name, server in servers.items()}
        measured = interleaved(turns, 1 if quick else 15)
        back = {}
        for name, server in servers.items():
            server.resume()
            back[name] = going_back(server.port, words)
            server.pause()
        return measured, back


def going_back(port: int, words: list[str]) -> dict[str, float]:
    """Seconds, medians: consuming one word, forks at the end, near it and far from it, a rewind by one word."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:

        def ask(path: str, **body: Any) -> dict[str, Any]:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            reply: dict[str, Any] = json.loads(response.read())
            if response.status >= 300:
                raise RuntimeError(f"{path} was answered {response.status}: {reply}")
            return reply

        def opened() -> str:
            """A session of so many words; the last fifty came one after the other, as people type."""
            session: str = ask("/v1/predict", words=[words[at % len(words)] for at in range(LENGTH - 50)])["session_id"]
            for word in words[:50]:
                ask("/v1/predict", session_id=session, words=[word])
            return session

        taken: dict[str, list[float]] = {}

        def timed(what: str, path: str, **body: Any) -> dict[str, Any]:
            began = time.perf_counter()
            reply = ask(path, **body)
            taken.setdefault(what, []).append(time.perf_counter() - began)
            return reply

        session = opened()
        for _ in range(BACK):
            position = timed(WORD, "/v1/predict", session_id=session, words=words[:1])["position"]
            timed("fork at its end", f"/v1/sessions/{session}/fork")
            timed("fork 20 words back", f"/v1/sessions/{session}/fork", position=position - 20)
            timed("rewind by a word", f"/v1/sessions/{session}/rewind", position=position - 1)
        for _ in range(FAR):
            timed(FAR_BACK, f"/v1/sessions/{opened()}/fork", position=LENGTH - 500)
        return {what: median(seconds) for what, seconds in taken.items()}


def run(command: str, *, quick: bool, model: Path | None) -> str:
    """Measure, and write the section."""
    where = report.circumstances(command)
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        chosen = models.shipped(Path(directory), model)
        measured, back = measure(chosen.path, quick=quick)
    rates = {name: [answer["per_second"] for answer in answers] for name, answers in measured.items()}
    aims = [
        report.Aim(f"requests/s, {name} over memory", paired_ratio(rates[name], rates[MEMORY]), least)
        for name, least in AIMS.items()
    ]
    for name, taken in back.items():
        slowest = max(seconds for what, seconds in taken.items() if what not in (WORD, FAR_BACK))
        text = f"{name}: fork and rewind at {LENGTH:,} words, the slowest of them, beyond what one word takes"
        aims.append(report.Aim(text, 1000 * (slowest - taken[WORD]), 1, least=False, unit=" ms"))
    errors = sum(answer["errors"] for answers in measured.values() for answer in answers)
    aims.append(report.Aim("errors", errors, 0, least=False))
    rows = [
        [
            name,
            report.number(median(rates[name])),
            report.number(1000 * median([answer["p50"] for answer in answers])),
            report.number(1000 * median([answer["p99"] for answer in answers])),
            report.number(1e6 * median([answer["server_cpu"] for answer in answers])),
        ]
        for name, answers in measured.items()
    ]
    head = ["store", "requests/s", "p50, ms", "p99, ms", "server's CPU, µs a request"]
    return "\n".join(
        [
            "## Where sessions live\n",
            where,
            f"- {chosen.description}",
            f"\nOne-word predicts with their `position` in {SESSIONS} sessions over HTTP. Load generator and Redis "
            "(which flushes its log once a second) are processes on the same cores, SQLite before each reply.\n",
            *(aim.line() for aim in aims),
            f"\n{report.table(head, rows)}\n",
            f"Going back in a session of {LENGTH:,} words, over one connection. Where it has been lately the state is "
            "kept; where it has not, as most of what it was told in one request, the words are consumed anew.\n",
            report.table(
                ["milliseconds, medians", *back],
                [[what, *(report.number(1000 * back[name][what]) for name in back)] for what in back[MEMORY]],
            ),
        ]
    )
