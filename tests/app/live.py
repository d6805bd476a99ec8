"""The service on a real socket, in a thread of this process: what clients of other people are tried against."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from app.connection import Connection
from app.main import create_app
from app.service import Service
from app.settings import Settings
from model.artifact import Artifact
from model.runtimes.base import Ids, Runtime, State
from tests.app.fake_runtime import FakeRuntime, artifact


class Steps:
    """Lets a runtime take only as many steps as it is told to."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self._advance = runtime.advance
        self._permits = threading.Semaphore(0)
        runtime.advance = self.advance  # type: ignore[method-assign]

    def advance(self, ids: Ids, state: State) -> State:
        if not self._permits.acquire(timeout=30):
            raise TimeoutError("no step was allowed")
        return self._advance(ids, state)

    def allow(self, count: int) -> None:
        self._permits.release(count)


class Live:
    """A server that is ready, at `address`."""

    def __init__(self, address: str, runtime: FakeRuntime, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.runtime = runtime
        self.service = service
        self._loop = loop

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so, as the server's event loop sees it."""

        async def wait() -> None:
            async with asyncio.timeout(20):
                while not true():
                    await asyncio.sleep(0)

        self.run(wait())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


@contextmanager
def live(runtime: Runtime | None = None, model: Artifact | None = None, **settings: Any) -> Iterator[Live]:
    """A server with the fake runtime, or with a real one; afterwards nothing may be left over."""
    chosen: Any = FakeRuntime() if runtime is None else runtime
    app = create_app(Settings(**settings), runtime=chosen, artifact=artifact() if model is None else model)
    service: Service = app.state.service
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    class Server(uvicorn.Server):
        async def on_tick(self, counter: int) -> bool:
            if not ready.is_set() and service.scheduler.status == "ready":
                loops.append(asyncio.get_running_loop())
                ready.set()
            return await super().on_tick(counter)

    server = Server(
        uvicorn.Config(app, http=Connection, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=5)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(20), "the server did not become ready"
            yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", chosen, service, loops[0])
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()
    assert not len(service.turns), "a turn was never ended"
    assert service.scheduler.in_flight == 0
    held = {*(session.state for session in service.store), *service.history} - {0}
    assert service.scheduler.states.in_use == len(held), "a state slot leaked"
