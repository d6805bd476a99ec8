"""What every store owes the rest: one suite for all of them."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import fields, replace
from typing import Any

import anyio
import numpy as np
import pytest

import app.stores.choice
from app.sessions import Session
from app.stores.base import ConflictError, StoreFullError
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, SIZES, Oracle
from tests.app.stores.conftest import let_pass

pytestmark = pytest.mark.anyio


def made(it: Running, name: str = "a session", **values: Any) -> Session:
    """A session in a slot of its own, which holds a state like no other."""
    states = it.service.scheduler.states
    slot = states.take()
    rng = np.random.default_rng(abs(hash((name, slot))))
    states.write([slot], tuple(rng.normal(size=(1, size)).astype(np.float32) for size in SIZES))
    now = it.clock()
    session = Session(name, slot, 3, 7, "H", array("H", [4, 5, 6]).tobytes(), now - 5, now + 100, 100.0)
    return replace(session, **values)


def state_of(it: Running, session: Session) -> bytes:
    return b"".join(tensor.tobytes() for tensor in it.service.scheduler.states.read([session.state]))


async def forget_copies(it: Running) -> None:
    """Have the next load read the store itself."""
    hot = getattr(it.service.store, "_hot", None)
    for session in list(hot or ()):
        await hot.delete(session.id)


def values(session: Session) -> dict[str, Any]:
    """All but the slot, which is a matter of this process."""
    return {field.name: getattr(session, field.name) for field in fields(session) if field.name != "state"}


async def test_session_comes_back_as_it_was_stored(every: dict[str, Any]) -> None:
    async with running(**every) as it:
        store = it.service.store
        assert await store.load("a session") is None
        scores = array("f", [-1.5, -2.25]), array("I", [1, 70_000])
        session = made(it, scores=scores, owner="somebody")
        state = state_of(it, session)
        await store.commit(session, None)
        await forget_copies(it)
        loaded = await store.load("a session")
        assert loaded is not None
        assert values(loaded) == values(session)
        assert state_of(it, loaded) == state
        assert (len(store), store.owned("somebody"), store.owned("another")) == (1, 1, 0)
        assert [it.id for it in store] == ["a session"]


async def test_session_without_words_takes_no_slot(every: dict[str, Any]) -> None:
    async with running(**every) as it:
        await it.service.store.commit(replace(made(it), state=0), None)
        it.service.scheduler.states.free(1)
        await forget_copies(it)
        loaded = await it.service.store.load("a session")
        assert loaded is not None
        assert (loaded.state, it.service.scheduler.states.in_use) == (0, 0)


async def test_commit_compares_the_revision(every: dict[str, Any]) -> None:
    async with running(**every) as it:
        store, states = it.service.store, it.service.scheduler.states
        first = made(it)
        await store.commit(first, None)
        second = made(it, revision=8)
        await store.commit(second, 7)
        for expected in (None, 7, 9):
            late = made(it, revision=9)
            with pytest.raises(ConflictError):
                await store.commit(late, expected)
            states.free(late.state)
        missing = made(it, "another")
        with pytest.raises(ConflictError):
            await store.commit(missing, 7)
        states.free(missing.state)
        for _ in range(2):
            loaded = await store.load("a session")
            assert loaded is not None
            assert (loaded.revision, state_of(it, loaded)) == (8, state_of(it, second))
            await forget_copies(it)


async def test_delete(every: dict[str, Any]) -> None:
    async with running(**every) as it:
        store, states = it.service.store, it.service.scheduler.states
        session = made(it, owner="somebody")
        await store.commit(session, None)
        assert await store.delete("a session")
        assert not await store.delete("a session")
        assert await store.load("a session") is None
        assert (len(store), store.owned("somebody"), states.in_use) == (0, 0, 0)
        late = made(it, revision=8)
        with pytest.raises(ConflictError):
            await store.commit(late, 7)
        states.free(late.state)


async def test_nothing_has_a_name_that_is_too_long(every: dict[str, Any]) -> None:
    async with running(**every) as it:
        assert await it.service.store.load("x" * 200_000) is None


async def test_what_cannot_be_asked_for_holds_up_nobody_else(every: dict[str, Any]) -> None:
    async with running(**every) as it:
        store = it.service.store
        await store.commit(made(it), None)
        await forget_copies(it)
        with anyio.fail_after(5):
            impossible, session = await asyncio.gather(
                store.load("\ud800"), store.load("a session"), return_exceptions=True
            )
        assert impossible is None or isinstance(impossible, UnicodeEncodeError)
        assert isinstance(session, Session)


async def test_sessions_expire_in_their_hour_but_not_under_their_user(counted: dict[str, Any]) -> None:
    async with running(**counted) as it:
        store, now = it.service.store, it.clock()
        for number in range(10):
            await store.commit(made(it, str(number), expires_at=now + number, owner="somebody"), None)
        assert it.service.turns.take_now("2")
        assert await store.expire(now + 4) == 4
        assert sorted(session.id for session in store) == ["2", "5", "6", "7", "8", "9"]
        it.service.turns.end("2")
        assert await store.expire(now + 4) == 1
        assert (len(store), store.owned("somebody"), it.service.scheduler.states.in_use) == (5, 5, 5)
        assert await store.expire(now + 4) == 0


async def test_each_session_is_cleared_away_in_its_own_hour(counted: dict[str, Any]) -> None:
    async with running(**counted) as it:
        store, begin = it.service.store, it.clock()
        lives = {str(seconds): seconds for seconds in (1, 60, 1800, 3600, 3601, 7200, 86_400)}
        for name, seconds in lives.items():
            await store.commit(made(it, name, expires_at=begin + seconds, ttl=float(seconds)), None)
        at, used = 0, None
        for at in (1, 59, 60, 1000, 1800, 3599, 3600, 3601, 7199, 7200, 10_000, 86_399, 86_400, 86_999, 87_000):
            if at == 1000:  # one is used, and lives for longer than it was to
                used = await store.load("86400")
                assert used is not None
                await store.commit(replace(used, revision=8, expires_at=begin + 87_000), 7)
                lives["86400"] = 87_000
            gone = [name for name, seconds in lives.items() if seconds <= at]
            for name in gone:
                del lives[name]
            assert await store.expire(begin + at) == len(gone)
            assert sorted(session.id for session in store) == sorted(lives)
        assert not lives


async def test_session_in_use_is_there_beyond_its_hour(every: dict[str, Any], request: pytest.FixtureRequest) -> None:
    async with running(**every) as it:
        opened = await it.client.post("/v1/sessions", json={"text": "the cat", "ttl_seconds": 10})
        session_id = opened.json()["session_id"]
        it.runtime.gate.clear()
        saying = asyncio.create_task(it.ok(session_id=session_id, text="sat"))
        await it.in_flight(1)
        await let_pass(it, 30, request)
        it.runtime.gate.set()
        assert (await saying)["position"] == 3
        assert (await it.ok(session_id=session_id, text="on", position=3))["position"] == 4
        await let_pass(it, 11, request)
        assert (await it.predict(session_id=session_id)).status_code == 410


async def test_new_session_takes_the_place_of_an_old_one_that_is_not_in_use(counted: dict[str, Any]) -> None:
    async with running(**counted, max_sessions=3) as it:
        store, now = it.service.store, it.clock()
        for number in range(3):
            await store.commit(made(it, str(number), expires_at=now + number + 1), None)
        assert it.service.turns.take_now("0")
        await store.commit(made(it, "3", expires_at=now + 9), None)
        await forget_copies(it)
        assert [await store.load(str(number)) is not None for number in range(4)] == [True, False, True, True]
        for number in (2, 3):
            assert it.service.turns.take_now(str(number))
        refused = made(it, "4")
        with pytest.raises(StoreFullError):
            await store.commit(refused, None)
        it.service.scheduler.free_state(refused.state)
        for number in (0, 2, 3):
            it.service.turns.end(str(number))
        assert (len(store), store.evictions) == (3, 1)


async def test_key_never_has_more_sessions_than_it_may_have(every: dict[str, Any]) -> None:
    key = {"authorization": "Bearer an-ann-key-of-length"}
    async with running(**every, api_keys="ann:an-ann-key-of-length", max_sessions_per_key=3) as it:
        for opened in (3, 0):
            asked = [it.client.post("/v1/predict", json={"text": "the"}, headers=key) for _ in range(8)]
            replies = [reply.status_code for reply in await asyncio.gather(*asked)]
            assert sorted(replies) == [200] * opened + [429] * (8 - opened)
            assert it.service.store.owned("ann") == len(it.service.store) == 3


async def test_many_clients_at_once_equal_the_serial_oracle(
    every: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for fewer copies than there are sessions, so that they come and go."""
    monkeypatch.setattr(app.stores.choice, "COPIES", 4)
    async with running(**every, max_queue=6, max_batch=4) as it:

        async def client(number: int) -> None:
            oracle, position, session_id = Oracle(), 0, None
            for step in range(8):
                word = PLAIN[(7 * number + step) % len(PLAIN)]
                oracle.consume(word)
                reply = await it.predict(session_id=session_id, words=[word], position=position, top_k=1)
                while reply.status_code == 503:
                    reply = await it.predict(session_id=session_id, words=[word], position=position, top_k=1)
                body = reply.json()
                session_id, position = body["session_id"], position + 1
                assert body["position"] == position
                (best,) = body["predictions"]
                assert best["probability"] == pytest.approx(oracle.row()[best["word"]], abs=1e-5)

        for first in range(0, 30, 6):
            await asyncio.gather(*(client(first + number) for number in range(6)))
        assert len(list(it.service.store)) == (12 if it.service.store.shared else 30)


