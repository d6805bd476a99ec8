"""The crowd of the soak finds nothing wrong with a service that is right, and notices one that is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.app.fake_runtime import PLAIN
from tests.app.live import Live, live
from tests.benchmarks.crowd import Client, Crowd, WrongError


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live() as it:
        yield it


def port_of(server: Live) -> int:
    return int(server.address.rpartition(":")[2])


def test_it_finds_nothing_wrong(server: Live) -> None:
    found = asyncio.run(Crowd(port_of(server), PLAIN, 0.5, 400.0, 3).run())
    assert found["wrong"] == {}
    assert found["lost"] == 0
    assert found["sessions"] > 70
    assert {"requests", "left", "malformed", "slow", "words"} <= set(found["counts"])


def test_it_notices_a_word_that_was_lost_and_a_session_that_is_gone(server: Live) -> None:
    async def notice() -> None:
        crowd, client = Crowd(port_of(server), PLAIN, 0, None, 3), Client(port_of(server))
        await client.open()
        await client.predict(["the", "cat"])
        assert await crowd._stands(client)
        client.words[0] = "a"
        assert not await crowd._stands(client)
        client.position -= 1
        with pytest.raises(WrongError, match="409"):
            await client.predict(["sat"])
        await client.ask(f"DELETE /v1/sessions/{client.id} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        assert not await crowd._stands(client)
        client.leave()

    asyncio.run(notice())
