"""The memory benchmark: what a live session costs a real server, and how it answers with all of them live."""

from __future__ import annotations

import json
import random
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.artifact import Artifact
from tests.benchmarks import models, report
from tests.benchmarks.harness import BenchmarkError, percentile
from tests.benchmarks.load import request
from tests.benchmarks.replies import parse
from tests.benchmarks.servers import Server, free_port, nextword

CONNECTIONS = 128
PROBES = 2_000

#: All sessions are to expire together, so long after the last one is likely to be opened; and how long that may take.
MARGIN_SECONDS = 20.0
GIVE_UP_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Found:
    """What `sessions` live ones came to. Latencies in seconds, of one request at a time."""

    sessions: int
    state_bytes: int
    bytes_each: float
    resident: int
    opening_seconds: float
    p50: float
    p99: float
    few_p50: float
    resident_before: int  # with the first hundredth of them
    resident_after: int  # when all have expired

    @property
    def left_over(self) -> float:
        return self.resident_after / self.resident_before

    @property
    def overhead(self) -> float:
        """What a session takes, over its state."""
        return self.bytes_each / self.state_bytes


class Client:
    """`connections` keep-alive connections; a request on each of them is in flight at once. Raises BenchmarkError."""

    def __init__(self, port: int, connections: int) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]

    def ask(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """As many requests as there are connections, at most, and their replies."""
        messages = [request(path, json.dumps(body).encode()) for body in bodies]
        return [json.loads(content) for content in self._exchange(messages)]

    def delete(self, ids: Sequence[str]) -> None:
        """Delete sessions, as many as there are connections at most."""
        self._exchange([f"DELETE /v1/sessions/{id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() for id in ids])

    def metrics(self) -> str:
        (content,) = self._exchange([b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
        return content.decode()

    def _exchange(self, messages: Sequence[bytes]) -> list[bytes]:
        for connection, message in zip(self._sockets, messages, strict=False):
            connection.sendall(message)
        replies = []
        for connection in self._sockets[: len(messages)]:
            data = b""
            while (reply := parse(data)) is None:
                part = connection.recv(1 << 16)
                if not part:
                    raise BenchmarkError("the server closed a connection")
                data += part
            content = data[reply.body : reply.end]
            if reply.status >= 300:
                raise BenchmarkError(f"status {reply.status}: {content[:300]!r}")
            replies.append(content)
        return replies

    def close(self) -> None:
        for connection in self._sockets:
            connection.close()


def measure(path: Path, sessions: int) -> Found:
    """Start a server, open `sessions` by a word each, ask some for another, first and last, and have all expire.

    The first hundredth of them is not counted: what is allocated at first use, such as the buffers of the largest
    batch, is no session's.
    """
    artifact = Artifact.load(path)
    words = models.common_words(artifact, 1000)
    port = free_port()
    # Room for few would be memory that the process has had before, and their growth would not show.
    options = ["--max-sessions", str(max(sessions, 100_000)), "--session-ttl-seconds", "86400"]
    draw = random.Random(3)
    with Server(nextword(port, path, *options), port) as server:
        server.wait_ready()
        with closing(Client(port, CONNECTIONS)) as many:
            ids: list[str] = []

            def open_until(count: int, deadline: float) -> None:
                """Sessions that expire at `deadline`."""
                while len(ids) < count:
                    lives = max(1.0, deadline - time.monotonic())
                    bodies = [
                        {"words": [draw.choice(words)], "ttl_seconds": lives}
                        for _ in range(min(CONNECTIONS, count - len(ids)))
                    ]
                    ids.extend(reply["session_id"] for reply in many.ask("/v1/sessions", bodies))

            probed: set[str] = set()

            def latencies() -> list[float]:
                drawn = [draw.choice(ids) for _ in range(PROBES)]
                probed.update(drawn)
                with closing(Client(port, 1)) as one:
                    return sorted(_latency(one, {"session_id": id, "words": [draw.choice(words)]}) for id in drawn)

            began = time.monotonic()
            open_until(max(sessions // 100, 1), began + 86_400)
            estimated = (time.monotonic() - began) * sessions / len(ids)
            few, first_ones, before = latencies(), len(ids), server.resident_bytes()
            began = time.monotonic()
            deadline = began + 1.5 * estimated + MARGIN_SECONDS
            open_until(sessions, deadline)
            opening = time.monotonic() - began
            resident = server.resident_bytes()
            # Nobody was evicted to make room: the first session answers as well, or this raises.
            many.ask("/v1/predict", [{"session_id": ids[0]}])
            full = latencies()
            # These would live longer: they were used, or opened for a day.
            long_lived = sorted(probed | set(ids[:first_ones]))
            for first in range(0, len(long_lived), CONNECTIONS):
                many.delete(long_lived[first : first + CONNECTIONS])
        with closing(Client(port, 1)) as one:
            while 'nextword_sessions{tier="memory"} 0.0' not in one.metrics():
                if time.monotonic() > deadline + GIVE_UP_SECONDS:
                    raise BenchmarkError(f"some sessions have not expired in {GIVE_UP_SECONDS:.0f} s")
                time.sleep(0.5)
            time.sleep(2)  # a sweep or two later what they took is given back
            after = server.resident_bytes()
    state_bytes = sum(tensor.size for tensor in _state(artifact)) * 4
    return Found(
        sessions=sessions,
        state_bytes=state_bytes,
        bytes_each=(resident - before) / (sessions - first_ones),
        resident=resident,
        opening_seconds=opening,
        p50=percentile(full, 50),
        p99=percentile(full, 99),
        few_p50=percentile(few, 50),
        resident_before=before,
        resident_after=after,
    )


def _state(artifact: Artifact) -> Sequence[Any]:
    from model.shapes import state_tensors

    return state_tensors(artifact.network)


def _latency(client: Client, body: dict[str, Any]) -> float:
    began = time.perf_counter()
    client.ask("/v1/predict", [body])
    return time.perf_counter() - began


def run(command: str, *, model: Path | None, counts: Sequence[int]) -> str:
    """Measure, and write the section."""
    where = report.circumstances(command)
    with tempfile.TemporaryDirectory(prefix="nextword-benchmark-") as directory:
        chosen = models.shipped(Path(directory), model)
        found = [measure(chosen.path, count) for count in counts]
    rows = [
        [
            f"{one.sessions:,}",
            f"{one.bytes_each:,.0f}",
            f"{one.state_bytes:,}",
            report.number(one.overhead),
            f"{one.resident / 2**30:.2f} GiB",
            f"{one.resident_after / 2**20:.0f} / {one.resident_before / 2**20:.0f} MiB",
            f"{one.opening_seconds:.0f} s",
            f"{1000 * one.p50:.2f} / {1000 * one.p99:.2f}",
            f"{1000 * one.few_p50:.2f}",
        ]
        for one in found
    ]
    head = [
        "live sessions",
        "bytes each",
        "state's own",
        "ratio",
        "server's RSS",
        "when all have expired / before",
        "opened in",
        "p50 / p99, ms",
        "p50 with 1 % of them live, ms",
    ]
    last = found[-1]
    aims = [
        report.Aim(f"bytes a session over its state's, {one.sessions:,} live", one.overhead, 1.25, least=False)
        for one in found
    ]
    aims += [
        report.Aim(f"memory when {one.sessions:,} have expired, over before", one.left_over, 1.1, least=False)
        for one in found
    ]
    parts = [
        "## Memory of live sessions\n",
        where,
        f"- {chosen.description}",
        "\nA real server; every session was opened over HTTP by a word and is still live when all are. Bytes each: "
        "what the resident memory grew by from the first hundredth of the sessions to the last. Latencies: "
        f"{PROBES:,} one-word predicts one after the other, each to a session drawn at random. A session also keeps "
        "its last words, at most 16,384, two bytes each (four where the vocabulary is over 65,536); here there are one "
        "or two. Those that were asked again are then deleted, and all others expire.\n",
        *(aim.line() for aim in aims),
        f"\n{report.table(head, rows)}",
    ]
    if last.sessions < 1_000_000:
        million = (last.resident + (1_000_000 - last.sessions) * last.bytes_each) / 2**30
        parts.append(f"\nFrom that, a million sessions would take {million:.1f} GiB (`--million` opens them).")
    return "\n".join(parts)
