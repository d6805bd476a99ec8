"""Two replicas on one store: whoever commits first wins, and nobody is told what is not so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.stores.redis import GRACE_SECONDS
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, Oracle
from tests.app.redis_server import RedisServer
from tests.app.stores.conftest import KEY

pytestmark = pytest.mark.anyio


@pytest.fixture
async def replicas(outside: dict[str, Any]) -> AsyncIterator[tuple[Running, Running]]:
    outside["session_key"] = KEY
    async with running(**outside) as one, running(**outside) as other:
        yield one, other


def agrees(reply: dict[str, Any], words: str) -> bool:
    oracle = Oracle()
    oracle.consume(*words.split())
    best = reply["predictions"][0]
    return bool(
        reply["position"] == len(words.split())
        and best["probability"] == pytest.approx(oracle.row()[best["word"]], abs=1e-5)
    )


async def test_session_goes_on_at_either(replicas: tuple[Running, Running]) -> None:
    said = ["the"]
    reply = await replicas[0].ok(text="the")
    for number in range(12):
        word = PLAIN[number]
        said.append(word)
        it = replicas[(number * 7 // 3) % 2]
        reply = await it.ok(session_id=reply["session_id"], words=[word], position=len(said) - 1)
        assert agrees(reply, " ".join(said))


async def test_two_models_on_one_redis_refuse_each_others_sessions_and_go_on_with_their_own(
    shared_redis: RedisServer,
) -> None:
    """As in the hour of an upgrade, when the old model still serves those who came before. A file has one model."""
    place: dict[str, Any] = {"store": shared_redis.url, "session_key": KEY}
    async with running(**place) as old, running(model="fake@ba9876543210", **place) as new:
        theirs, ours = [(await it.ok(text="the cat"))["session_id"] for it in (old, new)]
        for it, foreign in ((new, theirs), (old, ours)):
            for response in (
                await it.predict(session_id=foreign, text="sat"),
                await it.client.get(f"/v1/sessions/{foreign}"),
                await it.client.post(f"/v1/sessions/{foreign}/fork"),
            ):
                assert response.status_code == 409, response.text
                assert response.json()["type"] == "urn:nextword:problem:other-model"
                assert response.headers["x-should-retry"] == "false"
        assert agrees(await old.ok(session_id=theirs, text="sat", position=2), "the cat sat")
        assert agrees(await new.ok(session_id=ours, text="sat", position=2), "the cat sat")


async def test_looking_sees_what_the_other_has_done(replicas: tuple[Running, Running]) -> None:
    one, other = replicas
    opened = await one.ok(text="the cat")
    path = f"/v1/sessions/{opened['session_id']}"
    assert (await other.client.get(path)).json()["position"] == 2
    await one.ok(session_id=opened["session_id"], text="sat")
    shown = (await other.client.get(path)).json()
    assert (shown["position"], shown["words"]) == (3, ["the", "cat", "sat"])


async def test_position_is_compared_with_the_session_not_with_an_old_copy(replicas: tuple[Running, Running]) -> None:
    one, other = replicas
    session_id = (await one.ok(text="the cat"))["session_id"]
    await other.ok(session_id=session_id, text="sat on", position=2)
    # The copy at `one` is at 2 still.
    conflict = await one.predict(session_id=session_id, text="dog", position=2)
    assert (conflict.status_code, conflict.json()["position"]) == (409, 4)
    await other.ok(session_id=session_id, text="mat", position=4)
    assert agrees(await one.ok(session_id=session_id, text="a", position=5), "the cat sat on mat a")
    await other.ok(session_id=session_id, text="dog", position=6)
    assert agrees(await one.ok(session_id=session_id, text="dog", position=6), "the cat sat on mat a dog")
    # To the copy this is the last request once more, to the session it is an old one.
    await other.ok(session_id=session_id, text="ran", position=7)
    assert (await one.predict(session_id=session_id, text="dog", position=6)).status_code == 409


async def test_session_deleted_at_the_other_is_gone(replicas: tuple[Running, Running]) -> None:
    one, other = replicas
    session_id = (await one.ok(text="the cat"))["session_id"]
    assert (await other.client.delete(f"/v1/sessions/{session_id}")).status_code == 204
    assert (await one.predict(session_id=session_id, text="sat")).status_code == 410
    assert (await one.client.get(f"/v1/sessions/{session_id}")).status_code == 410
    assert not list(one.service.store)


async def test_session_that_the_other_kept_alive_is_not_over(replicas: tuple[Running, Running]) -> None:
    one, other = replicas
    session_id = (await one.ok(text="the cat"))["session_id"]
    one.clock.now += 1000
    other.clock.now += 1000
    await other.ok(session_id=session_id, text="sat")
    one.clock.now += 1000
    assert agrees(await one.ok(session_id=session_id, text="on"), "the cat sat on")


async def test_race_without_position_counts_every_word_once(replicas: tuple[Running, Running]) -> None:
    session_id = (await replicas[0].ok(text="the"))["session_id"]
    words = PLAIN[:16]

    async def say(number: int) -> None:
        it = replicas[number % 2]
        while (reply := await it.predict(session_id=session_id, words=[words[number]])).status_code == 503:
            pass  # the other replica was faster ten times
        assert reply.status_code == 200

    await asyncio.gather(*map(say, range(len(words))))
    shown = (await replicas[0].client.get(f"/v1/sessions/{session_id}")).json()
    assert sorted(shown["words"]) == sorted(["the", *words])
    reply = await replicas[1].ok(session_id=session_id, position=17)
    assert agrees(reply, " ".join(shown["words"]))


async def test_race_with_position_has_one_winner(replicas: tuple[Running, Running]) -> None:
    session_id = (await replicas[0].ok(text="the"))["session_id"]
    said = ["the"]
    for number in range(1, 11):
        words = PLAIN[number], PLAIN[number + 15]
        both = [
            it.predict(session_id=session_id, words=[word], position=number)
            for it, word in zip(replicas, words, strict=True)
        ]
        replies = await asyncio.gather(*both)
        assert sorted(reply.status_code for reply in replies) == [200, 409]
        assert next(reply for reply in replies if reply.status_code == 409).json()["position"] == number + 1
        said.append(words[0] if replies[0].status_code == 200 else words[1])
        winner = next(reply for reply in replies if reply.status_code == 200)
        assert agrees(winner.json(), " ".join(said))


async def test_old_copy_is_not_taken_for_what_a_store_that_fell_back_has_become(shared_redis: RedisServer) -> None:
    """A Redis that fails over to a replica of it may have lost what was written last."""
    options: dict[str, Any] = {"store": shared_redis.url, "session_key": KEY}
    async with running(**options) as one, running(**options) as other:
        session_id = (await one.ok(text="the"))["session_id"]
        key = f"nextword:session:{session_id}"
        with shared_redis.client() as client:
            before = client.get(key)
            assert isinstance(before, bytes)
            await one.ok(session_id=session_id, text="cat", position=1)
            client.set(key, before)
        assert agrees(await other.ok(session_id=session_id, text="dog", position=1), "the dog")
        # As many words and commits as the copy here knows of, but others.
        assert agrees(await one.ok(session_id=session_id, text="ran", position=2), "the dog ran")


async def test_same_request_at_both_counts_once(replicas: tuple[Running, Running]) -> None:
    session_id = (await replicas[0].ok(text="the"))["session_id"]
    for number in range(1, 6):
        both = [it.ok(session_id=session_id, words=[PLAIN[number]], position=number) for it in replicas]
        assert [reply["position"] for reply in await asyncio.gather(*both)] == [number + 1] * 2


async def test_common_request_costs_one_round_trip(shared_redis: RedisServer) -> None:
    async with running(store=shared_redis.url, session_key=KEY) as it:
        session_id = (await it.ok(text="the cat"))["session_id"]
        with shared_redis.client() as client:
            client.config_resetstat()
            for number in range(5):
                await it.ok(session_id=session_id, text="sat", position=2 + number)
            calls = {name: value["calls"] for name, value in client.info("commandstats").items()}  # type: ignore[union-attr]
        assert calls.pop("cmdstat_evalsha") == 5
        # What the script does inside the server, what resets and reads these figures, and what opens a connection.
        inside = {"getrange", "set", "info", "config", "client", "select", "hello", "command"}
        assert {name.removeprefix("cmdstat_").partition("|")[0] for name in calls} <= inside


async def test_server_forgets_sessions_by_itself(shared_redis: RedisServer) -> None:
    async with running(store=shared_redis.url, session_key=KEY, session_ttl_seconds=50) as it:
        session_id = (await it.ok(text="the cat"))["session_id"]
        for _ in range(3):
            shared_redis.let_pass(40)
            it.clock.now += 40
            await it.ok(session_id=session_id, text="sat")
        it.clock.now += 50
        assert (await it.predict(session_id=session_id)).status_code == 410
        with shared_redis.client() as client:
            assert client.exists(f"nextword:session:{session_id}")
            shared_redis.let_pass(50 + GRACE_SECONDS)
            assert not client.exists(f"nextword:session:{session_id}")
        assert (await it.predict(session_id=session_id)).status_code == 410
        assert not list(it.service.store)
