"""Servers that are killed at any moment, a Redis that is, and a disk that fills up: no word is lost or counted twice.

KILLS says how often each is killed; by default that is a handful.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.app.population import Population
from tests.app.process import serving
from tests.app.redis_server import redis_server

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("KILLS", "3"))
KEY = ("--session-key", "a key that all replicas share")


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_server_killed_at_random_moments(kind: str, directory: Path, tmp_path: Path) -> None:
    rng = random.Random(20)
    with ExitStack() as stack:
        place = f"sqlite:{tmp_path / 'sessions.db'}"
        if kind == "redis":
            place = stack.enter_context(redis_server(tmp_path)).url
        server = serving(directory, "--no-access-log", "--store", place, *KEY)
        process, address = await asyncio.to_thread(server.__enter__)
        async with Population([address], 8, seed=1) as population:
            for _ in range(KILLS):
                await population.answers(rng.randrange(8, 60))
                await asyncio.sleep(rng.random() / 100)
                process.kill()
                population.addresses.clear()
                await asyncio.to_thread(server.__exit__, None, None, None)
                server = serving(directory, "--no-access-log", "--store", place, *KEY)
                process, address = await asyncio.to_thread(server.__enter__)
                population.addresses.append(address)
            await population.answers(40)
            await population.finish()
            assert population.lost >= KILLS
        await asyncio.to_thread(server.__exit__, None, None, None)


async def test_redis_killed_and_restarted(directory: Path, tmp_path: Path) -> None:
    rng = random.Random(21)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        _, address = stack.enter_context(serving(directory, "--no-access-log", "--store", redis.url, *KEY))
        async with Population([address], 8, seed=2) as population:
            for _ in range(KILLS):
                await population.answers(rng.randrange(8, 60))
                await asyncio.sleep(rng.random() / 100)
                redis.kill()
                lost = population.lost
                async with asyncio.timeout(20):
                    while population.lost < lost + 8:
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(redis.start)
            await population.answers(40)
            await population.finish()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process can be set on Linux only")
async def test_disk_that_fills_up(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with serving(directory, "--no-access-log", "--store", f"sqlite:{path}") as (process, address):
        unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        async with Population([address], 8, seed=3) as population, httpx2.AsyncClient(base_url=address) as client:

            async def ready(status: int) -> None:
                async with asyncio.timeout(20):
                    while (await client.get("/readyz")).status_code != status:
                        await asyncio.sleep(0.02)

            for _ in range(2):
                await population.answers(40)
                assert population.lost == 0
                # No file can grow beyond what the largest one is now.
                size = max(file.stat().st_size for file in tmp_path.iterdir())
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
                await ready(503)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
                await ready(200)
                await population.answers(40)
                assert population.lost > 0
                population.lost = 0
            await population.finish()
