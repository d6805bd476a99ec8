"""A hundred thousand sessions that go leave nothing behind, and neither does half an hour of coming and going."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from app.schemas import PredictRequest
from app.sessions import Session
from app.states import States
from model.runtimes.base import StateTensor
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, SIZES, FakeRuntime

pytestmark = pytest.mark.anyio

SESSIONS = 100_000


def resident() -> int:
    """Bytes of memory that this process takes up."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def cleared(it: Running) -> int:
    """Clear away what is over; how many sessions that were."""
    total = 0
    while count := await it.service.store.expire(it.clock()):
        total += count
    return total


async def fill(it: Running, count: int) -> list[bytes]:
    """So many sessions of twenty words, each with a state of its own; and what a service comes by meanwhile that
    stays when they go: small objects of every size, some for each arena's worth of sessions."""
    states, store, now = it.service.scheduler.states, it.service.store, it.clock()
    state = tuple(np.ones((1, size), dtype=np.float32) for size in SIZES)
    stays = []
    for number in range(count):
        if number % 500 == 0:
            stays += [bytes(size) for size in range(8, 480, 16)]
        slot = states.take()
        states.write([slot], state)
        recent = number.to_bytes(40, "little")
        await store.commit(Session(f"session {number:024}", slot, 20, 0, "H", recent, now, now + 60, 60), None)
    return stays


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory the process takes up")
async def test_memory_is_back_when_all_sessions_have_expired() -> None:
    async with running(max_sessions=SESSIONS) as it:
        await fill(it, 1000)
        it.clock.now += 61
        await it.service.sweep()
        before = resident()
        stays = await fill(it, SESSIONS)
        full = resident()
        assert len(it.service.store) == SESSIONS
        it.clock.now += 61
        await it.service.sweep()
        after = resident()
        assert (len(it.service.store), it.service.scheduler.states.in_use) == (0, 0)
        assert it.service.expiries == 1000 + SESSIONS
        assert full - before > SESSIONS * 200
        assert after - before < 0.1 * (full - before)
        assert after < 1.1 * before
        assert len(stays) == 30 * SESSIONS // 500


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory the process takes up")
def test_states_that_are_free_take_no_memory() -> None:
    runtime = FakeRuntime()
    runtime.state_tensors = StateTensor("c", 1000, 0), StateTensor("h", 24, 0)
    states = States(runtime, 20_000)
    before = resident()
    values = np.ones((1, 1000), dtype=np.float32), np.ones((1, 24), dtype=np.float32)
    slots = [states.take() for _ in range(10_000)]
    for slot in slots:
        states.write([slot], values)
    assert resident() - before > 40_000_000
    kept = slots[4_000:4_003]
    for slot in slots:
        if slot not in kept:
            states.free(slot)
    states.trim()
    assert resident() - before < 4_000_000
    assert all((tensor == 1).all() for tensor in states.read(kept))
    assert (states.take(), states.take(), states.in_use) == (1, 2, 5)
    states.write([1], values)
    assert all((tensor == 1).all() for tensor in states.read([1]))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_half_an_hour_of_coming_and_going(kind: str, tmp_path: Path) -> None:
    rng = random.Random(30)
    store = kind if kind == "memory" else f"sqlite:{tmp_path / 'sessions.db'}"
    async with running(store=store, session_ttl_seconds=30, max_sessions=150, history_bytes=0) as it:
        service = it.service
        alive: dict[str, float] = {}
        opened = deleted = over = 0
        blocks = []
        for second in range(30 * 60):
            it.clock.now += 1
            now = it.clock()
            over += await cleared(it)
            alive = {session_id: until for session_id, until in alive.items() if until > now}
            assert len(service.store) == len(alive)
            used = rng.sample(sorted(alive), min(2, len(alive)))
            words = [
                service.predict(PredictRequest(words=[rng.choice(PLAIN)], top_k=1, session_id=session_id))
                for session_id in (*used, None)
            ]
            for answer in await asyncio.gather(*words):
                assert answer.session is not None
                opened += answer.position == 1
                alive[answer.session.id] = now + 30
            if rng.random() < 0.2:
                gone = rng.choice(sorted(alive))
                del alive[gone]
                await service.delete(gone)
                deleted += 1
            if second % 60 == 59:
                blocks.append(sys.getallocatedblocks())
        assert opened == 1800
        it.clock.now += 31
        over += await cleared(it)
        assert over + deleted == opened
        assert len(service.store) == service.store.evictions == 0
        # A session takes some ten of them: had every hundredth one left something behind, it would show.
        assert max(blocks[20:]) - max(blocks[5:10]) < 2000
