"""Sessions that leave as a file and live on where it is brought: bit-equal, or refused with nothing changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import httpx2
import numpy as np
import pytest

from app import state_file
from app.transfer import largest
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, WORDS, Oracle
from tests.app.test_fork import assert_stands
from tests.app.test_predict import WHOLE, assert_equals
from tests.app.test_rewind import FILE, rewind, rewound, typed

pytestmark = pytest.mark.anyio


async def exported(service: Running, session: str, **options: Any) -> bytes:
    response = await service.client.get(f"/v1/sessions/{session}/state", **options)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/vnd.nextword.state"
    assert response.headers["x-session-id"] == session
    content: bytes = response.content
    return content


async def bring(service: Running, content: bytes) -> httpx2.Response:
    return await service.client.post("/v1/sessions", content=content, headers=FILE)


async def imported(service: Running, content: bytes) -> str:
    """The id of the session that was in the file."""
    response = await bring(service, content)
    assert response.status_code == 201, response.text
    session: str = response.json()["session_id"]
    assert response.headers["location"] == f"/v1/sessions/{session}"
    assert response.headers["x-session-id"] == session
    return session


async def packed(service: Running, session: str) -> bytes:
    stored = await service.service.store.load(session)
    assert stored is not None
    return service.service.scheduler.states.pack(stored.state)


@pytest.mark.parametrize("count", [0, 1, 12])
async def test_state_is_bit_equal_elsewhere(service: Running, count: int) -> None:
    session = (await service.ok(words=PLAIN[:count]))["session_id"]
    content = await exported(service, session)
    async with running() as elsewhere:
        other = await imported(elsewhere, content)
        assert other != session
        assert await packed(elsewhere, other) == await packed(service, session)
        assert await exported(elsewhere, other) == content
        await assert_stands(elsewhere, other, PLAIN[:count])
        before = await service.ok(session_id=session, text="home", **WHOLE)
        after = await elsewhere.ok(session_id=other, text="home", **WHOLE)
        assert after["predictions"] == before["predictions"]


async def test_it_lives_on_here_beside_the_old_one(service: Running) -> None:
    session = await typed(service, PLAIN[:6])
    other = await imported(service, await exported(service, session))
    await service.ok(session_id=other, text="home")
    await assert_stands(service, session, PLAIN[:6])
    await assert_stands(service, other, [*PLAIN[:6], "home"])
    await service.client.delete(f"/v1/sessions/{session}")
    for position in (6, 4, 0):
        await rewound(service, other, position)
        await assert_stands(service, other, PLAIN[:position])


async def test_exporting_changes_nothing(service: Running) -> None:
    session = await typed(service, PLAIN[:6])
    before = (await service.client.get(f"/v1/sessions/{session}")).json()
    service.clock.now += 100
    assert await exported(service, session) == await exported(service, session)
    assert (await service.client.get(f"/v1/sessions/{session}")).json() == before


async def test_times_are_carried(service: Running) -> None:
    opened = await service.client.post("/v1/sessions", json={"text": "the", "ttl_seconds": 7200})
    content = await exported(service, opened.json()["session_id"])
    service.clock.now += 100_000
    reply = (await bring(service, content)).json()
    assert (reply["created_at"], reply["expires_at"]) == ("2027-01-15T08:00:00Z", "2027-01-16T13:46:40Z")
    async with running(max_session_ttl_seconds=60, session_ttl_seconds=60) as elsewhere:
        assert (await bring(elsewhere, content)).json()["expires_at"] == "2027-01-15T08:01:00Z"


async def test_retry_survives_the_journey(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    first = await service.ok(session_id=session, text="sat on", position=2, scores=True)
    other = await imported(service, await exported(service, session))
    again = await service.ok(session_id=other, text="sat on", position=2, scores=True)
    assert again["position"] == 4
    for word, expected in zip(again["words"], first["words"], strict=True):
        assert word["log_probability"] == pytest.approx(expected["log_probability"], rel=1e-5)


async def test_marks_are_carried() -> None:
    words = [PLAIN[i % 37] for i in range(90)]
    async with running(max_session_words=20, history_bytes=0) as service:
        session = await typed(service, words)
        other = await imported(service, await exported(service, session))
        earliest = (await rewind(service, other, 0)).json()["earliest"]
        assert earliest >= 70
        for position in (89, earliest + 1, earliest):
            await rewound(service, other, position)
            oracle = Oracle()
            oracle.consume(*words[:position])
            assert_equals(await service.ok(session_id=other, **WHOLE), oracle)


async def test_more_words_than_are_remembered_here(service: Running) -> None:
    content = await exported(service, await typed(service, [PLAIN[i % 37] for i in range(50)]))
    async with running(max_session_words=20) as elsewhere:
        other = await imported(elsewhere, content)
        assert (await elsewhere.client.get(f"/v1/sessions/{other}")).json()["words"] == [
            PLAIN[i % 37] for i in range(30, 50)
        ]
        assert (await rewind(elsewhere, other, 49)).json()["earliest"] == 50


async def test_a_file_from_this_server_is_never_too_large() -> None:
    async with running(max_body_bytes=1024) as service:
        session = (await service.ok())["session_id"]
        for _ in range(20):
            await service.ok(session_id=session, words=PLAIN[:30] * 4)
        content = await exported(service, session)
        assert len(content) > 1024
        assert (await service.ok(session_id=await imported(service, content)))["position"] == 2400


async def refused(service: Running, content: bytes, status: int, message: str) -> dict[str, Any]:
    """The problem; nothing may have changed."""
    scheduler, before = service.service.scheduler, len(service.service.store)
    used = scheduler.states.references
    response = await bring(service, content)
    assert response.status_code == status, response.text
    problem: dict[str, Any] = response.json()
    assert message in problem["detail"]
    assert (len(service.service.store), scheduler.states.references) == (before, used)
    return problem


async def test_other_model(service: Running) -> None:
    file = state_file.decode(await exported(service, await typed(service, PLAIN[:3])))
    other = state_file.encode(replace(file, model="fake@ba9876543210"))
    assert (await refused(service, other, 409, "fake@ba9876543210"))["type"] == "urn:nextword:problem:other-model"


async def test_file_that_was_damaged(service: Running) -> None:
    content = await exported(service, await typed(service, PLAIN[:3]))
    for broken in (
        content[:-1],
        content[:50],
        content[:16],
        b"",
        content + b"\0",
        content[:-40] + b"x" + content[-39:],
    ):
        problem = await refused(service, broken, 400, "state file")
        assert problem["type"] == "urn:nextword:problem:bad-state-file"
    assert (await bring(service, content)).status_code == 201


async def test_file_that_does_not_fit_the_model(service: Running) -> None:
    file = state_file.decode(await exported(service, await typed(service, PLAIN[:3])))
    words = file.words[:]
    words[1] = len(WORDS)
    await refused(service, state_file.encode(replace(file, words=words)), 400, f"names the word {len(WORDS)}")
    short = replace(file, state=np.zeros(10, "<f4").tobytes())
    await refused(service, state_file.encode(short), 400, "states of 40 bytes, and the model 44")


async def test_too_large(service: Running) -> None:
    limit = max(service.service.settings.max_body_bytes, largest(service.service))
    await refused(service, bytes(limit + 1), 413, f"larger than {limit} bytes")


async def test_file_where_none_is_taken(service: Running) -> None:
    session = await typed(service, PLAIN[:3])
    content = await exported(service, session)
    for verb in ("fork", "rewind"):
        response = await service.client.post(f"/v1/sessions/{session}/{verb}", content=content, headers=FILE)
        assert response.status_code == 415


async def test_made_up_state_is_nobody_elses(service: Running) -> None:
    """A file may claim words that its state does not come from. Only its own session may ever stand there."""
    session = await typed(service, PLAIN[:4])
    file = state_file.decode(await exported(service, session))
    liar = await imported(service, state_file.encode(replace(file, state=np.ones(11, "<f4").tobytes())))
    await service.ok(session_id=liar, text="home")
    await service.ok(session_id=session, text="home")
    fresh = await typed(service, [*PLAIN[:4], "home"])
    for each in (session, fresh):
        await rewound(service, each, 4)
        await assert_stands(service, each, PLAIN[:4])


async def test_file_with_as_many_marks_as_there_may_be_can_be_carried_out_again() -> None:
    async with running(max_session_words=20) as service:
        file = state_file.decode(await exported(service, await typed(service, PLAIN[:18])))
        marks = tuple((place, file.state) for place in range(8, 16))
        session = await imported(service, state_file.encode(replace(file, marks=marks)))
        await service.ok(session_id=session, words=PLAIN[:8])
        again = state_file.decode(await exported(service, session))
        assert [place for place, _ in again.marks] == [*range(9, 16), 18]
        await rewound(service, session, 9)


async def test_file_from_as_far_as_there_may_be_goes_on_and_can_be_carried_out_again(service: Running) -> None:
    file = state_file.decode(await exported(service, await typed(service, PLAIN[:4])))
    content = state_file.encode(replace(file, position=2**53))
    await refused(service, content, 400, "none comes beyond")
    session = await imported(service, state_file.encode(replace(file, position=2**52)))
    await service.ok(session_id=session, position=2**52, words=["cat"])
    await service.ok(session_id=session, position=2**52 + 1, words=["dog"])
    await exported(service, session)
    await rewound(service, session, 2**52 + 2)


async def test_file_belongs_to_who_brings_it() -> None:
    async with running(api_keys="ann:an-ann-key-of-length bob:a-bob-key-of-length", max_sessions_per_key=2) as service:
        ann = {"authorization": "Bearer an-ann-key-of-length"}
        bob = {"authorization": "Bearer a-bob-key-of-length"}
        opened = await service.client.post("/v1/sessions", json={"text": "the cat"}, headers=ann)
        session = opened.json()["session_id"]
        assert (await service.client.get(f"/v1/sessions/{session}/state", headers=bob)).status_code == 404
        content = await exported(service, session, headers=ann)
        assert b"ann" not in content
        assert session.encode() not in content
        for _ in range(2):
            brought = await service.client.post("/v1/sessions", content=content, headers={**FILE, **bob})
            assert brought.status_code == 201
        path = f"/v1/sessions/{brought.json()['session_id']}"
        assert (await service.client.get(path, headers=bob)).status_code == 200
        assert (await service.client.get(path, headers=ann)).status_code == 404
        third = await service.client.post("/v1/sessions", content=content, headers={**FILE, **bob})
        assert third.status_code == 429


async def test_export_waits_for_its_turn(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    files: list[bytes] = []

    async def carry() -> None:
        files.append(await exported(service, session))

    service.runtime.gate.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: service.ok(session_id=session, text="cat sat"))
        await service.in_flight(1)
        group.start_soon(carry)
        await service.in_flight(2)
        service.runtime.gate.set()
    assert state_file.decode(files[0]).position == 3


async def test_sessions_that_are_not_there(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    await service.client.delete(f"/v1/sessions/{session}")
    assert (await service.client.get(f"/v1/sessions/{session}/state")).status_code == 410
    assert (await service.client.get("/v1/sessions/nowhere/state")).status_code == 404
