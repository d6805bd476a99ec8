"""Sessions over HTTP: position and retries, order, expiry, eviction, ids, and everything that must change nothing."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from app.schemas import OpenRequest, SessionReply
from app.sessions import WORDS_KEPT, SessionIds
from app.stores.memory import SWEEP
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, Oracle
from tests.app.test_predict import WHOLE, assert_equals, probabilities

pytestmark = pytest.mark.anyio


async def test_retry_counts_once(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    first = await service.ok(session_id=session, text="sat on", position=2, **WHOLE)
    steps = len(service.runtime.batches)
    for _ in range(3):
        again = await service.ok(session_id=session, text="sat on", position=2, **WHOLE)
        assert again["position"] == 4
        assert again["words"] == first["words"]
        assert probabilities(again) == pytest.approx(probabilities(first), rel=1e-6)
    assert len(service.runtime.batches) == steps, "a retry was computed again"
    oracle = Oracle()
    oracle.consume("the", "cat", "sat", "on")
    assert_equals(again, oracle)


async def test_retry_may_span_earlier_requests(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    await service.ok(session_id=session, text="sat")
    assert (await service.ok(session_id=session, text="cat sat", position=1))["position"] == 3


async def test_retry_tells_the_scores_again(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    first = await service.ok(session_id=session, text="sat on", position=2, scores=True)
    again = await service.ok(session_id=session, text="sat on", position=2, scores=True)
    assert again["words"] == [
        {key: pytest.approx(value) if isinstance(value, float) else value for key, value in word.items()}
        for word in first["words"]
    ]
    assert again["entropy_bits"] == pytest.approx(first["entropy_bits"])


async def test_retry_can_ask_for_scores_that_were_not_asked_for_before(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    plain = await service.ok(session_id=session, text="sat on", position=2)
    scored = await service.ok(session_id=session, text="sat on", position=2, scores=True, include_unknown=True)
    fresh = await service.ok(text="the cat sat on", scores=True)
    for word, expected in zip(scored["words"], fresh["words"][2:], strict=True):
        assert word["log_probability"] == pytest.approx(expected["log_probability"], rel=1e-5)
    assert scored["position"] == plain["position"] == 4
    after = await service.ok(session_id=session, text="home", position=4, **WHOLE)
    oracle = Oracle()
    oracle.consume("the", "cat", "sat", "on", "home")
    assert_equals(after, oracle)


async def test_retry_whose_scores_are_gone_is_refused() -> None:
    """Words are remembered, and the state before them is not: a session longer than its bound, with no history."""
    async with running(max_session_words=16, history_bytes=0) as service:
        session = (await service.ok(words=["the"] * 40))["session_id"]
        response = await service.predict(session_id=session, words=["the"] * 5, position=35, scores=True)
        assert response.status_code == 409
        assert "scores" in response.json()["detail"]


@pytest.mark.parametrize(
    ("text", "position"),
    [("sat", 5), ("sat", 2**53), ("dog", 1), ("cat sat", 0), ("the", 0), ("", 1), ("the cat sat", 0)],
)
async def test_position_that_does_not_fit(service: Running, text: str, position: int) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    response = await service.predict(session_id=session, text=text, position=position)
    assert response.status_code == 409
    assert response.json()["position"] == 2
    assert response.headers["x-should-retry"] == "false"
    assert (await service.ok(session_id=session))["position"] == 2


async def test_position_further_back_than_the_words_kept() -> None:
    async with running(max_session_words=16) as service:
        session = (await service.ok(words=["the"] * 40))["session_id"]
        assert (await service.ok(session_id=session, words=["the"] * 16, position=24))["position"] == 40
        response = await service.predict(session_id=session, words=["the"] * 17, position=23)
        assert response.status_code == 409
        assert response.json()["position"] == 40


async def test_words_kept_beyond_what_is_usual_stay_known_when_none_are_sent() -> None:
    count = WORDS_KEPT + 100
    async with running(max_session_words=count, max_words=count) as service:
        session = (await service.ok(words=["the"] * count))["session_id"]
        assert (await service.ok(session_id=session))["position"] == count
        assert (await service.ok(session_id=session, words=["the"] * (count - 50), position=50))["position"] == count


async def test_position_of_a_new_session_is_zero(service: Running) -> None:
    assert (await service.ok(text="the", position=0))["position"] == 1
    response = await service.predict(text="the", position=1)
    assert response.status_code == 409
    assert response.json()["position"] == 0


async def test_concurrent_retries_count_once(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    positions: list[int] = []

    async def send() -> None:
        positions.append((await service.ok(session_id=session, text="cat", position=1))["position"])

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(send)
    assert positions == [2] * 20
    assert (await service.ok(session_id=session))["position"] == 2


async def test_requests_to_one_session_run_in_order_of_arrival(service: Running) -> None:
    session = (await service.ok())["session_id"]
    order = PLAIN[:12]
    done: list[str] = []

    async def send(word: str) -> None:
        await service.ok(session_id=session, text=word)
        done.append(word)

    service.runtime.gate.clear()
    async with anyio.create_task_group() as group:
        for count, word in enumerate(order, 1):
            group.start_soon(send, word)
            await service.in_flight(count)
        service.runtime.gate.set()
    assert done == order
    reply = (await service.client.get(f"/v1/sessions/{session}")).json()
    assert reply["words"] == order


async def test_get_session(service: Running) -> None:
    opened = await service.client.post("/v1/sessions", json={"text": "the cat", "ttl_seconds": 60})
    assert opened.status_code == 201
    session = SessionReply.model_validate_json(opened.content)
    assert opened.headers["location"] == f"/v1/sessions/{session.session_id}"
    assert opened.headers["x-session-id"] == session.session_id
    assert session.words == ["the", "cat"]
    assert session.state_bytes == 4 * (6 + 5)
    assert (session.created_at, session.expires_at) == ("2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z")
    shown = await service.client.get(f"/v1/sessions/{session.session_id}")
    assert shown.status_code == 200
    assert shown.json() == opened.json()
    reply = await service.ok(session_id=session.session_id, **WHOLE)
    oracle = Oracle()
    oracle.consume("the", "cat")
    assert_equals(reply, oracle)


async def test_open_without_a_body(service: Running) -> None:
    opened = await service.client.post("/v1/sessions")
    assert opened.status_code == 201
    assert opened.json()["position"] == 0
    assert service.service.scheduler.states.in_use == 0, "a session without words needs no state of its own"


async def test_session_shows_its_last_256_words(service: Running) -> None:
    words = [PLAIN[i % 20] for i in range(600)]
    session = (await service.ok(words=words[:500]))["session_id"]
    await service.ok(session_id=session, words=words[500:])
    assert (await service.client.get(f"/v1/sessions/{session}")).json()["words"] == words[-256:]


async def test_delete(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    response = await service.client.delete(f"/v1/sessions/{session}")
    assert (response.status_code, response.content) == (204, b"")
    for answer in (
        await service.client.delete(f"/v1/sessions/{session}"),
        await service.client.get(f"/v1/sessions/{session}"),
        await service.predict(session_id=session, text="the"),
    ):
        assert answer.status_code == 410
        assert answer.headers["content-type"] == "application/problem+json"
    assert service.service.scheduler.states.in_use == 0


@pytest.mark.parametrize(
    "session",
    [
        *("nowhere", "A" * 32, "x" * 128, "é" * 20, "=" * 32),
        pytest.param(SessionIds().issue(), id="of another service"),
        pytest.param(SessionIds(b"k" * 16).issue(), id="of another secret"),
    ],
)
async def test_id_from_nowhere(service: Running, session: str) -> None:
    assert (await service.predict(session_id=session, text="the")).status_code == 404
    assert (await service.client.get(f"/v1/sessions/{session}")).status_code == 404
    assert (await service.client.delete(f"/v1/sessions/{session}")).status_code == 404


def test_ids_prove_themselves() -> None:
    ids = SessionIds(b"a secret of some length")
    issued = {ids.issue() for _ in range(1000)}
    assert len(issued) == 1000
    assert all(ids.issued(id) for id in issued)
    assert all(SessionIds(b"a secret of some length").issued(id) for id in issued)
    assert not any(SessionIds().issued(id) for id in issued)
    one = issued.pop()
    for i in range(len(one)):
        assert not ids.issued(one[:i] + ("A" if one[i] != "A" else "B") + one[i + 1 :])
    assert not ids.issued(one + "\n")
    assert not ids.issued(one + "====")
    assert not ids.issued(one[:-4])
    assert not ids.issued("")


async def test_expiry_slides_with_use(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    for _ in range(3):
        service.clock.now += 1799
        await service.ok(session_id=session)
    service.clock.now += 1799
    await service.client.get(f"/v1/sessions/{session}")
    service.clock.now += 1
    assert (await service.predict(session_id=session)).status_code == 410
    assert (await service.client.get(f"/v1/sessions/{session}")).status_code == 410


async def test_expired_sessions_are_cleared_away() -> None:
    async with running(session_ttl_seconds=100) as service:
        store, states = service.service.store, service.service.scheduler.states
        for ttl in (None, 50, 1000):
            for _ in range(3):
                await service.client.post("/v1/sessions", json={"text": "the", "ttl_seconds": ttl})
        assert (len(store), states.in_use) == (9, 9)
        service.clock.now += 60
        young = (await service.ok(text="the"))["session_id"]
        service.clock.now += 40
        assert await store.expire(service.clock.now) == 6
        assert (len(store), states.in_use) == (4, 4)
        assert (await service.predict(session_id=young)).status_code == 200
        service.clock.now += 900
        assert await store.expire(service.clock.now) == 4
        assert (len(store), states.in_use) == (0, 0)


async def test_many_expired_sessions_are_cleared_away_in_pieces(service: Running) -> None:
    store, clock = service.service.store, service.clock
    for _ in range(SWEEP + 5):
        await service.service.open(OpenRequest())
    clock.now += 1800
    assert [await store.expire(clock.now) for _ in range(3)] == [SWEEP, 5, 0]


async def test_memory_of_sessions_that_were_deleted_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.service.TRIM_SESSIONS", 10)
    monkeypatch.setattr("app.service.SWEEP_SECONDS", 0.01)
    async with running() as service:
        trimmed = anyio.Event()
        monkeypatch.setattr(service.service.scheduler.states, "trim", trimmed.set)
        for session in [(await service.ok(text="the"))["session_id"] for _ in range(11)]:
            assert not trimmed.is_set()
            assert (await service.client.delete(f"/v1/sessions/{session}")).status_code == 204
        with anyio.fail_after(10):
            await trimmed.wait()


async def test_ttl_is_bounded() -> None:
    async with running(max_session_ttl_seconds=3600) as service:
        opened = await service.client.post("/v1/sessions", json={"ttl_seconds": 1e9})
        assert opened.json()["expires_at"] == "2027-01-15T09:00:00Z"


async def test_session_in_use_is_not_expired(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    service.runtime.gate.clear()

    async def go_on() -> None:
        reply = await service.ok(session_id=session, text="cat")
        assert reply["position"] == 2

    async with anyio.create_task_group() as group:
        group.start_soon(go_on)
        await service.in_flight(1)
        service.clock.now += 10_000
        assert await service.service.store.expire(service.clock.now) == 0
        service.runtime.gate.set()
    assert (await service.ok(session_id=session))["position"] == 2


async def test_least_recently_used_is_evicted() -> None:
    async with running(max_sessions=3) as service:
        first, second, third = [(await service.ok(text="the"))["session_id"] for _ in range(3)]
        await service.ok(session_id=first)
        fourth = (await service.ok(text="cat"))["session_id"]
        assert (await service.predict(session_id=second)).status_code == 410
        for session in (first, third, fourth):
            assert (await service.predict(session_id=session)).status_code == 200
        assert service.service.scheduler.states.in_use == 3


async def test_session_in_use_is_not_evicted() -> None:
    async with running(max_sessions=2) as service:
        used, idle = [(await service.ok(text="the"))["session_id"] for _ in range(2)]
        await service.ok(session_id=idle)
        service.runtime.gate.clear()
        replies: dict[str, Any] = {}

        async def ask(name: str, **fields: Any) -> None:
            replies[name] = await service.predict(**fields)

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: ask("used", session_id=used, words=["cat"] * 50))
            await service.in_flight(1)
            group.start_soon(lambda: ask("new", text="dog"))
            await service.in_flight(2)
            service.runtime.hold_at = len(service.runtime.batches) + 3
            service.runtime.gate.set()
            await service.in_flight(1)
            service.runtime.hold_at = None
            service.runtime.gate.set()
        assert replies["used"].status_code == replies["new"].status_code == 200
        assert (await service.predict(session_id=idle)).status_code == 410
        assert (await service.ok(session_id=used))["position"] == 51


async def test_no_room_when_every_session_is_in_use() -> None:
    async with running(max_sessions=1) as service:
        used = (await service.ok(text="the"))["session_id"]
        service.runtime.gate.clear()
        replies: dict[str, Any] = {}

        async def ask(name: str, **fields: Any) -> None:
            replies[name] = await service.predict(**fields)

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: ask("used", session_id=used, words=["cat"] * 50))
            await service.in_flight(1)
            group.start_soon(lambda: ask("new", text="dog"))
            await service.in_flight(2)
            service.runtime.hold_at = len(service.runtime.batches) + 3
            service.runtime.gate.set()
            await service.in_flight(1)
            service.runtime.hold_at = None
            service.runtime.gate.set()
        assert replies["used"].status_code == 200
        assert replies["new"].status_code == 503
        assert replies["new"].headers["retry-after"] == "1"


async def test_request_that_fails_changes_nothing(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    before = await service.ok(session_id=session, **WHOLE)
    service.runtime.poisoned = PLAIN.index("dog") + 2
    response = await service.predict(session_id=session, text="sat on a dog")
    assert response.status_code == 500
    assert response.json()["request_id"] == response.headers["x-request-id"]
    service.runtime.poisoned = None
    after = await service.ok(session_id=session, position=2, **WHOLE)
    assert after["predictions"] == before["predictions"]


async def test_header_that_contradicts(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    other = (await service.ok(text="the"))["session_id"]
    post = service.client.post
    agreeing = await post("/v1/predict", json={"session_id": session}, headers={"x-session-id": session})
    assert agreeing.status_code == 200
    for body, header in (({"session_id": session, "text": "cat"}, other), ({"text": "cat"}, other)):
        response = await post("/v1/predict", json=body, headers={"X-Session-Id": header})
        assert response.status_code == 400
    twice = [("x-session-id", session), ("x-session-id", other)]
    assert (await post("/v1/predict", json={"session_id": session, "text": "cat"}, headers=twice)).status_code == 400
    for call in (service.client.get, service.client.delete):
        assert (await call(f"/v1/sessions/{session}", headers={"x-session-id": other})).status_code == 400
    assert (await post("/v1/sessions", json={}, headers={"x-session-id": other})).status_code == 400
    assert (await service.ok(session_id=session, position=1))["position"] == 1
    assert len(service.service.store) == 2
