"""One replica and two on the same cores, their sessions in one Redis: is every word there once, and at what cost?"""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from model.artifact import Artifact
from model.shapes import state_tensors
from tests.app.redis_server import RedisServer, redis_server
from tests.benchmarks import models, report
from tests.benchmarks.harness import Answer, BenchmarkError, interleaved, median, paired_ratio
from tests.benchmarks.load import request
from tests.benchmarks.replies import parse
from tests.benchmarks.servers import Server, free_port, nextword

SESSIONS = 64
ONE, TWO = "one replica", "two replicas, asked in turn"
KEY = "a key that only this benchmark has"


class Client:
    """One session, with a connection to each replica; each word goes to the next of them."""

    def __init__(self, ports: Sequence[int], words: Sequence[str]) -> None:
        self._ports = ports
        self._words = words
        self.said: list[str] = []
        self.errors: list[str] = []
        self.latencies: list[float] = []
        self.bytes = [0, 0]  # of the last word's request and reply

    async def open(self) -> None:
        connections = [await asyncio.open_connection("127.0.0.1", port) for port in self._ports]
        self._connections = itertools.cycle(connections)
        self._session = (await self._ask(request("/v1/sessions", b"{}")))["session_id"]

    async def speak(self, until: float) -> None:
        """Say word after word, each with the position where it belongs."""
        for number in itertools.count():
            began = time.perf_counter()
            if began >= until:
                return
            word = self._words[number % len(self._words)]
            body = {"session_id": self._session, "words": [word], "position": number}
            try:
                reply = await self._ask(request("/v1/predict", json.dumps(body).encode()))
            except BenchmarkError as error:
                self.errors.append(str(error))
                return
            self.said.append(word)
            self.latencies.append(time.perf_counter() - began)
            if reply["position"] != len(self.said):
                self.errors.append(f"position {reply['position']} after {len(self.said)} words")

    async def wrong(self) -> int:
        """By how many words each replica's session differs from what was acknowledged."""
        message = f"GET /v1/sessions/{self._session} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        differing = 0
        for _ in self._ports:
            shown = await self._ask(message)
            kept = self.said[-len(shown["words"]) :] if shown["words"] else []
            differing += abs(shown["position"] - len(self.said))
            differing += sum(ours != theirs for ours, theirs in zip(kept, shown["words"], strict=True))
        return differing

    async def close(self) -> None:
        for _ in self._ports:
            next(self._connections)[1].close()

    async def _ask(self, message: bytes) -> Any:
        reader, writer = next(self._connections)
        writer.write(message)
        data = b""
        while (reply := parse(data)) is None:
            part = await reader.read(1 << 16)
            if not part:
                raise BenchmarkError("a connection was closed")
            data += part
        self.bytes = [len(message), len(data)]
        body = data[reply.body : reply.end]
        if reply.status not in (200, 201):
            raise BenchmarkError(f"status {reply.status}: {body[:200]!r}")
        return json.loads(body)


async def _turn(ports: Sequence[int], words: Sequence[str], seconds: float) -> Answer:
    clients = [Client(ports, words) for _ in range(SESSIONS)]
    for client in clients:
        await client.open()
    began = time.perf_counter()
    await asyncio.gather(*(client.speak(began + seconds) for client in clients))
    taken = time.perf_counter() - began
    sent, received = (median([client.bytes[way] for client in clients]) for way in (0, 1))
    answer = {
        "per_second": sum(len(client.said) for client in clients) / taken,
        "p50": median([latency for client in clients for latency in client.latencies]),
        "bytes": [sent, received],
        "acknowledged": sum(len(client.said) for client in clients),
        "wrong": sum([await client.wrong() for client in clients]),
        "errors": [error for client in clients for error in client.errors],
    }
    for client in clients:
        await client.close()
    return answer


