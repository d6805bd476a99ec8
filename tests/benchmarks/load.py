"""The load generator, in a process of its own: `python -m tests.benchmarks.load`.

One thread, raw sockets, epoll. Each connection keeps one session and one request in flight, and sends the next as soon
as the reply is there. Requests are made beforehand as far as they can be; of a reply only the status and the length are
read, save for samples. What it costs is part of its answer.
"""

from __future__ import annotations

import json
import select
import socket
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.harness import Answer, BenchmarkError, answer_questions, percentile
from tests.benchmarks.replies import MalformedReplyError, Reply, parse

#: One reply in so many of each connection is read in full.
SAMPLE = 101
#: How long to wait for what is in flight when the time is over.
GRACE_SECONDS = 20.0

_RECEIVE = 1 << 16


def request(path: str, body: bytes) -> bytes:
    """The bytes of a POST."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@dataclass(slots=True, eq=False)
class Connection:
    """A connection and its session."""

    socket: socket.socket
    session_id: str
    requests: list[bytes]  # one for each word
    count: int = 0  # how many words it has consumed
    sent: float = 0.0
    partial: bytes = b""
    answers: list[tuple[int, Any]] = field(default_factory=list)  # after how many words, the reply


def _reply(connection: socket.socket) -> tuple[int, Any]:
    """The reply to the request that was sent, waiting for it."""
    data = b""
    while (reply := parse(data)) is None:
        part = connection.recv(_RECEIVE)
        if not part:
            raise BenchmarkError("the server closed a connection that was being set up")
        data += part
    return reply.status, json.loads(data[reply.body : reply.end] or b"null")


class Load:
    """`connections` sessions on 127.0.0.1:`port` that send one word of `words` after the other.

    positions: send each request's `position` as well. counts: the server counts each session's words, so a sample of
    its replies is held to that. before: so many words each session has consumed already. Raises BenchmarkError if a
    session cannot be opened.
    """

    def __init__(
        self,
        port: int,
        connections: int,
        words: Sequence[str],
        *,
        positions: bool = False,
        counts: bool = True,
        before: int = 0,
    ) -> None:
        self.errors: dict[str, int] = {}
        self.latencies = array("d")
        self._positions = positions
        self._counts = counts
        self._before = before
        read = json.dumps({"words": [words[number % len(words)] for number in range(before)]}).encode()
        path, body = ("/v1/predict", read) if before else ("/v1/sessions", b"{}")
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        for opened in sockets:  # all of them, before the first reply is waited for
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.sendall(request(path, body))
        self._connections: dict[int, Connection] = {}
        for opened in sockets:
            status, reply = _reply(opened)
            if status not in (200, 201):
                raise BenchmarkError(f"a session could not be opened: {status} {reply}")
            session_id = reply["session_id"]
            fields = [{"session_id": session_id, "words": [word]} for word in words]
            bodies = [json.dumps(one).encode() for one in fields]
            self._connections[opened.fileno()] = Connection(
                opened,
                session_id,
                bodies if positions else [request("/v1/predict", body) for body in bodies],
                count=before,
            )

    def run(self, warm_up: float, seconds: float) -> Answer:
        """Send for `warm_up` and then `seconds`; the second part counts. Waits for what is in flight, then closes."""
        poll = select.epoll()
        for descriptor in self._connections:
            poll.register(descriptor, select.EPOLLIN)
        live = len(self._connections)
        clock, open_connections = time.perf_counter, self._connections
        began = clock()
        counted_from, end = began + warm_up, began + warm_up + seconds
        finished, cpu = 0, time.process_time()
        for connection in open_connections.values():
            connection.socket.setblocking(False)
            self._send(connection)
        while live:
            events = poll.poll(1.0)
            if not events and clock() > end + GRACE_SECONDS:
                self._count("no answer", live)
                break
            for descriptor, _ in events:
                connection = open_connections[descriptor]
                reply = self._receive(connection)
                if reply is None:
                    continue
                now = clock()
                if reply and now >= counted_from:
                    self.latencies.append(now - connection.sent)
                    finished += now < end
                if not reply or now >= end:
                    poll.unregister(descriptor)
                    live -= 1
                    continue
                self._send(connection)
        wall, cpu = clock() - began, time.process_time() - cpu
        poll.close()
        for connection in open_connections.values():
            connection.socket.close()
        return self._answer(finished, seconds, cpu / wall)

    def _send(self, connection: Connection) -> None:
        number = connection.count
        message = connection.requests[number % len(connection.requests)]
        if self._positions:
            message = request("/v1/predict", b'%s, "position": %d}' % (message[:-1], number))
        connection.sent = time.perf_counter()
        with suppress(OSError):  # reading says so
            connection.socket.send(message)

    def _receive(self, connection: Connection) -> bool | None:
        """True: the reply is there; None: not yet whole; False: there will be none."""
        try:
            data = connection.partial + connection.socket.recv(_RECEIVE)
            reply = parse(data)
        except BlockingIOError:
            return None
        except OSError as error:
            self._count(error.strerror or "connection broken")
            return False
        except MalformedReplyError as error:
            self._count(str(error))
            return False
        if reply is None:
            if len(data) == len(connection.partial):
                self._count("connection closed")
                return False
            connection.partial = data
            return None
        connection.partial = b""
        if reply.status != 200 or reply.end != len(data):
            self._count(f"status {reply.status}: {data[reply.body : reply.end][:200]!r}")
            return False
        connection.count += 1
        if connection.count % SAMPLE == 1:
            self._sample(connection, data, reply)
        return True

    def _sample(self, connection: Connection, data: bytes, reply: Reply) -> None:
        body = json.loads(data[reply.body : reply.end])
        connection.answers.append((connection.count, body))
        if len(body["predictions"]) != 10 or body["session_id"] != connection.session_id:
            self._count("an answer to something else")
        elif self._counts and body["position"] != connection.count:
            self._count("a word lost or counted twice")

    def _count(self, error: str, times: int = 1) -> None:
        self.errors[error] = self.errors.get(error, 0) + times

    def _answer(self, finished: int, seconds: float, cpu: float) -> Answer:
        ordered = sorted(self.latencies)
        first = next(iter(self._connections.values()))
        return {
            "replies": sum(connection.count - self._before for connection in self._connections.values()),
            "per_second": finished / seconds,
            "p50": percentile(ordered, 50) if ordered else GRACE_SECONDS,
            "p99": percentile(ordered, 99) if ordered else GRACE_SECONDS,
            "errors": sum(self.errors.values()),
            "error": next(iter(self.errors), ""),
            "cpu": cpu,
            # What one session was told, and after which of its words, to be compared with what it is told alone.
            "answers": [
                [count, [[item["word"], item["log_probability"]] for item in body["predictions"]]]
                for count, body in first.answers[-20:]
            ],
        }


def measure(
    *,
    port: int,
    connections: int,
    words: Sequence[str],
    positions: bool,
    counts: bool,
    warm_up: float,
    seconds: float,
    before: int = 0,
) -> Answer:
    """One point of the HTTP benchmark."""
    return Load(port, connections, words, positions=positions, counts=counts, before=before).run(warm_up, seconds)


if __name__ == "__main__":
    answer_questions(lambda: measure)
