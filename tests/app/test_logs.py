"""One line a request, under an id that the client is told; and nothing that came with it can write a second one."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from app.caller import REQUEST_ID
from app.logs import LineFormatter, RequestLog, escaped, stamp
from tests.app.conftest import Running, running


@pytest.fixture
def pipe() -> Iterator[tuple[int, Callable[[], str]]]:
    """Where to write, and a function that reads all that was written once the writer is done."""
    reading, writing = os.pipe()
    parts: list[bytes] = []

    def drain() -> None:
        while part := os.read(reading, 65_536):
            parts.append(part)

    reader = threading.Thread(target=drain)
    reader.start()
    closed = False

    def written() -> str:
        nonlocal closed
        closed = True
        os.close(writing)
        reader.join(10)
        return b"".join(parts).decode()

    yield writing, written
    if not closed:
        written()
    os.close(reading)


@pytest.mark.anyio
async def test_a_line_for_every_request(service: Running, pipe: tuple[int, Callable[[], str]]) -> None:
    gate = service.app.gate  # type: ignore[attr-defined]
    gate.log = RequestLog("json", pipe[0])
    opened = await service.ok(text="the secret words")
    session_id = opened["session_id"]
    answer = await service.client.get(f"/v1/sessions/{session_id}", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    await service.client.get("/no%0A%1Bwhere/injected?x=%0Ainjected")
    await service.predict(top_k=-1)
    gate.log.close()
    text = pipe[1]()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("POST", "/v1/predict", 200),
        ("GET", "/v1/sessions/{session_id}", 200),
        ("GET", "unmatched", 404),
        ("POST", "/v1/predict", 422),
    ]
    assert lines[1]["request_id"] == "mine-1"
    assert len({line["request_id"] for line in lines}) == 4
    for line in lines:
        assert set(line) == {"time", "level", "event", "request_id", "method", "route", "status", "ms"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert 0 < line["ms"] < 60_000
    for private in (session_id, "secret", "injected"):
        assert private not in text


@pytest.mark.anyio
async def test_routes_that_do_not_say_which_they_are_have_no_parts(service: Running) -> None:
    """Their path is named in place of a template: it must hold nothing of a request."""
    for route in iter_route_contexts(service.app.routes):
        assert isinstance(route.original_route, APIRoute) or "{" not in route.path


@pytest.mark.anyio
async def test_owner_is_named_and_the_key_is_not(pipe: tuple[int, Callable[[], str]]) -> None:
    async with running(api_keys="alice:alice-has-this-key") as service:
        gate = service.app.gate  # type: ignore[attr-defined]
        gate.log = RequestLog("text", pipe[0])
        await service.client.get("/v1/model", headers={"authorization": "Bearer alice-has-this-key"})
        await service.client.get("/v1/model", headers={"authorization": "Bearer some-other-key-here"})
        gate.log.close()
        first, second = pipe[1]().splitlines()
    assert re.fullmatch(r"\S+Z info GET /v1/model 200 \d+\.\d{3} ms request_id=\w+ owner=alice", first)
    assert re.fullmatch(r"\S+Z info GET unmatched 401 \d+\.\d{3} ms request_id=\w+", second)


@pytest.mark.anyio
@pytest.mark.parametrize("sane", ["a", "a-b_c.d:e/f+g=", "x" * 128])
async def test_sane_id_is_taken(service: Running, sane: str) -> None:
    response = await service.client.get("/livez", headers={"x-request-id": sane})
    assert response.headers.get_list("x-request-id") == [sane]


@pytest.mark.anyio
@pytest.mark.parametrize("insane", ["", "a b", "x" * 129, 'a"b', "a\\b", "é", "a\tb", "a%0Ab", "\x1b[2J"])
async def test_other_ids_are_not(service: Running, insane: str) -> None:
    response = await service.client.get("/livez", headers=[(b"x-request-id", insane.encode())])
    assert re.fullmatch(r"[0-9a-f]{18}", response.headers["x-request-id"])


@pytest.mark.anyio
async def test_defect_is_logged_under_the_id_that_is_told(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    service.runtime.poisoned = 2
    response = await service.client.post("/v1/predict", json={"text": "the"}, headers={"x-request-id": "find-me"})
    assert response.status_code == 500
    assert response.headers.get_list("x-request-id") == ["find-me"]
    assert response.json()["request_id"] == "find-me"
    assert any("find-me" in record.getMessage() for record in caplog.records)


def record(message: str, *, failed: bool = False) -> logging.LogRecord:
    error = None
    if failed:
        try:
            raise ValueError("cannot\nFORGED line \x1b[2J")
        except ValueError:
            error = sys.exc_info()
    return logging.LogRecord("nextword", logging.ERROR, "", 0, message, (), error)


def test_message_stays_on_its_line() -> None:
    forged = "it failed\n2026-01-01T00:00:00.000Z info all is well\r\x1b[31m\u2028\x85"
    token = REQUEST_ID.set("r-1")
    try:
        text = LineFormatter("text").format(record(forged, failed=True))
        line = LineFormatter("json").format(record(forged, failed=True))
    finally:
        REQUEST_ID.reset(token)
    first, *rest = text.splitlines()
    assert first.endswith(r"\r\x1b[31m\u2028\x85 request_id=r-1")
    assert " error it failed\\n2026" in first
    assert all(one.startswith("  | ") for one in rest)
    assert "\x1b" not in text
    fields = json.loads(line)
    assert (fields["level"], fields["event"], fields["request_id"]) == ("error", forged, "r-1")
    assert "FORGED" in fields["exception"]
    assert line.isprintable()


def test_stamp_and_escape() -> None:
    assert stamp(1_800_000_000.9996) == "2027-01-15T08:00:00.999Z"
    assert escaped("plain é text") == "plain é text"
    assert escaped("\x00\t\x7f") == r"\x00\t\x7f"


def test_reader_who_does_not_read_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.logs.MOST_WAITING", 3000)
    monkeypatch.setattr("app.logs.GATHER_SECONDS", 0.0)
    reading, writing = os.pipe()
    log = RequestLog("text", writing)

    async def put() -> None:
        for _ in range(20_000):
            log.put("GET", "/livez", 200, 0.001, "id", "")
            await asyncio.sleep(0)

    asyncio.run(put())
    assert 0 < log.dropped < 20_000
    os.close(reading)
    log.close()
    assert not log._thread.is_alive()
    os.close(writing)


def test_closed_log_is_written_whole(pipe: tuple[int, Callable[[], str]]) -> None:
    log = RequestLog("text", pipe[0])

    async def put() -> None:
        for number in range(5000):
            log.put("GET", "/livez", 200, 0.001, str(number), "")

    asyncio.run(put())
    log.close()
    lines = pipe[1]().splitlines()
    assert [line.rpartition("=")[2] for line in lines] == [str(number) for number in range(5000)]
    assert log.dropped == 0
