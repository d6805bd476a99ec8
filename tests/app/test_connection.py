"""The head of a reply leaves with its body, and no head stays behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from app.connection import ARRIVING_SECONDS, LONGEST_HEAD, READ_BYTES, Connection
from app.requests import Watch

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class Recorded(asyncio.Transport):
    """Notes what is handed over to the event loop, call by call."""

    def __init__(self, transport: asyncio.Transport, calls: list[bytes]) -> None:
        super().__init__()
        self._transport = transport
        self._calls = calls
        for name in (
            *("get_extra_info", "is_closing", "close", "abort"),
            *("pause_reading", "resume_reading", "get_write_buffer_size"),
        ):
            setattr(self, name, getattr(transport, name))

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self._calls.append(data)
        self._transport.write(data)

    def writelines(self, data: tuple[bytes, ...]) -> None:  # type: ignore[override]
        self._calls.append(b"".join(data))
        self._transport.writelines(data)


@asynccontextmanager
async def connected(
    app: ASGIApp, lost: asyncio.Event | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, list[bytes]]]:
    """A client of `app`, and what the server writes. lost: set when the server has given the connection up."""
    calls: list[bytes] = []

    class Watched(Connection):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(Recorded(transport, calls))

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if lost is not None:
                lost.set()

    config = Config(app, log_config=None, lifespan="off", ws="none")
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Watched(config, ServerState(), {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(20):
            yield reader, writer, calls
    finally:
        writer.close()
        server.close()


def replying(*parts: bytes, length: int | None = None, status: int = 200) -> ASGIApp:
    headers = [] if length is None else [(b"content-length", b"%d" % length)]

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": number + 1 < len(parts)})

    return app


async def test_a_reply_is_one_piece_again_and_again() -> None:
    async with connected(replying(b"hello", length=5)) as (reader, writer, calls):
        expected = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
        for count in range(1, 4):
            writer.write(GET)
            assert await reader.readexactly(len(expected)) == expected
            assert calls == [expected] * count


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with connected(replying(b"hello", length=5)) as (reader, writer, calls):
        writer.write(GET * 3)
        for _ in range(3):
            assert await reader.readuntil(b"hello")
        assert len(calls) == 3


async def test_a_body_in_parts_follows_its_head() -> None:
    async with connected(replying(b"HTTP/1.1 ", b"\r\ncontent-length: ", b"!", length=28)) as (reader, writer, _):
        for _ in range(2):
            writer.write(GET)
            reply = await reader.readuntil(b"!")
            assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 28\r\n\r\nHTTP/1.1 \r\ncontent-length: !"


async def test_a_head_without_a_body_does_not_wait_for_one() -> None:
    for app, request, head in (
        (replying(b"hello", length=5), GET.replace(b"GET", b"HEAD"), b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        (replying(b"", length=0), GET, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (replying(b"", status=204), GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
    ):
        async with connected(app) as (reader, writer, _):
            for _ in range(2):
                writer.write(request)
                assert await reader.readexactly(len(head)) == head


async def test_the_head_of_a_stream_does_not_wait_for_its_first_part() -> None:
    go_on = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"hello"})

    async with connected(app) as (reader, writer, _):
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        go_on.set()
        assert await reader.readuntil(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"


async def test_what_fails_in_the_middle_is_told_as_far_as_it_came() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        raise RuntimeError("no body")

    async with connected(app) as (reader, writer, _):
        writer.write(GET)
        assert await reader.read() == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


@pytest.mark.parametrize("early", [False, True])
async def test_a_client_that_leaves_takes_its_request_with_it(early: bool) -> None:
    reading, over, never = asyncio.Event(), asyncio.Event(), asyncio.Event()
    outcomes: list[str] = []

    async def app(scope: Scope, receive: Receive, _send: Send) -> None:
        reading.set()
        if early:  # it is gone before anybody looks out for that
            while (await receive())["type"] != "http.disconnect":
                pass
        watch = Watch(scope, receive)
        async with watch:
            await never.wait()
        outcomes.append("left" if watch.left else "stayed")
        over.set()

    async with connected(app) as (_, writer, _calls):
        writer.write(GET)
        await reading.wait()
        writer.close()
        await over.wait()
    assert outcomes == ["left"]


async def test_what_is_no_longer_watched_is_left_alone() -> None:
    watched, over = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, _send: Send) -> None:
        async with Watch(scope, receive):
            pass
        watched.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        await asyncio.sleep(0)
        over.set()

    async with connected(app) as (_, writer, _calls):
        writer.write(GET)
        await watched.wait()
        writer.close()
        await over.wait()


async def answered(_scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads what there is, and says so."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def endless(name: str) -> Iterator[bytes]:
    """What a client sends that never comes to an end with its head, or with what may follow a body."""
    start, a, few = b"POST / HTTP/1.1\r\n", b"a" * 30_000, b"".join(b"x-%d: a\r\n" % number for number in range(2000))
    beginning, more = {
        "url": (b"POST /", a),
        "name of a header": (start + b"x", a),
        "value of a header": (start + b"x: ", a),
        "headers": (start, few),
        "trailers": (start + b"transfer-encoding: chunked\r\n\r\n0\r\n", few),
        "extension of a chunk": (start + b"transfer-encoding: chunked\r\n\r\n1;", a),
    }[name]
    yield beginning
    while True:
        yield more


@pytest.mark.parametrize(
    "name", ["url", "name of a header", "value of a header", "headers", "trailers", "extension of a chunk"]
)
async def test_nothing_but_a_body_may_be_long(name: str) -> None:
    """Else one connection, of anybody, could fill the memory: uvicorn keeps all of it."""
    async with connected(answered) as (reader, writer, _):
        sent = 0
        with suppress(ConnectionError):
            for part in endless(name):
                assert sent < 20_000_000, "it is taken without an end"
                writer.write(part)
                await writer.drain()
                sent += len(part)
                if reader.at_eof():
                    break
        with suppress(ConnectionError):
            answer = await reader.read()
            assert not answer or b"HTTP/1.1 431 " in answer


async def test_a_head_that_is_too_long_is_told_so() -> None:
    async with connected(answered) as (reader, writer, _):
        writer.write(b"GET / HTTP/1.1\r\nx: " + b"a" * LONGEST_HEAD)
        await writer.drain()
        writer.write(b"a" * LONGEST_HEAD)
        answer = await reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["limit"] == LONGEST_HEAD


async def test_long_heads_and_long_bodies_are_taken() -> None:
    body = b"b" * (5 * LONGEST_HEAD)
    chunks = b"".join(b"1000\r\n" + b"c" * 4096 + b"\r\n" for _ in range(50))
    async with connected(answered) as (reader, writer, _):
        for message in (
            b"GET / HTTP/1.1\r\nx: " + b"a" * (LONGEST_HEAD // 2) + b"\r\n\r\n",
            b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body),
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n",
            GET,
        ):
            for start in range(0, len(message), 10_000):
                writer.write(message[start : start + 10_000])
                await writer.drain()
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await reader.readexactly(2)


@pytest.mark.parametrize(
    "part",
    [
        b"P",
        b"POST / HTTP/1.1\r\nx: ",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhal",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhal\r\n0\r\n",
    ],
)
async def test_a_request_that_does_not_arrive_is_given_up(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else half a request would hold its place among those being served for ever."""
    monkeypatch.setattr("app.connection.ARRIVING_SECONDS", 0.05)
    async with connected(answered) as (reader, writer, _):
        writer.write(part)
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 408


