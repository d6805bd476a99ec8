"""Two servers and one Redis behind a client that asks them in turn."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.app.population import Population
from tests.app.process import serving
from tests.app.redis_server import redis_server

pytestmark = pytest.mark.anyio

KEY = ("--session-key", "a key that all replicas share")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_sessions_interleaved_over_two_replicas_go_on_when_one_stops(
    number: signal.Signals, directory: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        both = [stack.enter_context(serving(directory, "--no-access-log", "--store", redis.url, *KEY)) for _ in "12"]
        (one, _), _ = both
        async with Population([address for _, address in both], 12, seed=4) as population:
            await population.answers(400)
            assert population.lost == 0
            one.send_signal(number)
            await asyncio.to_thread(one.wait, 20)
            population.addresses.pop(0)
            await population.answers(200)
            await population.finish()
