"""Forks: another session that begins inside one, while that goes on as if nothing had happened."""

from __future__ import annotations

from typing import Any

import anyio
import httpx2
import pytest

from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, Oracle
from tests.app.test_predict import WHOLE, assert_equals

pytestmark = pytest.mark.anyio

TEXT = PLAIN[:12]


async def fork(service: Running, session: str, **body: Any) -> httpx2.Response:
    return await service.client.post(f"/v1/sessions/{session}/fork", json=body)


async def forked(service: Running, session: str, **body: Any) -> dict[str, Any]:
    """The reply to a fork that must succeed."""
    response = await fork(service, session, **body)
    assert response.status_code == 201, response.text
    reply: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/sessions/{reply['session_id']}"
    assert response.headers["x-session-id"] == reply["session_id"] != session
    return reply


async def assert_stands(service: Running, session: str, words: list[str]) -> None:
    """The session answers as one that has consumed these words and nothing else."""
    oracle = Oracle()
    oracle.consume(*words)
    reply = await service.ok(session_id=session, position=len(words), **WHOLE)
    assert reply["position"] == len(words)
    assert_equals(reply, oracle)
    assert (await service.client.get(f"/v1/sessions/{session}")).json()["words"] == words


async def test_fork_shares_the_state(service: Running) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    steps, states = len(service.runtime.batches), service.service.scheduler.states
    other = await forked(service, session)
    assert (other["position"], other["words"]) == (12, TEXT)
    assert len(service.runtime.batches) == steps, "nothing had to be computed"
    assert states.in_use == 1, "one state serves both"
    await service.ok(session_id=session, text="home")
    await service.ok(session_id=other["session_id"], text="london")
    await assert_stands(service, session, [*TEXT, "home"])
    await assert_stands(service, other["session_id"], [*TEXT, "london"])


async def test_deleting_one_leaves_the_other(service: Running) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    others = [(await forked(service, session))["session_id"] for _ in range(3)]
    for gone in (others[0], session, others[1]):
        assert (await service.client.delete(f"/v1/sessions/{gone}")).status_code == 204
        await service.ok(text="one two three")  # takes the slot if it is free
    await assert_stands(service, others[2], TEXT)


@pytest.mark.parametrize("position", range(13))
async def test_fork_at_every_position(service: Running, position: int) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    other = await forked(service, session, position=position)
    assert other["position"] == position
    await assert_stands(service, other["session_id"], TEXT[:position])
    await assert_stands(service, session, TEXT)


async def test_fork_of_a_fork(service: Running) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    words = list(TEXT)
    for position, word in ((9, "home"), (7, "rain"), (7, "paris"), (3, "gone")):
        session = (await forked(service, session, position=position))["session_id"]
        await service.ok(session_id=session, text=word)
        words = [*words[:position], word]
        await assert_stands(service, session, words)


async def test_old_session_is_unchanged(service: Running) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    before = (await service.client.get(f"/v1/sessions/{session}")).json()
    service.clock.now += 100
    await forked(service, session, position=3)
    assert (await service.client.get(f"/v1/sessions/{session}")).json() == before


async def test_lifetime_is_carried_and_begins_anew(service: Running) -> None:
    opened = await service.client.post("/v1/sessions", json={"text": "the", "ttl_seconds": 7200})
    service.clock.now += 600
    other = await forked(service, opened.json()["session_id"])
    assert (other["created_at"], other["expires_at"]) == ("2027-01-15T08:10:00Z", "2027-01-15T10:10:00Z")
    service.clock.now += 7199
    assert (await service.client.get(f"/v1/sessions/{opened.json()['session_id']}")).status_code == 410
    assert await service.service.store.expire(service.clock.now) == 1
    await assert_stands(service, other["session_id"], ["the"])