async def test_client_that_leaves_during_a_commit_leaves_a_whole_session(every: dict[str, Any]) -> None:
    async with running(**every) as it:
        opened = await it.ok(text="the cat")
        oracle = Oracle()
        oracle.consume("the", "cat")
        position = 2
        for rounds in range(40):
            word = PLAIN[rounds % len(PLAIN)]
            request = asyncio.ensure_future(it.predict(session_id=opened["session_id"], words=[word]))
            for _ in range(rounds):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.wait([request])
            now = await it.ok(session_id=opened["session_id"])
            assert now["position"] in (position, position + 1)
            if now["position"] > position:
                oracle.consume(word)
            position = now["position"]
            best = now["predictions"][0]
            assert best["probability"] == pytest.approx(oracle.row()[best["word"]], abs=1e-5)


async def test_restart(lasting: dict[str, Any]) -> None:
    async with running(**lasting) as it:
        opened = await it.ok(words=["the", "cat"], scores=True)
        gone = await it.ok(text="a dog")
        assert (await it.client.delete(f"/v1/sessions/{gone['session_id']}")).status_code == 204
    async with running(**lasting) as it:
        again = await it.ok(session_id=opened["session_id"], words=["the", "cat"], position=0, scores=True)
        assert again == opened
        oracle = Oracle()
        oracle.consume("the", "cat", "sat")
        reply = await it.ok(session_id=opened["session_id"], text="sat", position=2)
        best = reply["predictions"][0]
        assert best["probability"] == pytest.approx(oracle.row()[best["word"]], abs=1e-5)
        assert (await it.predict(session_id=gone["session_id"])).status_code == 410
        assert (await it.predict(session_id="A" * 32)).status_code == 404
