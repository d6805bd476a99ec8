"""Through HTTP: parsing, tokenizing, states that are brought along; and below it, what is no HTTP at all."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.app.conftest import Running, running
from tests.app.fuzz.bodies import contents, damaged
from tests.app.process import serving

#: Requests that all tests here make together, roughly; `make fuzz` makes more.
REQUESTS = int(os.environ.get("FUZZ", "3000"))
#: What an example is about is sent as it is, and in so many damaged versions.
DAMAGED = 9
#: Of bodies, an example has several: most of what is wrong with them lies deeper than in their bytes.
BODIES = 5

SEEDS = st.integers(0, 2**32)


def examples(requests: int) -> settings:
    """As many examples as make so many requests."""
    return settings(
        max_examples=max(10, requests // (DAMAGED + 1)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Fuzzed:
    """A service, a session in it, and a loop to talk to it in."""

    def __init__(self, runner: asyncio.Runner, service: Running) -> None:
        self.runner = runner
        self.service = service
        self.session = runner.run(service.ok(text="the cat sat"))
        document = runner.run(service.client.get("/openapi.json")).json()
        self.answers: Counter[int] = Counter()
        self.calls: dict[str, list[str]] = {}
        for path, item in document["paths"].items():
            content = item.get("post", {}).get("requestBody", {}).get("content", {})
            if "application/json" in content:
                self.calls[path] = sorted(content["application/json"]["schema"]["properties"])

    def living(self) -> str:
        """A session that is there: others have been opened meanwhile, and this one may have had to make room."""
        session_id: str = self.session["session_id"]
        if self.send("POST", "/v1/predict", json={"session_id": session_id}).status_code == 410:
            self.session = self.runner.run(self.service.ok(text="the cat sat"))
        return str(self.session["session_id"])

    def send(self, method: str, path: str, **rest: Any) -> httpx2.Response:
        """A request, and what holds of every answer."""
        response = self.runner.run(self.service.client.request(method, path, **rest))
        assert response.status_code < 500, response.text
        self.answers[response.status_code] += 1
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["status"] == response.status_code
        assert response.headers["x-request-id"]
        return response


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    """Afterwards the service is well: ready, nothing logged as an error, no state and no turn left over."""
    errors: list[str] = []

    class Errors(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    handler = Errors(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        with asyncio.Runner() as runner:
            context = running(max_sessions=50)
            it = Fuzzed(runner, runner.run(context.__aenter__()))
            yield it
            assert it.send("GET", "/readyz").status_code == 200
            again = runner.run(it.service.ok(text="the cat sat"))
            assert again["predictions"] == it.session["predictions"]
            runner.run(context.__aexit__(None, None, None))
            shown = ", ".join(f"{status}: {count:,}" for status, count in sorted(it.answers.items()))
            print(f"\n{it.answers.total():,} requests were answered; {shown}")
    finally:
        logging.getLogger().removeHandler(handler)
    assert errors == []


@examples(REQUESTS * 7 // 10)
@given(data=st.data(), seed=SEEDS)
def test_bodies(fuzzed: Fuzzed, data: st.DataObject, seed: int) -> None:
    template = data.draw(st.sampled_from(sorted(fuzzed.calls)))
    session_id = fuzzed.living()
    path = template.replace("{session_id}", session_id)
    for content in data.draw(st.lists(contents(fuzzed.calls[template], session_id), min_size=BODIES, max_size=BODIES)):
        for body in (content, *damaged(content, seed, 1)):
            fuzzed.send("POST", path, content=body)


@examples(REQUESTS // 10)
@given(text=st.sampled_from(["the", "the cat", "a dog ran"]), noise=st.binary(max_size=300), seed=SEEDS)
def test_states(fuzzed: Fuzzed, text: str, noise: bytes, seed: int) -> None:
    opened = fuzzed.runner.run(fuzzed.service.ok(text=text))
    state = fuzzed.send("GET", f"/v1/sessions/{opened['session_id']}/state").content
    for content in (state, noise, *damaged(state, seed, DAMAGED - 1)):
        response = fuzzed.send(
            "POST", "/v1/sessions", content=content, headers={"content-type": "application/vnd.nextword.state"}
        )
        assert (response.status_code == 201) == (content == state)


@examples(REQUESTS)
@given(
    method=st.sampled_from(["GET", "DELETE", "POST", "PUT", "HEAD", "OPTIONS"]),
    path=st.text(st.characters(codec="utf-8", min_codepoint=33), max_size=60),
    header=st.binary(max_size=40).filter(lambda value: not set(value) & set(b"\r\n\x00")),
)
def test_paths_and_headers(fuzzed: Fuzzed, method: str, path: str, header: bytes) -> None:
    names = (b"x-session-id", b"x-request-id", b"content-length", b"content-type", b"origin", b"authorization")
    scope = {
        "type": "http",
        "method": method,
        "path": "/v1/sessions/" + path,
        "headers": [(name, header) for name in names],
        "query_string": header,
    }
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    fuzzed.runner.run(fuzzed.service.app(scope, receive, send))  # type: ignore[arg-type]
    assert len(statuses) == 1
    assert statuses[0] < 500
    fuzzed.answers[statuses[0]] += 1


_REQUEST = (
    b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b'Content-Length: 15\r\nConnection: close\r\n\r\n{"text": "the"}'
)


def test_what_is_no_http(directory: Path) -> None:
    with serving(directory, "--no-access-log") as (process, address):
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        host, port = address.removeprefix("http://").split(":")

        connections = 0

        @examples(REQUESTS // 10)
        @given(noise=st.binary(max_size=300), seed=SEEDS)
        def test(noise: bytes, seed: int) -> None:
            nonlocal connections
            for content in (noise, *damaged(_REQUEST, seed, DAMAGED)):
                # Closed on this side, so that the server need not wait for what will never come.
                with socket.create_connection((host, int(port)), timeout=30) as connection, suppress(ConnectionError):
                    connection.sendall(content)
                    connection.shutdown(socket.SHUT_WR)
                    assert b"HTTP/1.1 5" not in connection.recv(65_536)
                connections += 1

        test()
        print(f"\n{connections:,} connections brought what is no HTTP, or nearly none")
        assert process.poll() is None
        assert httpx2.get(f"{address}/readyz", timeout=30).status_code == 200