async def test_retry_in_a_fork(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    first = await service.ok(session_id=session, text="sat on", position=2, scores=True)
    other = (await forked(service, session))["session_id"]
    again = await service.ok(session_id=other, text="sat on", position=2, scores=True)
    assert again["words"] == [
        {key: pytest.approx(value) if isinstance(value, float) else value for key, value in word.items()}
        for word in first["words"]
    ]
    earlier = (await forked(service, session, position=3))["session_id"]
    assert (await service.ok(session_id=earlier, text="sat", position=2, scores=True))["position"] == 3
    assert (await service.predict(session_id=earlier, text="sat on", position=2)).status_code == 409


async def test_position_that_was_not_reached(service: Running) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    response = await fork(service, session, position=13)
    assert response.status_code == 409
    assert (response.json()["position"], response.json()["earliest"]) == (12, 0)
    assert len(service.service.store) == 1


@pytest.mark.parametrize(
    ("body", "status"), [({"position": -1}, 422), ({"position": "1"}, 422), ({"ttl": 5}, 422), ([], 422)]
)
async def test_body_that_is_wrong(service: Running, body: Any, status: int) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    assert (await service.client.post(f"/v1/sessions/{session}/fork", json=body)).status_code == status
    assert len(service.service.store) == 1


async def test_body_may_be_missing(service: Running) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    assert (await service.client.post(f"/v1/sessions/{session}/fork")).json()["position"] == 12


async def test_sessions_that_are_not_there(service: Running) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    await service.client.delete(f"/v1/sessions/{session}")
    assert (await fork(service, session)).status_code == 410
    assert (await fork(service, "nowhere")).status_code == 404


async def test_header_that_contradicts(service: Running) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    response = await service.client.post(f"/v1/sessions/{session}/fork", json={}, headers={"x-session-id": "another"})
    assert response.status_code == 400
    agreeing = await service.client.post(f"/v1/sessions/{session}/fork", json={}, headers={"x-session-id": session})
    assert agreeing.status_code == 201


async def test_fork_belongs_to_the_owner_and_counts() -> None:
    async with running(api_keys="ann:an-ann-key-of-length bob:a-bob-key-of-length", max_sessions_per_key=2) as service:
        ann = {"authorization": "Bearer an-ann-key-of-length"}
        bob = {"authorization": "Bearer a-bob-key-of-length"}
        opened = await service.client.post("/v1/sessions", json={"words": TEXT}, headers=ann)
        path = f"/v1/sessions/{opened.json()['session_id']}/fork"
        assert (await service.client.post(path, headers=bob)).status_code == 404
        other = await service.client.post(path, headers=ann)
        assert other.status_code == 201
        shown = f"/v1/sessions/{other.json()['session_id']}"
        assert (await service.client.get(shown, headers=ann)).status_code == 200
        assert (await service.client.get(shown, headers=bob)).status_code == 404
        assert (await service.client.post(path, json={"position": 3}, headers=ann)).status_code == 429
        assert {session.owner for session in service.service.store} == {"ann"}


async def test_forks_wait_for_their_turn(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    replies: dict[str, Any] = {}

    async def go_on() -> None:
        replies["predict"] = await service.ok(session_id=session, text="cat sat")

    async def split() -> None:
        replies["fork"] = await forked(service, session)

    service.runtime.gate.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(go_on)
        await service.in_flight(1)
        group.start_soon(split)
        await service.in_flight(2)
        service.runtime.gate.set()
    assert replies["fork"]["position"] == 3


async def test_many_forks_are_computed_together(service: Running) -> None:
    session = (await service.ok(words=TEXT))["session_id"]
    others = [(await forked(service, session))["session_id"] for _ in range(8)]
    service.runtime.batches.clear()
    service.runtime.gate.clear()
    async with anyio.create_task_group() as group:
        for place, other in enumerate(others):
            group.start_soon(lambda other=other: forked(service, other, position=6))  # type: ignore[misc]
            await service.in_flight(place + 1)
        service.runtime.gate.set()
    assert max(service.runtime.batches) >= 7
