"""Going back: any earlier position, within 1e-4 of never having gone further, and bounds on what that takes."""

from __future__ import annotations

from typing import Any

import anyio
import httpx2
import numpy as np
import pytest

from app.history import STRIDE
from app.sessions import Session
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, SIZES, Oracle
from tests.app.test_fork import assert_stands, forked
from tests.app.test_predict import WHOLE, assert_equals

pytestmark = pytest.mark.anyio

STATE_BYTES = 4 * sum(SIZES)
FILE = {"content-type": "application/vnd.nextword.state"}


async def rewind(service: Running, session: str, position: int) -> httpx2.Response:
    return await service.client.post(f"/v1/sessions/{session}/rewind", json={"position": position})


async def rewound(service: Running, session: str, position: int) -> dict[str, Any]:
    """The reply to a rewind that must succeed."""
    response = await rewind(service, session, position)
    assert response.status_code == 200, response.text
    assert response.headers["x-session-id"] == session
    reply: dict[str, Any] = response.json()
    assert reply["position"] == position
    return reply


async def typed(service: Running, words: list[str]) -> str:
    """A session that was told these words one by one."""
    session: str = (await service.ok())["session_id"]
    for word in words:
        await service.ok(session_id=session, text=word)
    return session


@pytest.mark.parametrize("history_bytes", [0, STATE_BYTES * 3, 1 << 20])
async def test_every_position(history_bytes: int) -> None:
    words = PLAIN[:12]
    async with running(history_bytes=history_bytes) as service:
        for position in range(13):
            for session in (await typed(service, words), (await service.ok(words=words))["session_id"]):
                assert (await rewound(service, session, position))["words"] == words[:position]
                await assert_stands(service, session, words[:position])
                await service.ok(session_id=session, text="london")
                await assert_stands(service, session, [*words[:position], "london"])


async def test_further_and_further(service: Running) -> None:
    words = [PLAIN[i % 30] for i in range(40)]
    session = await typed(service, words)
    for position in (39, 38, 20, 19, 3, 0):
        await rewound(service, session, position)
        await assert_stands(service, session, words[:position])


async def test_recent_states_are_had_at_once(service: Running) -> None:
    session = await typed(service, PLAIN[:12])
    service.runtime.batches.clear()
    for position in (11, 7, 2, 0):
        await rewound(service, session, position)
    assert service.runtime.batches == [], "states were computed that were kept"


async def test_a_state_is_computed_from_the_nearest_kept_one(service: Running) -> None:
    session = await typed(service, PLAIN[:5])
    await service.ok(session_id=session, words=PLAIN[5:12])
    service.runtime.batches.clear()
    await rewound(service, session, 9)
    assert service.runtime.batches == [1] * 4
    await assert_stands(service, session, PLAIN[:9])


async def test_a_long_way_leaves_states_behind() -> None:
    words = [PLAIN[i % 37] for i in range(3 * STRIDE)]
    async with running() as service:
        session = (await service.ok(words=words))["session_id"]
        service.runtime.batches.clear()
        other = (await forked(service, session, position=3 * STRIDE - 1))["session_id"]
        assert len(service.runtime.batches) == 3 * STRIDE - 1
        service.runtime.batches.clear()
        await rewound(service, session, 2 * STRIDE + 5)
        assert len(service.runtime.batches) == 5
        oracle = Oracle()
        oracle.consume(*words[: 2 * STRIDE + 5])
        assert_equals(await service.ok(session_id=session, **WHOLE), oracle)
        oracle.consume(*words[2 * STRIDE + 5 : 3 * STRIDE - 1])
        assert_equals(await service.ok(session_id=other, **WHOLE), oracle)


async def test_kept_states_are_bounded() -> None:
    async with running(history_bytes=3 * STATE_BYTES + 1) as service:
        session = await typed(service, PLAIN[:20])
        assert len(service.service.history) == 3
        service.runtime.batches.clear()
        await rewound(service, session, 17)
        assert service.runtime.batches == []
        await rewound(service, session, 5)
        assert service.runtime.batches == [1] * 5


async def test_no_history_at_all() -> None:
    async with running(history_bytes=0) as service:
        session = await typed(service, PLAIN[:10])
        await rewound(service, session, 4)
        await assert_stands(service, session, PLAIN[:4])
        assert service.service.scheduler.states.in_use == 1


async def test_kept_states_of_another_branch_are_not_taken(service: Running) -> None:
    session = await typed(service, ["the", "cat", "sat", "on", "mat"])
    other = (await forked(service, session, position=1))["session_id"]
    for word in ("dog", "sat", "on", "mat"):
        await service.ok(session_id=other, text=word)
    for each, second in ((session, "cat"), (other, "dog")):
        await rewound(service, each, 4)
        await assert_stands(service, each, ["the", second, "sat", "on"])
        await rewound(service, each, 1)
    for each in (session, other):
        await service.ok(session_id=each, text="a")
        await rewound(service, each, 2)
        await assert_stands(service, each, ["the", "a"])


