"""Between the event loop and the engine thread: back-pressure, clients that leave, a runtime that fails, the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

import app.scheduler
from app.main import create_app
from app.scheduler import Status
from app.sessions import SessionIds
from app.settings import Settings
from tests.app.conftest import Running, running
from tests.app.fake_runtime import FakeRuntime, Oracle, artifact
from tests.app.test_predict import WHOLE, assert_equals

pytestmark = pytest.mark.anyio


async def test_queue_full_is_answered_before_any_work() -> None:
    async with running(max_queue=4, retry_after_seconds=7) as service:
        session = f"/v1/sessions/{(await service.ok(text='the'))['session_id']}"
        service.runtime.gate.clear()
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await service.predict(text="the")).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(ask)
            await service.in_flight(4)
            for call in (
                service.client.post("/v1/predict", content=b"not even JSON"),
                service.client.post("/v1/sessions"),
                service.client.get(session),
                service.client.delete(session),
            ):
                response = await call
                assert response.status_code == 503
                assert response.headers["retry-after"] == "7"
                assert response.headers["content-type"] == "application/problem+json"
            service.runtime.gate.set()
        assert statuses == [200] * 4
        assert (await service.predict(text="the")).status_code == 200
        assert (await service.client.get(session)).status_code == 200


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_nobody_is_told_of_sessions_before_they_are_there(store: str, tmp_path: Path) -> None:
    name = "memory" if store == "memory" else f"sqlite:{tmp_path / 'sessions.db'}"
    app = create_app(Settings(store=name), runtime=FakeRuntime(), artifact=artifact())
    path = f"/v1/sessions/{SessionIds().issue()}"
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        for method in ("GET", "DELETE"):
            assert (await client.request(method, path)).status_code == 503
    async with app.router.lifespan_context(app):  # what was opened is closed
        await app.state.service.scheduler.started()


class Caller:
    """One ASGI request whose client can leave at any moment."""

    def __init__(self, service: Running, body: bytes) -> None:
        self._service = service
        self._messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        self._left = anyio.Event()
        self.sent: list[Any] = []

    async def run(self, path: str = "/v1/predict") -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "client": ("test", 1),
            "server": ("test", 80),
        }
        await self._service.app(scope, self._receive, self._send)

    def leave(self) -> None:
        self._left.set()

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def test_client_that_leaves_is_dropped_and_changes_nothing(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    service.runtime.gate.clear()
    body = b'{"session_id": "%s", "words": [%s]}' % (session.encode(), b",".join([b'"dog"'] * 1000))
    caller = Caller(service, body)
    service.runtime.batches.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(caller.run)
        await service.in_flight(1)
        caller.leave()
        await service.in_flight(0)
        service.runtime.gate.set()
    assert caller.sent == []
    oracle = Oracle()
    oracle.consume("the", "cat")
    reply = await service.ok(session_id=session, position=2, **WHOLE)
    assert_equals(reply, oracle)
    assert len(service.runtime.batches) <= 2, "steps were taken for a client that had left"


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/sessions"])
async def test_new_session_of_a_client_that_leaves_is_not_opened(service: Running, path: str) -> None:
    service.runtime.gate.clear()
    caller = Caller(service, b'{"text": "the cat"}')
    async with anyio.create_task_group() as group:
        group.start_soon(caller.run, path)
        await service.in_flight(1)
        caller.leave()
        await service.in_flight(0)
        service.runtime.gate.set()
    assert len(service.service.store) == 0
    await service.ok(keep=False)


async def test_client_that_leaves_while_waiting_for_its_turn(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    service.runtime.gate.clear()
    caller = Caller(service, b'{"session_id": "%s", "text": "dog"}' % session.encode())
    replies: list[dict[str, Any]] = []

    async def ask(word: str) -> None:
        replies.append(await service.ok(session_id=session, text=word, **WHOLE))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, "cat")
        await service.in_flight(1)
        group.start_soon(caller.run)
        await service.in_flight(2)
        group.start_soon(ask, "sat")
        await service.in_flight(3)
        caller.leave()
        await service.in_flight(2)
        service.runtime.gate.set()
    oracle = Oracle()
    oracle.consume("the", "cat", "sat")
    assert replies[-1]["position"] == 3
    assert_equals(replies[-1], oracle)


async def test_client_that_leaves_in_mid_body(service: Running) -> None:
    caller = Caller(service, b"")
    caller._messages = [{"type": "http.request", "body": b'{"text"', "more_body": True}, {"type": "http.disconnect"}]
    await caller.run()
    assert caller.sent == []


async def test_error_in_one_request_fails_that_one_only(service: Running) -> None:
    service.runtime.poisoned = artifact().tokenizer.id_of("dog")
    service.runtime.gate.clear()
    statuses: dict[int, int] = {}

    async def ask(number: int) -> None:
        text = "the dog sat" if number == 5 else "the cat sat"
        statuses[number] = (await service.predict(text=text)).status_code

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(ask, number)
        await service.in_flight(12)
        service.runtime.gate.set()
    assert statuses == {number: 500 if number == 5 else 200 for number in range(12)}
    assert service.service.scheduler.status is Status.READY


async def test_failing_runtime_answers_everybody_and_turns_readiness_off(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.scheduler, "PROBE_SECONDS", 0.01)
    session = (await service.ok(text="the cat"))["session_id"]
    service.runtime.gate.clear()
    statuses: list[int] = []

    async def ask(fields: dict[str, Any]) -> None:
        statuses.append((await service.predict(text="sat on", **fields)).status_code)

    async with anyio.create_task_group() as group:
        for fields in ({}, {}, {"session_id": session}):
            group.start_soon(ask, fields)
        await service.in_flight(3)
        service.runtime.broken = RuntimeError("the device is gone")
        service.runtime.gate.set()
    assert statuses == [503] * 3
    assert service.service.scheduler.status is Status.FAILED
    ready = await service.client.get("/readyz")
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
    assert (await service.client.get("/livez")).status_code == 200
    refused = await service.predict(text="the")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    monkeypatch.setattr(app.scheduler, "LOST_SECONDS", 0.0)  # too long for one that comes back by itself
    assert (await service.client.get("/livez")).status_code == 503
    service.runtime.broken = None
    with anyio.fail_after(10):
        while service.service.scheduler.status is not Status.READY:
            await anyio.sleep(0.005)
    assert (await service.client.get("/livez")).status_code == 200
    reply = await service.ok(session_id=session, position=2, **WHOLE)
    oracle = Oracle()
    oracle.consume("the", "cat")
    assert_equals(reply, oracle)


async def test_not_ready_until_loaded() -> None:
    runtime = FakeRuntime()
    runtime.gate.clear()
    app = create_app(Settings(), runtime=runtime, artifact=artifact())
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client,
    ):
        assert (await client.get("/livez")).status_code == 200
        for response in (
            await client.get("/readyz"),
            await client.post("/v1/predict", json={"text": "the"}),
            await client.get("/v1/model"),
        ):
            assert response.status_code == 503, response.url
            assert response.headers["retry-after"] == "1"
        runtime.gate.set()
        await app.state.service.scheduler.started()
        assert (await client.get("/readyz")).status_code == 200
        model = (await client.get("/v1/model")).json()
        assert model == {
            "name": "fake",
            "id": "fake@0123456789ab",
            "network": "simple_rnn",
            "vocabulary": runtime.vocabulary_size,
            "parameters": 6,
            "device": "cpu",
            "runtime": "fake",
            "state_bytes": 44,
            "perplexity": 12.5,
        }


async def test_runtime_that_cannot_be_loaded() -> None:
    runtime = FakeRuntime()
    runtime.broken = RuntimeError("no such device")
    app = create_app(Settings(), runtime=runtime, artifact=artifact())
    async with app.router.lifespan_context(app):
        with pytest.raises(RuntimeError, match="no such device"):
            await app.state.service.scheduler.started()
        assert app.state.service.scheduler.status is Status.FAILED


async def test_draining_finishes_what_is_in_hand_and_takes_no_more(service: Running) -> None:
    service.runtime.gate.clear()
    replies: list[dict[str, Any]] = []

    async def ask() -> None:
        replies.append(await service.ok(text="the cat", **WHOLE))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await service.in_flight(1)
        assert not await service.service.scheduler.drain(0)
        assert (await service.client.get("/readyz")).status_code == 503
        assert (await service.client.get("/livez")).status_code == 200
        refused = await service.predict(text="the")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        service.runtime.gate.set()
    assert await service.service.scheduler.drain(10)
    oracle = Oracle()
    oracle.consume("the", "cat")
    assert_equals(replies[0], oracle)
