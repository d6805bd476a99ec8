"""The crowd of the soak, in a process of its own: `python -m tests.benchmarks.crowd`.

Typists send a word at a time, and some of their words twice; leavers close the connection before their answer is there,
or in the middle of a stream, and then ask again; slow readers take a stream a few bytes at a time; openers come, look
around and go; and some send what is no request. What each of them may expect by the API's contract is checked at every
step, and at the end where each session stands.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from tests.benchmarks.harness import Answer, answer_questions, percentile
from tests.benchmarks.load import request

TYPISTS, LEAVERS, SLOW, OPENERS, MALFORMED = 64, 6, 3, 2, 2

#: Of the load, what each kind brings; a word that is generated counts as much as a request.
TYPISTS_PART, LEAVERS_PART, OPENERS_PART, MALFORMED_PART = 0.85, 0.05, 0.03, 0.03

#: A slow reader takes so many bytes, so often: of a stream of `SLOW_WORDS` words, for about ten seconds.
SLOW_BYTES, SLOW_SECONDS, SLOW_WORDS = 512, 0.1, 200
#: Small, so that it is the server that has to wait.
SLOW_BUFFER = 4096

#: How long any answer may take.
PATIENCE = 30.0
REMEMBERED = 256

_EVENT = re.compile(rb"event: (\w+)\ndata: (.*)\n\n")


class WrongError(Exception):
    """The service did what it must not do; one line."""


class Client:
    """A client, its connection while it has one, and its session: how many words it has consumed, and the last."""

    def __init__(self, port: int) -> None:
        self.id = ""
        self.position = 0
        self.words: deque[str] = deque(maxlen=REMEMBERED)
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def consumed(self, words: Sequence[str]) -> None:
        """The service has them now."""
        self.position += len(words)
        self.words.extend(words)

    async def open(self) -> None:
        """Open a session. Raises WrongError."""
        status, reply = await self.ask(_post("/v1/sessions"))
        _expect(status, 201)
        self.id = reply["session_id"]

    async def streams(self, *, buffer: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The two ends of the connection; `buffer`: bytes that are kept for a client that does not read."""
        if self._streams is None:
            opened = socket.socket()
            if buffer is not None:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            opened.setblocking(False)
            await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", self._port))
            self._streams = await asyncio.open_connection(sock=opened, limit=buffer or 1 << 20)
        return self._streams

    async def ask(self, message: bytes) -> tuple[int, Any]:
        """A request, and the status and body of its answer."""
        reader, writer = await self.streams()
        writer.write(message)
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b""
        return int(head[9:12]), json.loads(body) if body else None

    async def predict(self, words: Sequence[str]) -> None:
        """Send words, at the position where they belong. Raises WrongError."""
        fields = {"session_id": self.id, "words": list(words), "position": self.position}
        status, reply = await self.ask(_post("/v1/predict", **fields))
        _expect(status, 200, reply)
        if reply["session_id"] != self.id or reply["position"] != self.position + len(words):
            raise WrongError(f"a session at {self.position} is at {reply['position']} after {len(words)} words")
        self.consumed(words)

    def leave(self) -> None:
        """Without a word."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def _get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def _post(path: str, **body: Any) -> bytes:
    return request(path, json.dumps(body).encode())


def nonsense(draw: random.Random) -> bytes:
    """What is no request that could be answered otherwise than with a 4xx, or not even HTTP."""
    bodies = [
        ("/v1/predict", b'{"text": '),
        ("/v1/predict", b"[" * draw.randint(1, 5000)),
        ("/v1/predict", b'{"text": 5}'),
        ("/v1/predict", b'{"text": "a", "extra": 1}'),
        ("/v1/predict", b'{"top_k": -1}'),
        ("/v1/predict", b'{"session_id": "%032x"}' % draw.getrandbits(128)),
        ("/v1/predict", b"\xff" + draw.randbytes(draw.randint(0, 2000))),
        ("/v1/generate", b'{"temperature": "hot"}'),
        ("/v1/completions", b'{"prompt": [-1]}'),
        ("/v1/score", b'{"texts": []}'),
        ("/v1/sessions/nobody/rewind", b'{"position": 1}'),
    ]
    path, body = draw.choice(bodies)
    close = b"Connection: close\r\n"
    whole = b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (path.encode(), close, len(body), body)
    state = b"Content-Type: application/vnd.nextword.state\r\n"
    noise = draw.randbytes(draw.randint(1, 500))
    return draw.choice(
        [
            *[whole] * 8,
            b"POST /v1/sessions HTTP/1.1\r\n%s%sContent-Length: %d\r\n\r\n%s" % (close, state, len(noise), noise),
            b"POST /v1/predict HTTP/1.1\r\n%sContent-Length: 999999999\r\n\r\n{" % close,
            b"POST /v1/predict HTTP/1.1\r\nContent-Length: minus one\r\n\r\n",
            b"BREW /v1/predict HTTP/1.1\r\n%s\r\n" % close,
            b"GET /v1/sessions/%%00%%0A HTTP/1.1\r\n%s\r\n" % close,
            b"\x00" + noise,
        ]
    )


def _expect(status: int, expected: int, reply: Any = None) -> None:
    if status != expected:
        raise WrongError(f"status {status}, not {expected}: {str(reply)[:150]}")


class Crowd:
    """All of them, at `rate` requests a second together for `seconds`; without `rate` typists alone, as fast as they
    are answered."""

    def __init__(self, port: int, words: Sequence[str], seconds: float, rate: float | None, seed: int) -> None:
        self._port = port
        self._words = words
        self._seconds = seconds
        self._rate = rate
        self._draw = random.Random(seed)
        self._counts: Counter[str] = Counter()
        self._wrong: Counter[str] = Counter()
        self._latencies = array("d")
        self._clients: list[Client] = []
        self._end = 0.0

    async def run(self) -> Answer:
        """Come, stay, and say what happened."""
        visits = [(self._type, TYPISTS, TYPISTS_PART)]
        if self._rate is not None:
            visits += [
                (self._leave, LEAVERS, LEAVERS_PART),
                (self._look_around, OPENERS, OPENERS_PART),
                (self._babble, MALFORMED, MALFORMED_PART),
                (self._read_slowly, SLOW, 0.0),
            ]
        self._clients = [Client(self._port) for _, of, _ in visits for _ in range(of)]
        await asyncio.gather(*(client.open() for client in self._clients))
        began, cpu = time.monotonic(), time.process_time()
        self._end = began + self._seconds
        waiting = iter(self._clients)
        tasks = [self._visit(next(waiting), work, of, part) for work, of, part in visits for _ in range(of)]
        await asyncio.gather(*tasks)
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
        lost = 0
        for client in self._clients:
            lost += not await self._stands(client)
            client.leave()
        ordered = sorted(self._latencies)
        return {
            "counts": dict(self._counts),
            "wrong": dict(self._wrong),
            "seconds": wall,
            "cpu": cpu / wall,
            "sessions": len(self._clients),
            "lost": lost,
            "p50": percentile(ordered, 50) if ordered else PATIENCE,
            "p99": percentile(ordered, 99) if ordered else PATIENCE,
        }

    async def _visit(
        self, client: Client, work: Callable[[Client], Coroutine[Any, Any, None]], of: int, part: float
    ) -> None:
        """One of `of` clients who share this part of the load, until the time is over; each comes once at least."""
        interval = of / (self._rate * part) if self._rate and part else 0.0
        due = time.monotonic() + self._draw.random() * interval
        while True:
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(min(due, self._end) - now)
            due = max(due, now - interval) + interval  # one who is late does not hurry
            try:
                await work(client)
            except (WrongError, OSError, EOFError, TimeoutError, ValueError) as error:
                self._wrong[f"{work.__name__.strip('_')}: {error!r}"[:300]] += 1
                client.leave()
            if time.monotonic() >= self._end:
                return

    async def _stands(self, client: Client) -> bool:
        """Whether a session is there, and is what its owner believes it to be."""
        client.leave()  # a connection that was not used for long is closed
        try:
            status, reply = await client.ask(_get(f"/v1/sessions/{client.id}"))
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self._wrong[f"at the end: {error!r}"[:300]] += 1
            return False
        return status == 200 and (reply["position"], reply["words"]) == (client.position, list(client.words))

    async def _type(self, client: Client) -> None:
        word = self._draw.choice(self._words)
        before, began = client.position, time.monotonic()
        await client.predict([word])
        self._latencies.append(time.monotonic() - began)
        self._counts["requests"] += 1
        if self._draw.random() < 0.02:  # the answer was lost on the way, so to say
            client.position = before
            client.words.pop()
            await client.predict([word])
            self._counts["requests"] += 1
            self._counts["retries"] += 1

    async def _leave(self, client: Client) -> None:
        """Once more after that, the request is answered as if it had come once."""
        self._counts["left"] += 1
        self._counts["requests"] += 2
        if self._draw.random() < 0.7:
            word = self._draw.choice(self._words)
            fields = {"session_id": client.id, "words": [word], "position": client.position}
            await self._go(client, _post("/v1/predict", **fields))
            await client.predict([word])
            return
        fields = {"session_id": client.id, "words": [self._draw.choice(self._words)], "position": client.position}
        fields |= {"seed": self._draw.getrandbits(32), "max_words": self._draw.randint(1, 12)}
        heard = await self._go(client, _post("/v1/generate", **fields, stream=True))
        status, reply = await client.ask(_post("/v1/generate", **fields))
        _expect(status, 200, reply)
        self._counts["words"] += len(reply["words"])
        if reply["words"][: len(heard)] != heard:
            raise WrongError(f"{heard} were heard, and {reply['words']} are said when asked again")
        client.consumed([*fields["words"], *reply["words"]])
        if reply["position"] != client.position:
            raise WrongError(f"a session is at {reply['position']}, not at {client.position}, after a broken stream")

    async def _go(self, client: Client, message: bytes) -> list[str]:
        """Send, read for a moment or not at all, and leave. The words of the events that came."""
        reader, writer = await client.streams()
        writer.write(message)
        await writer.drain()
        data = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._draw.choice([0, 0.002, 0.02])):
                while part := await reader.read(1 << 16):
                    data += part
        client.leave()
        return [event["word"] for event in _events(data) if "word" in event]

    async def _read_slowly(self, client: Client) -> None:
        client.leave()
        reader, writer = await client.streams(buffer=SLOW_BUFFER)
        fields = {"session_id": client.id, "position": client.position, "max_words": SLOW_WORDS, "stream": True}
        writer.write(_post("/v1/generate", **fields))
        self._counts["requests"] += 1
        self._counts["slow"] += 1
        data = b""
        async with asyncio.timeout(PATIENCE + SLOW_WORDS):
            while not data.endswith(b"\r\n0\r\n\r\n"):
                part = await reader.read(SLOW_BYTES)
                if not part:
                    raise WrongError("a stream ended before its end")
                data += part
                if time.monotonic() < self._end:  # the rest in one go
                    await asyncio.sleep(SLOW_SECONDS)
        client.leave()
        *said, done = _events(data)
        words = [event["word"] for event in said]
        self._counts["words"] += len(words)
        client.consumed(words)
        if done.get("words") != words or done["position"] != client.position:
            raise WrongError(f"a stream of {len(words)} words ended in {str(done)[:150]}")

    async def _look_around(self, client: Client) -> None:
        """Another session, that is gone when it is over."""
        other = Client(self._port)
        await other.open()
        await other.predict(self._draw.choices(self._words, k=3))
        status, fork = await other.ask(_post(f"/v1/sessions/{other.id}/fork", position=2))
        _expect(status, 201, fork)
        status, back = await other.ask(_post(f"/v1/sessions/{other.id}/rewind", position=1))
        _expect(status, 200, back)
        for id in (fork["session_id"], other.id):
            _expect((await other.ask(_get(f"/v1/sessions/{id}", "DELETE")))[0], 204)
        _expect((await other.ask(_get(f"/v1/sessions/{other.id}")))[0], 410)
        other.leave()
        self._counts["requests"] += 7
        self._counts["opened"] += 2

    async def _babble(self, _: Client) -> None:
        """Answered with a 4xx, or not at all."""
        other = Client(self._port)
        reader, writer = await other.streams()
        writer.write(nonsense(self._draw))
        self._counts["requests"] += 1
        self._counts["malformed"] += 1
        async with asyncio.timeout(PATIENCE):
            head = await reader.read(1 << 16)
        other.leave()
        if head and not head.startswith(b"HTTP/1.1 4"):
            raise WrongError(f"nonsense was answered {head[:60]!r}")


def _events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(found[2]) for found in _EVENT.finditer(data)]


def stay(*, port: int, words: Sequence[str], seconds: float, rate: float | None, seed: int) -> Answer:
    """What a crowd found."""
    return asyncio.run(Crowd(port, words, seconds, rate, seed).run())


if __name__ == "__main__":
    answer_questions(lambda: stay)