async def test_nothing_is_kept_of_a_session_that_is_deleted(service: Running) -> None:
    session = await typed(service, PLAIN[:8])
    other = (await forked(service, session, position=6))["session_id"]
    await service.ok(session_id=other, text="home")
    history, states = service.service.history, service.service.scheduler.states
    assert len(history) == 7
    await service.client.delete(f"/v1/sessions/{session}")
    assert (len(history), states.in_use) == (0, 1)
    await rewound(service, other, 4)
    await assert_stands(service, other, PLAIN[:4])


async def test_nothing_is_kept_of_sessions_that_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.service.TRIM_SESSIONS", 2)
    async with running(session_ttl_seconds=60) as service:
        history, states = service.service.history, service.service.scheduler.states
        over = [await typed(service, PLAIN[:6]) for _ in range(3)]
        service.clock.now += 30
        session = await typed(service, PLAIN[:8])
        fork = (await forked(service, over[0]))["session_id"]
        await rewound(service, fork, 4)
        assert len(history) == 3 * 5 + 7
        service.clock.now += 31
        await service.service.sweep()
        # Those of the session that lives, and the one that a fork was brought back to.
        assert len(history) == 7 + 1
        assert states.references == len(history) + 2
        service.runtime.batches.clear()
        for position in (7, 3, 1):
            await rewound(service, session, position)
        await rewound(service, fork, 4)
        assert service.runtime.batches == []
        await assert_stands(service, session, PLAIN[:1])
        await rewound(service, fork, 3)
        await assert_stands(service, fork, PLAIN[:3])


async def test_where_it_stands_nothing_changes(service: Running) -> None:
    session = await typed(service, PLAIN[:5])
    service.runtime.batches.clear()
    for _ in range(3):
        await rewound(service, session, 5)
    assert service.runtime.batches == []
    await rewound(service, session, 3)
    assert (await rewound(service, session, 3))["words"] == PLAIN[:3]
    await assert_stands(service, session, PLAIN[:3])


async def test_rewinding_is_a_use(service: Running) -> None:
    session = await typed(service, PLAIN[:5])
    for position in (5, 3, 3):
        service.clock.now += 1700
        await rewound(service, session, position)
    service.clock.now += 1800
    assert (await rewind(service, session, 3)).status_code == 410


async def test_position_that_was_not_reached(service: Running) -> None:
    session = await typed(service, PLAIN[:5])
    response = await rewind(service, session, 6)
    assert response.status_code == 409
    assert (response.json()["position"], response.json()["earliest"]) == (5, 0)
    assert response.headers["x-should-retry"] == "false"
    await assert_stands(service, session, PLAIN[:5])


@pytest.mark.parametrize("body", [{}, {"position": None}, {"position": -1}, {"position": 1.5}, {"position": 1, "x": 2}])
async def test_body_that_is_wrong(service: Running, body: dict[str, Any]) -> None:
    session = await typed(service, PLAIN[:5])
    assert (await service.client.post(f"/v1/sessions/{session}/rewind", json=body)).status_code == 422
    await assert_stands(service, session, PLAIN[:5])


async def test_sessions_that_are_not_there(service: Running) -> None:
    session = await typed(service, PLAIN[:5])
    await service.client.delete(f"/v1/sessions/{session}")
    assert (await rewind(service, session, 0)).status_code == 410
    assert (await rewind(service, "nowhere", 0)).status_code == 404


async def test_retries_after_a_rewind(service: Running) -> None:
    session = await typed(service, ["the", "cat", "sat", "on"])
    await rewound(service, session, 2)
    response = await service.predict(session_id=session, text="sat on", position=4)
    assert (response.status_code, response.json()["position"]) == (409, 2)
    assert (await service.ok(session_id=session, text="cat", position=1))["position"] == 2, "what is left counts once"
    assert (await service.ok(session_id=session, text="sat on", position=2))["position"] == 4
    assert (await service.ok(session_id=session, text="sat on", position=2))["position"] == 4


