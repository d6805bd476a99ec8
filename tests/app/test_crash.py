"""Servers that are killed at any moment, a Redis that is, and a disk that fills up: no word is lost or counted twice.

KILLS says how often each is killed; by default that is a handful.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.app.population import Population
from tests.app.process import serving
from tests.app.redis_server import redis_server

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("KILLS", "3"))
KEY = ("--session-key", "a key that all replicas share")


def report(killed: str, population: Population) -> None:
    """Reached only when `Population.finish` has compared every word."""
    print(
        f"{killed}: {KILLS} kills, {population.words:,} words acknowledged, none lost, none twice; "
        f"{population.lost:,} requests were not answered and asked again"
    )


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
        report(f"server on {kind}", population)
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
        report("Redis", population)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, of a megabyte; skips the test where this process may not make one."""
    path = folder / "disk"
    path.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], check=True, capture_output=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be made here: {error}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)  # noqa: S607


def fill(path: Path) -> None:
    """Leave no room on the disk of this file."""
    with path.open("ab", buffering=0) as file:
        for size in (4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process can be set on Linux only")
@pytest.mark.parametrize("full", ["limit", "disk"])
async def test_disk_that_fills_up(full: str, directory: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(small_disk(tmp_path)) if full == "disk" else tmp_path
        ballast = folder / "ballast"
        store = f"sqlite:{folder / 'sessions.db'}"
        process, address = stack.enter_context(serving(directory, "--no-access-log", "--store", store))
        unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        client = httpx2.AsyncClient(base_url=address)
        async with Population([address], 8, seed=3) as population, client:

            async def ready(status: int) -> None:
                async with asyncio.timeout(20):
                    while (await client.get("/readyz")).status_code != status:
                        await asyncio.sleep(0.02)

            for _ in range(2):
                await population.answers(40)
                assert population.lost == 0
                if full == "disk":
                    fill(ballast)
                else:  # no file can grow beyond what the largest one is now
                    size = max(file.stat().st_size for file in folder.iterdir())
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
                await ready(503)
                ballast.unlink(missing_ok=True)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
                await ready(200)
                await population.answers(40)
                assert population.lost > 0
                population.lost = 0
            await population.finish()


async def test_snapshot_on_a_full_disk(directory: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        path = disk / "sessions"

        async def stops(process: subprocess.Popen[str]) -> str:
            process.terminate()
            assert process.stderr is not None
            log = await asyncio.to_thread(process.stderr.read)
            process.wait(20)
            return log

        server = partial(serving, directory, "--no-access-log", "--snapshot", str(path))
        async with Population([], 8, seed=4) as population:
            with server() as (process, address):
                population.addresses.append(address)
                await population.answers(100)
                await population.finish()
                assert f"8 sessions were written to {path}" in await stops(process)
            content = path.read_bytes()
            with server() as (process, address):
                async with httpx2.AsyncClient(base_url=address) as client:
                    assert (await client.post("/v1/predict", json={"text": "the cat"})).status_code == 200
                fill(disk / "ballast")
                log = await stops(process)
            taken = path.with_name("sessions.taken")
            assert f"could not be written to {path} and are gone: [Errno 28]" in log
            assert f"those of the last start are in {taken}" in log
            assert taken.read_bytes() == content
            assert sorted(disk.iterdir()) == [disk / "ballast", taken]
            taken.rename(path)
            with server() as (_, address):
                population.addresses[:] = [address]
                await population.check()
