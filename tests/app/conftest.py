"""The service around a fake runtime, over ASGI and over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from fastapi import FastAPI

from app.main import create_app
from app.service import Service
from app.settings import Settings
from tests.app.fake_runtime import FakeRuntime, artifact
from tests.app.process import write_model


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for `tests.app.process`; nobody changes it."""
    return write_model(tmp_path_factory.mktemp("models") / "fake")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    """Seconds since 1970, as told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Running:
    """A service in this event loop. `client` talks to it over ASGI."""

    def __init__(self, app: FastAPI, runtime: FakeRuntime, clock: Clock, client: httpx2.AsyncClient) -> None:
        self.app = app
        self.service: Service = app.state.service
        self.runtime = runtime
        self.clock = clock
        self.client = client

    async def predict(self, **fields: Any) -> httpx2.Response:
        return await self.client.post("/v1/predict", json=fields)

    async def ok(self, **fields: Any) -> dict[str, Any]:
        """The reply to a predict request that must succeed."""
        response = await self.predict(**fields)
        assert response.status_code == 200, response.text
        return response.json()  # type: ignore[no-any-return]

    async def in_flight(self, count: int) -> None:
        """Wait until so many requests are being served, and have been handed to the engine."""
        with anyio.fail_after(10):
            while self.service.scheduler.in_flight != count:
                await anyio.lowlevel.checkpoint()
        for _ in range(10):  # rounds of the event loop from its first line to the hand-over; nothing else is awaited
            await anyio.lowlevel.checkpoint()


def leaked(service: Service) -> str | None:
    """What is left over when nobody is asking for anything; None if nothing is."""
    if len(service.turns) or service.scheduler.in_flight:
        return "a turn was never ended"
    sessions, states = [session.state for session in service.store], service.scheduler.states
    if states.in_use != len({*sessions, *service.history} - {0}):
        return "a state slot"
    if states.references != sum(slot != 0 for slot in sessions) + len(service.history):
        return "somebody who points at a state slot, or does no more"
    return None


@asynccontextmanager
async def running(
    start: str | None = "<eos>", model: str = "fake@0123456789ab", **settings: Any
) -> AsyncIterator[Running]:
    """A service with the fake runtime, ready; afterwards no state slot may be left over. model: its id."""
    runtime, clock = FakeRuntime(), Clock()
    app = create_app(Settings(**settings), runtime=runtime, artifact=replace(artifact(start), id=model), clock=clock)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app):
        service: Service = app.state.service
        await service.scheduler.started()
        runtime.batches.clear()
        runtime.products.clear()
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            yield Running(app, runtime, clock, client)
        runtime.gate.set()
    assert leaked(service) is None


@pytest.fixture
async def service() -> AsyncIterator[Running]:
    async with running() as it:
        yield it