async def test_scores_of_a_retry_after_a_rewind(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    first = await service.ok(session_id=session, text="sat on", position=2, scores=True)
    await rewound(service, session, 3)
    again = await service.ok(session_id=session, text="sat", position=2, scores=True)
    assert again["words"][0]["log_probability"] == pytest.approx(first["words"][0]["log_probability"], rel=1e-5)
    assert again["words"][0]["rank"] == first["words"][0]["rank"]


async def test_failure_changes_nothing() -> None:
    async with running(history_bytes=0) as service:
        session = await typed(service, PLAIN[:8])
        service.runtime.poisoned = 2 + 3  # the fourth word
        assert (await rewind(service, session, 6)).status_code == 500
        service.runtime.poisoned = None
        await assert_stands(service, session, PLAIN[:8])


async def test_client_that_leaves_changes_nothing() -> None:
    async with running(history_bytes=0) as service:
        session = await typed(service, PLAIN[:8])
        service.runtime.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(rewind, service, session, 6)
            await service.in_flight(1)
            group.cancel_scope.cancel()
        service.runtime.gate.set()
        await service.in_flight(0)
        await assert_stands(service, session, PLAIN[:8])


async def test_requests_wait_for_a_rewind() -> None:
    async with running(history_bytes=0) as service:
        session = await typed(service, PLAIN[:8])
        replies: list[dict[str, Any]] = []

        async def go_on() -> None:
            replies.append(await service.ok(session_id=session, text="home"))

        service.runtime.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(rewound, service, session, 6)
            await service.in_flight(1)
            group.start_soon(go_on)
            await service.in_flight(2)
            service.runtime.gate.set()
        assert replies[0]["position"] == 7
        await assert_stands(service, session, [*PLAIN[:6], "home"])


async def test_session_being_rewound_is_neither_expired_nor_evicted() -> None:
    async with running(history_bytes=0, max_sessions=2) as service:
        session, idle = await typed(service, PLAIN[:8]), await typed(service, PLAIN[:2])
        file = await service.client.get(f"/v1/sessions/{idle}/state")  # what comes from a file needs no step
        service.runtime.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(rewound, service, session, 6)
            await service.in_flight(1)
            await service.client.post("/v1/sessions", content=file.content, headers=FILE)
            assert (await service.client.get(f"/v1/sessions/{idle}")).status_code == 410, "the other one was evicted"
            service.clock.now += 10_000
            await service.service.store.expire(service.clock.now)
            service.runtime.gate.set()
        await assert_stands(service, session, PLAIN[:6])


# --- Beyond the words that a session remembers -----------------------------------------------------------------------


@pytest.mark.parametrize("history_bytes", [0, 1 << 20])
@pytest.mark.parametrize("step", [1, 3, 7])
async def test_earliest_position_moves_up(history_bytes: int, step: int) -> None:
    words = [PLAIN[i % 37] for i in range(90)]
    async with running(max_session_words=20, history_bytes=history_bytes) as service:
        session = (await service.ok())["session_id"]
        consumed = 0
        while consumed < len(words):
            some = words[consumed : consumed + step]
            await service.ok(session_id=session, words=some)
            consumed += len(some)
            stored = await service.service.store.load(session)
            assert stored is not None
            assert stored.position - stored.first <= 20
            assert len(stored.marks) <= 3
            earliest = stored.earliest
            assert earliest == 0 if consumed <= 20 else consumed - 20 <= earliest <= consumed - 7
        for position in (earliest, earliest + 1, 80, 89):
            other = (await forked(service, session, position=position))["session_id"]
            oracle = Oracle()
            oracle.consume(*words[:position])
            assert_equals(await service.ok(session_id=other, position=position, **WHOLE), oracle)
        response = await rewind(service, session, earliest - 1)
        assert response.status_code == 409
        assert (response.json()["position"], response.json()["earliest"]) == (90, earliest)
        assert f"remembers what came after {earliest}" in response.json()["detail"]
        await rewound(service, session, earliest)
        oracle = Oracle()
        oracle.consume(*words[:earliest], "london")
        assert_equals(await service.ok(session_id=session, text="london", **WHOLE), oracle)


async def test_more_words_at_once_than_a_session_remembers() -> None:
    words = [PLAIN[i % 37] for i in range(60)]
    async with running(max_session_words=20) as service:
        session = (await service.ok(words=words[:5]))["session_id"]
        await service.ok(session_id=session, words=words[5:])
        assert (await rewind(service, session, 59)).json()["earliest"] == 60
        for word in PLAIN[:12]:
            await service.ok(session_id=session, text=word)
        await rewound(service, session, 60)
        oracle = Oracle()
        oracle.consume(*words)
        assert_equals(await service.ok(session_id=session, **WHOLE), oracle)


def test_sessions_that_forgot_different_words_share_nothing() -> None:
    """Kept states are known by the words before them, the forgotten ones included."""

    def told(words: list[int]) -> Session:
        session = Session("x", 0, 0, 0, "H", b"", 0, 1, 1, family=b"the same")
        for word in words:
            session = session.after(0, [word], 0, None, keep=16)
        return session

    one, other = told([*range(40)]), told([99, *range(1, 40)])
    assert (one.recent, one.position, one.first) == (other.recent, other.position, other.first)
    assert one.family != other.family
    assert told([*range(40)]).family == one.family


def test_words_take_no_more_than_they_need() -> None:
    session = Session("x", 0, 0, 0, "H", b"", 0, 1, 1)
    for word in range(100):
        session = session.after(0, [word], 0, None)
    assert len(session.recent) == 200
    assert session.words_between(10, 13).tolist() == [10, 11, 12]
    assert np.frombuffer(session.recent, dtype="u2").tolist() == list(range(100))
