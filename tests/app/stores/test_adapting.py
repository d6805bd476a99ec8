"""What sessions adapt to is kept wherever they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from model.adaptation import Adaptation
from tests.app.conftest import running
from tests.app.stores.conftest import KEY
from tests.app.test_adapt import HOW, TEXT, assert_adapted, opened
from tests.app.test_predict import WHOLE, probabilities
from tests.app.test_rewind import rewound
from tests.app.test_transfer import exported, imported

pytestmark = pytest.mark.anyio


async def test_it_is_there_again_after_a_restart(lasting: dict[str, Any]) -> None:
    async with running(**lasting) as service:
        begun, empty = await opened(service, words=TEXT), await opened(service)
        plain = (await service.ok(words=TEXT))["session_id"]
        before = await service.ok(session_id=begun, **WHOLE)
    async with running(**lasting) as service:
        after = await service.ok(session_id=begun, **WHOLE)
        assert probabilities(after) == probabilities(before)
        await assert_adapted(service, plain, TEXT, None)
        for number, word in enumerate(TEXT[:9]):
            await service.ok(session_id=empty, words=[word])
            await service.ok(session_id=begun, words=[word])
            await assert_adapted(service, empty, TEXT[: number + 1])
            await assert_adapted(service, begun, TEXT + TEXT[: number + 1])
        await rewound(service, begun, 30)
        await assert_adapted(service, begun, TEXT[:30])


async def test_fewer_pairs_than_before_the_restart(lasting: dict[str, Any]) -> None:
    """Sessions are cut to what the server now keeps, so what it hands out of them it takes."""
    async with running(adapt_size=8, **lasting) as service:
        session = await opened(service, {**HOW, "size": 8}, words=TEXT)
        await assert_adapted(service, session, TEXT, Adaptation(8, HOW["theta"], HOW["weight"]))
    async with running(adapt_size=3, **lasting) as service:
        less = Adaptation(3, HOW["theta"], HOW["weight"])
        await assert_adapted(service, session, TEXT, less)
        other = await imported(service, await exported(service, session))
        await rewound(service, session, 30)
        await assert_adapted(service, session, TEXT[:30], less)
        await assert_adapted(service, other, TEXT, less)


async def test_replicas_take_turns(outside: dict[str, Any]) -> None:
    outside["session_key"] = KEY
    async with running(**outside) as one, running(**outside) as other:
        session = await opened(one)
        for number, word in enumerate(TEXT):
            await (one, other)[number // 2 % 2].ok(session_id=session, words=[word])
        await assert_adapted(one, session, TEXT)
        await assert_adapted(other, session, TEXT)


async def test_few_in_memory_are_all_there(outside: dict[str, Any]) -> None:
    """Copies in memory are bounded; the sessions behind them are not."""
    async with running(max_adapting_sessions=2, **outside) as service:
        sessions = [await opened(service, words=TEXT[:number]) for number in range(6)]
        assert service.service.store.caches()[0] == 2
        for number, session in enumerate(sessions):
            await assert_adapted(service, session, TEXT[:number])
        assert service.service.store.caches()[0] == 2
        assert service.service.store.evictions == 0


async def test_more_in_use_at_once_than_in_memory_are_all_served(outside: dict[str, Any]) -> None:
    """The bound gives way while requests work on all copies, to old sessions as to new ones, and holds again after."""
    async with running(max_adapting_sessions=2, **outside) as service:
        sessions = [await opened(service, words=TEXT[:number]) for number in range(12)]
        service.runtime.gate.clear()
        talks = [asyncio.create_task(service.predict(session_id=session, words=["cat"])) for session in sessions]
        async with asyncio.timeout(20):
            while service.service.store.caches()[0] < 12:
                await asyncio.sleep(0.01)
        opening = asyncio.create_task(opened(service, words=TEXT))
        service.runtime.gate.set()
        assert [reply.status_code for reply in await asyncio.gather(*talks)] == [200] * 12
        await assert_adapted(service, await opening, TEXT)
        await service.service.sweep()
        assert service.service.store.caches()[0] == 2
        for number, session in enumerate(sessions):
            await assert_adapted(service, session, [*TEXT[:number], "cat"])
        assert service.service.store.caches()[0] == 2