async def test_what_arrives_slowly_but_surely_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer is set anew with every part; and a connection between two requests has none."""
    set_anew: list[float] = []

    monkeypatch.setattr("app.connection.ARRIVING_BYTES", 1)
    body = b"b" * 100
    async with connected(answered) as (reader, writer, _):
        loop = asyncio.get_running_loop()
        later = loop.call_later

        def noting(delay: float, *arguments: Any) -> asyncio.TimerHandle:
            if delay == ARRIVING_SECONDS:
                set_anew.append(delay)
            return later(delay, *arguments)

        monkeypatch.setattr(loop, "call_later", noting)
        message = b"POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\n" + body
        for start in range(0, len(message), 30):
            writer.write(message[start : start + 30])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        assert set_anew
        monkeypatch.setattr("app.connection.ARRIVING_SECONDS", 0.01)
        writer.write(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(0.05)
        writer.write(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body, and with the method and the names of the headers before it."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    names = b",".join(name for name, _ in scope["headers"])
    body = scope["method"].encode() + b" " + names + b" " + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def reply(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), head, await reader.readexactly(length)


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
INNER = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.mark.parametrize("pieces", [1, 2, 1000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_who_offers_another_protocol_is_answered_in_this_one(pieces: int, chunked: bool) -> None:
    """The body is the request's, also where it looks like another request."""
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER) if chunked else INNER
    size = b"transfer-encoding: chunked\r\n" if chunked else b"content-length: %d\r\n" % len(INNER)
    request = b"POST / HTTP/1.1\r\n" + OFFER + size + b"\r\n" + framed
    names = b"connection,http2-settings," + size.partition(b":")[0]
    length = -(-len(request) // pieces)
    async with connected(echo) as (reader, writer, _):
        for _ in range(2):
            for start in range(0, len(request), length):
                writer.write(request[start : start + length])
                await writer.drain()
                await asyncio.sleep(0)
            status, _head, body = await reply(reader)
            assert (status, body) == (200, b"POST " + names + b" " + INNER)
        writer.write(request + GET)
        assert (await reply(reader))[2] == b"POST " + names + b" " + INNER
        assert (await reply(reader))[2] == b"GET host "


@pytest.mark.parametrize(
    "request_", [b"CONNECT here:80 HTTP/1.1\r\nHost: here\r\n\r\n", b"what?\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
)
async def test_what_is_no_request_is_a_problem(request_: bytes) -> None:
    async with connected(echo) as (reader, writer, _):
        writer.write(request_)
        status, head, body = await reply(reader)
        assert status == json.loads(body)["status"] == 400
        assert b"content-type: application/problem+json" in head
        assert await reader.read() == b""


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"what?\r\n\r\n", 400),
        (b"POST /v1/pre", 408),
        (b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhal", 408),
        (GET + b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhal", 408),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * LONGEST_HEAD, 431),
    ],
)
async def test_what_came_before_is_answered_before_a_refusal(
    rest: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.connection.ARRIVING_SECONDS", 0.05)
    refused, begun = asyncio.Event(), 0
    refuse = Connection._refuse

    def noting(self: Connection, *reason: Any) -> None:
        refuse(self, *reason)
        refused.set()

    monkeypatch.setattr(Connection, "_refuse", noting)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun
        begun += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"he", "more_body": True})
        await refused.wait()
        await send({"type": "http.response.body", "body": b"llo"})

    before = 1 + rest.startswith(GET)
    async with connected(app) as (reader, writer, _):
        writer.write(GET)
        assert (await reader.readuntil(b"he")).startswith(b"HTTP/1.1 200 ")
        writer.write(rest)
        await writer.drain()
        if status == 431:
            while not refused.is_set():
                writer.write(b"a" * 1000)
                await writer.drain()
                await asyncio.sleep(0)
        assert await reader.readexactly(3) == b"llo"
        for _ in range(before - 1):
            assert (await reply(reader))[2] == b"hello"
        found, _head, body = await reply(reader)
        assert found == json.loads(body)["status"] == status
        assert await reader.read() == b""
    assert begun == before


async def test_a_reply_that_nobody_reads_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.connection.READ_SECONDS", 0.05)
    lost, size = asyncio.Event(), 30_000_000
    async with connected(replying(b"b" * size, length=size), lost) as (_, writer, _calls):
        writer.write(GET)
        await lost.wait()


async def test_a_reply_that_is_read_slowly_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    size, connections = 30_000_000, list[Connection]()
    look = Connection._look_on

    def noting(self: Connection) -> None:
        connections.append(self)
        look(self)

    monkeypatch.setattr(Connection, "_look_on", noting)
    async with connected(replying(b"b" * size, length=size)) as (reader, writer, _):
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        server = connections[0]
        for looked in range(1, 4):
            before = server.transport.get_write_buffer_size()
            while server.transport.get_write_buffer_size() > before - READ_BYTES:
                size -= len(await reader.read(100_000))
            server._has_it_read()
            assert len(connections) == looked + 1, "it is looked at again later"
        await reader.readexactly(size)
