"""A place for each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import Running
from tests.app.redis_server import RedisServer, redis_server

KEY = "a key that all replicas share"


@pytest.fixture(scope="package", autouse=True)
def few_at_hand() -> Iterator[None]:
    """Sessions are read from their records here, nearly all of them. With few, they would all be at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.stores.memory.AT_HAND", 1)
        yield


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis"), "--appendfsync", "no") as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One that the test may kill."""
    with redis_server(tmp_path) as server:
        yield server


def place(kind: str, folder: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of an empty store of this kind."""
    if kind == "snapshot":
        return {"snapshot": folder / "sessions"}
    if kind == "sqlite":
        return {"store": f"sqlite:{folder / 'sessions.db'}"}
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("shared_redis")
        with server.client() as client:
            client.flushall()
        return {"store": server.url, "session_key": KEY}
    return {"store": kind}


async def let_pass(it: Running, seconds: float, request: pytest.FixtureRequest) -> None:
    """Time for the service and for its store."""
    it.clock.now += seconds
    if it.service.settings.store.startswith("redis"):
        request.getfixturevalue("shared_redis").let_pass(seconds)
    await it.service.store.expire(it.clock())


@pytest.fixture(params=["memory", "snapshot", "sqlite", "redis"])
def every(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of an empty store, of each kind."""
    return place(request.param, tmp_path, request)


@pytest.fixture(params=["sqlite", "redis"])
def outside(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The same, of those that several servers can share."""
    return place(request.param, tmp_path, request)


@pytest.fixture(params=["snapshot", "sqlite", "redis"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The same, of those that are there again after a restart."""
    return place(request.param, tmp_path, request)


@pytest.fixture(params=["memory", "snapshot", "sqlite"])
def counted(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The same, of those that look after their size and their sessions' time by themselves."""
    return place(request.param, tmp_path, request)