def measure(path: Path, *, quick: bool) -> tuple[dict[str, list[Answer]], float]:
    """What each turn gave, and the bytes that a session takes in Redis."""
    words = models.common_words(Artifact.load(path), 50)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextword-benchmark-")))
        redis = stack.enter_context(redis_server(folder, "--appendfsync", "everysec"))
        servers = []
        for _ in range(2):
            port = free_port()
            options = ("--no-access-log", "--store", redis.url, "--session-key", KEY)
            servers.append(stack.enter_context(Server(nextword(port, path, *options), port)))
            servers[-1].wait_ready()
            servers[-1].pause()

        def turn(which: Sequence[Server]) -> Answer:
            for server in which:
                server.resume()
            before = _cpu_seconds(redis)
            answer = asyncio.run(_turn([server.port for server in which], words, 0.6 if quick else 3.0))
            answer["redis_cpu"] = (_cpu_seconds(redis) - before) / answer["acknowledged"]
            for server in which:
                server.pause()
            return answer

        turns = {ONE: partial(turn, servers[:1]), TWO: partial(turn, servers)}
        return interleaved(turns, 1 if quick else 5), _bytes_a_session(redis)


def _cpu_seconds(redis: RedisServer) -> float:
    """What the one thread of Redis that answers has used so far."""
    with redis.client() as client:
        used: Any = client.info("cpu")
        return float(used["used_cpu_user_main_thread"] + used["used_cpu_sys_main_thread"])


def _bytes_a_session(redis: RedisServer) -> float:
    with redis.client() as client:
        return median([client.memory_usage(key) for key in client.scan_iter()])  # type: ignore[misc]


def run(command: str, *, quick: bool, model: Path | None) -> str:
    """Measure, and write the section."""
    where = report.circumstances(command)
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        chosen = models.shipped(Path(directory), model)
        measured, size = measure(chosen.path, quick=quick)
        state_bytes = sum(4 * tensor.size for tensor in state_tensors(Artifact.load(chosen.path).network))
    answers = [answer for turns in measured.values() for answer in turns]
    errors = [error for answer in answers for error in answer["errors"]]
    acknowledged = sum(answer["acknowledged"] for answer in answers)
    aims = [
        report.Aim(
            f"words lost or twice, of {acknowledged:,} acknowledged", sum(a["wrong"] for a in answers), 0, False
        ),
        report.Aim("errors", len(errors), 0, least=False),
    ]
    rates = {name: [answer["per_second"] for answer in turns] for name, turns in measured.items()}
    rows = [
        [
            name,
            report.number(median(rates[name])),
            report.number(1000 * median([turn["p50"] for turn in turns])),
            report.number(1e6 * median([turn["redis_cpu"] for turn in turns])),
        ]
        for name, turns in measured.items()
    ]
    sent, received = measured[ONE][-1]["bytes"]
    ratio = paired_ratio(rates[TWO], rates[ONE])
    return "\n".join(
        [
            "## One replica and two on the same cores\n",
            where,
            f"- {chosen.description}",
            f"\nOne-word predicts with their `position` in {SESSIONS} sessions over HTTP, sessions in a Redis that "
            "flushes its log once a second. Two replicas are asked in turn, word for word, which no balancer would do: "
            "every word finds its session at the other one. Replicas, Redis and the client, which is Python, share the "
            "cores, so this is about words, not about speed.\n",
            *(aim.line() for aim in aims),
            f"- requests/s, two replicas over one on the same cores: **{report.number(ratio)}**",
            f"- bytes a session in Redis: **{report.number(size)}**, of which its state is {state_bytes:,} and its "
            "last words are two bytes each, at most 256 of them (`MEMORY USAGE`, median)",
            f"- bytes a word over HTTP, headers included: **{sent:,.0f}** sent, **{received:,.0f}** received",
            f"\n{report.table(['', 'requests/s', 'p50, ms', 'CPU of Redis, µs a word'], rows)}",
            *([f"\nThe first error: {errors[0]}"] if errors else []),
        ]
    )
