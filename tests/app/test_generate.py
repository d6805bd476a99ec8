"""`POST /v1/generate`: words drawn as the model has them, each consumed once, and none for a client that has gone."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from app.schemas import GenerateReply
from model import decoding
from model.decoding import Sampling
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, WORDS, Oracle
from tests.app.live import Live, Steps, live
from tests.app.test_predict import WHOLE, assert_equals
from tests.app.test_scheduler import Caller

pytestmark = pytest.mark.anyio


async def generate(service: Running, status: int = 200, **fields: Any) -> dict[str, Any]:
    response = await service.client.post("/v1/generate", json=fields)
    assert response.status_code == status, response.text
    return response.json()  # type: ignore[no-any-return]


def events(content: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream: names and data."""
    assert content.endswith("\n\n")
    found = []
    for event in content[:-2].split("\n\n"):
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def told(oracle: Oracle, sampling: Sampling, seed: int, count: int) -> list[str]:
    """What is said after what the oracle has consumed: one word after the other, alone."""
    words = []
    for number in range(count):
        row = oracle.runtime.log_probabilities(oracle.state[-1])[0]
        id = decoding.sample(row, sampling, decoding.uniform(seed, number), without=oracle.tokenizer.unknown_id)
        assert id is not None
        words.append(WORDS[id])
        oracle.consume(WORDS[id])
    return words


def after(*words: str) -> Oracle:
    oracle = Oracle()
    oracle.consume(*words)
    return oracle


async def test_reply_has_the_documented_shape(service: Running) -> None:
    response = await service.client.post("/v1/generate", json={"text": "the cat", "max_words": 3, "seed": 1})
    reply = GenerateReply.model_validate_json(response.content)
    assert list(response.json()) == [*GenerateReply.model_fields]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-session-id"] == reply.session_id
    assert (reply.position, len(reply.words), reply.finish_reason) == (5, 3, "length")
    assert reply.text == "".join(f" {word}" for word in reply.words)


async def test_temperature_zero_takes_the_likeliest_word_that_is_known(service: Running) -> None:
    reply = await generate(service, words=["the", "dog"], max_words=40, temperature=0)
    oracle = after("the", "dog")
    for word in reply["words"]:
        row = oracle.row()
        del row["<unk>"]
        assert word == max(row, key=lambda other: row[other])
        oracle.consume(word)


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({}, Sampling()),
        ({"temperature": 0.5, "top_k": 5}, Sampling(0.5, 5)),
        ({"temperature": 1.7, "top_p": 0.6}, Sampling(1.7, None, 0.6)),
        ({"top_k": 9, "top_p": 0.8}, Sampling(1.0, 9, 0.8)),
    ],
)
async def test_words_are_those_of_the_serial_oracle_and_are_consumed(
    service: Running, fields: dict[str, Any], sampling: Sampling
) -> None:
    oracle = after("the", "cat")
    reply = await generate(service, text="the cat", max_words=30, seed=11, **fields)
    assert reply["words"] == told(oracle, sampling, 11, 30)
    follows = await service.ok(session_id=reply["session_id"], position=32, **WHOLE)
    assert follows["position"] == reply["position"] == 32
    assert_equals(follows, oracle)


async def test_a_seed_gives_the_same_words_again_and_another_one_others(service: Running) -> None:
    replies = [await generate(service, text="the cat", seed=seed) for seed in (7, 7, 8, -1, 2**63 - 1)]
    assert replies[0]["words"] == replies[1]["words"]
    assert replies[0]["text"] == replies[1]["text"]
    assert len({tuple(reply["words"]) for reply in replies}) == 4
    assert replies[0]["session_id"] != replies[1]["session_id"]
    unseeded = [await generate(service, text="the cat") for _ in range(2)]
    assert unseeded[0]["words"] != unseeded[1]["words"]


async def test_the_unknown_word_is_never_said(service: Running) -> None:
    """At such a temperature all words are about as likely, and 600 draws would meet each of them."""
    reply = await generate(service, text="the", max_words=600, temperature=100, seed=1)
    assert set(reply["words"]) == {*WORDS} - {"<unk>"}


async def test_a_session_goes_on(service: Running) -> None:
    first = await service.ok(text="the cat")
    reply = await generate(service, session_id=first["session_id"], position=2, text="sat", max_words=4, seed=3)
    oracle = after("the", "cat", "sat")
    assert reply["words"] == told(oracle, Sampling(), 3, 4)
    again = await generate(service, session_id=first["session_id"], max_words=4, seed=4)
    assert again["words"] == told(oracle, Sampling(), 4, 4)
    assert_equals(await service.ok(session_id=first["session_id"], position=11, **WHOLE), oracle)


async def test_stop_words_are_neither_told_nor_consumed(service: Running) -> None:
    whole = (await generate(service, text="the cat", seed=5))["words"]
    place = next(i for i, word in enumerate(whole) if i > 3 and word not in whole[:i])
    reply = await generate(service, text="the cat", seed=5, stop=["never", whole[place], "<unk>"])
    assert reply["words"] == whole[:place]
    assert reply["finish_reason"] == "stop"
    assert reply["position"] == 2 + place
    assert_equals(await service.ok(session_id=reply["session_id"], **WHOLE), after("the", "cat", *whole[:place]))
    at_once = await generate(service, session_id=reply["session_id"], position=2 + place, stop=WORDS)
    assert (at_once["words"], at_once["text"], at_once["position"]) == ([], "", 2 + place)


async def test_the_end_of_a_line_is_a_word_like_others(service: Running) -> None:
    reply = await generate(service, text="the", max_words=300, temperature=100, seed=2)
    assert "<eos>" in reply["words"]
    assert reply["text"].count("\n") == reply["words"].count("<eos>")
    stopped = await generate(service, text="the", max_words=300, temperature=100, seed=2, stop=["<eos>"])
    assert stopped["words"] == reply["words"][: reply["words"].index("<eos>")]


async def test_what_is_no_single_word_stops_as_the_text_that_it_is(service: Running) -> None:
    whole = (await generate(service, text="the", max_words=300, temperature=100, seed=2))["words"]
    line = await generate(service, text="the", max_words=300, temperature=100, seed=2, stop=["\n"])
    assert line["words"] == whole[: whole.index("<eos>")]
    place = next(i for i, word in enumerate(whole) if i > 3 and word not in whole[:i])
    blank = await generate(service, text="the", max_words=300, temperature=100, seed=2, stop=[f" {whole[place]}"])
    assert blank["words"] == whole[:place]
    place = next(i for i in range(4, 99) if "<eos>" not in whole[i : i + 2] and whole[i] not in whole[:i])
    several = await generate(
        service,
        text="the",
        max_words=300,
        temperature=100,
        seed=2,
        stop=["never heard", " ".join(whole[place : place + 2])],
    )
    assert several["words"] == whole[:place]


async def test_no_words_are_asked_for(service: Running) -> None:
    reply = await generate(service, text="the cat", max_words=0)
    assert (reply["words"], reply["text"], reply["position"], reply["finish_reason"]) == ([], "", 2, "length")
    assert_equals(await service.ok(session_id=reply["session_id"], **WHOLE), after("the", "cat"))
    empty = await generate(service, max_words=0)
    assert empty["position"] == 0


async def test_text_goes_on_from_what_was_there(service: Running) -> None:
    first = await generate(service, text="the cat ", max_words=2, seed=1)
    assert first["text"] == " ".join(first["words"])
    second = await generate(service, session_id=first["session_id"], max_words=2, seed=1)
    assert second["text"] == "".join(f" {word}" for word in second["words"])
    begins = await generate(service, max_words=2, seed=4)
    assert begins["text"] == " ".join(begins["words"])


@pytest.mark.parametrize("fields", [{"seed": 9}, {"temperature": 0}, {"seed": 5, "stop": ["london", "six"]}])
async def test_a_stream_has_an_event_a_word_and_says_the_same(service: Running, fields: dict[str, Any]) -> None:
    whole = await generate(service, text="the cat", **fields)
    response = await service.client.post("/v1/generate", json={"text": "the cat", "stream": True, **fields})
    assert response.headers["content-type"].startswith("text/event-stream")
    *words, (last, done) = events(response.text)
    assert [name for name, _ in words] == ["word"] * len(whole["words"])
    assert [data["word"] for _, data in words] == whole["words"] == done["words"]
    assert "".join(data["text"] for _, data in words) == whole["text"] == done["text"]
    assert [data["position"] for _, data in words] == list(range(3, 3 + len(words)))
    assert (last, done["finish_reason"], done["position"]) == ("done", whole["finish_reason"], whole["position"])
    assert response.headers["x-session-id"] == done["session_id"]
    GenerateReply.model_validate(done)
    scored = await service.ok(words=["the", "cat", *whole["words"]], scores=True)
    for (_, data), score in zip(words, scored["words"][2:], strict=True):
        assert data["rank"] == score["rank"]
        for field in ("log_probability", "probability", "surprisal_bits"):
            assert data[field] == pytest.approx(score[field], abs=1e-5)
    follows = await service.ok(session_id=done["session_id"], position=done["position"], **WHOLE)
    assert_equals(follows, after("the", "cat", *whole["words"]))


async def test_thirty_two_generations_beside_predictions_equal_the_serial_oracle(service: Running) -> None:
    async def speak(number: int) -> None:
        rng = random.Random(number)
        given = rng.choices(PLAIN, k=rng.choice([0, 1, 2, 7]))
        fields: dict[str, Any] = rng.choice([{}, {"temperature": 0.6, "top_k": 4}, {"top_p": 0.5}, {"stream": True}])
        sampling = Sampling(fields.get("temperature", 1.0), fields.get("top_k"), fields.get("top_p"))
        response = await service.client.post(
            "/v1/generate", json={"words": given, "max_words": 25, "seed": number, **fields}
        )
        reply = events(response.text)[-1][1] if "stream" in fields else response.json()
        oracle = after(*given)
        assert reply["words"] == told(oracle, sampling, number, 25)
        assert_equals(await service.ok(session_id=reply["session_id"], **WHOLE), oracle)

    async def predict(number: int) -> None:
        oracle, session = Oracle(), None
        for word in random.Random(number).choices(PLAIN, k=8):
            reply = await service.ok(session_id=session, words=[word], **WHOLE)
            session = reply["session_id"]
            oracle.consume(word)
            assert_equals(reply, oracle)

    service.runtime.gate.clear()
    async with anyio.create_task_group() as group:
        for number in range(32):
            group.start_soon(speak, number)
            group.start_soon(predict, number)
        await service.in_flight(64)
        service.runtime.gate.set()
    assert max(service.runtime.batches) > 32, "they did not share steps"
    assert service.service.scheduler.engine.ticks < 32 * 25, "they went one after the other"


# --- Once more --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"seed": 3}, {}, {"temperature": 0}, {"stop": ["six", "london", "home"]}])
async def test_the_same_request_again_is_answered_again_and_consumes_nothing(
    service: Running, fields: dict[str, Any]
) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    request = {"session_id": session, "position": 2, "text": "sat", "max_words": 6, **fields}
    first = await generate(service, **request)
    for _ in range(2):
        assert await generate(service, **request) == first
    response = await service.client.post("/v1/generate", json={**request, "stream": True})
    assert [data["word"] for name, data in events(response.text) if name == "word"] == first["words"]
    assert events(response.text)[-1] == ("done", first)
    follows = await service.ok(session_id=session, position=first["position"], **WHOLE)
    assert_equals(follows, after("the", "cat", "sat", *first["words"]))


async def test_the_same_text_again_where_few_words_are_remembered() -> None:
    async with running(max_session_words=64) as service:
        session = (await service.ok(words=(PLAIN * 2)[:53]))["session_id"]
        request = {"session_id": session, "position": 53, "max_words": 12, "seed": 1}
        first = await generate(service, **request)
        assert first["text"].startswith(" ")
        for _ in range(2):
            assert await generate(service, **request) == first


async def test_the_request_that_opened_a_session_can_be_repeated_in_it(service: Running) -> None:
    request = {"text": "the cat", "max_words": 6}
    first = await generate(service, **request)
    session = first["session_id"]
    assert await generate(service, session_id=session, position=0, **request) == first
    follows = await service.ok(session_id=session, position=first["position"], **WHOLE)
    assert_equals(follows, after("the", "cat", *first["words"]))


@pytest.mark.parametrize(
    "other", [{"seed": 4}, {"text": "on"}, {"max_words": 7}, {"temperature": 0.9}, {"top_k": 3}, {"stop": ["six"]}]
)
async def test_another_request_at_an_old_position_is_a_conflict(service: Running, other: dict[str, Any]) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    request = {"session_id": session, "position": 2, "text": "sat", "max_words": 6, "seed": 3}
    await generate(service, **request)
    response = await service.client.post("/v1/generate", json={**request, **other})
    assert response.status_code == 409
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["position"] == 9
    assert (await generate(service, **request))["position"] == 9, "a conflict changes nothing"


async def test_position_of_a_session_that_has_moved_on(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    request = {"session_id": session, "position": 2, "max_words": 3, "seed": 3}
    await generate(service, **request)
    await service.ok(session_id=session, text="dog")
    assert (await generate(service, 409, **request))["position"] == 6
    assert (await generate(service, 409, **{**request, "position": 7}))["position"] == 6
    assert (await generate(service, 409, position=3, text="the"))["position"] == 0
    assert (await generate(service, position=0, text="the", max_words=1))["position"] == 2


async def test_more_words_than_a_session_keeps_cannot_be_told_again(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    request = {"session_id": session, "position": 2, "max_words": 9}
    await generate(service, **request)
    store = service.service.store
    stored = await store.load(session)
    assert stored is not None
    kept = replace(stored, recent=stored.recent[-8 * stored.width :], revision=stored.revision + 1)
    await store.commit(kept, stored.revision)
    problem = await generate(service, 409, **request)
    assert (problem["position"], "keeps its last 8 only" in problem["detail"]) == (11, True)


async def test_a_repetition_is_known_on_another_server_and_after_a_restart(tmp_path: Path) -> None:
    place = f"sqlite:{tmp_path / 'sessions.db'}"
    async with running(store=place) as service:
        session = (await service.ok(text="the cat"))["session_id"]
        request = {"session_id": session, "position": 2, "text": "sat", "max_words": 6}
        first = await generate(service, **request)
    async with running(store=place) as service:
        assert await generate(service, **request) == first
        follows = await service.ok(session_id=session, position=9, **WHOLE)
        assert_equals(follows, after("the", "cat", "sat", *first["words"]))


# --- Clients that leave -----------------------------------------------------------------------------------------------


async def test_client_that_leaves_a_stream_has_its_session_stand_after_what_it_was_told(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    request = {"session_id": session, "position": 2, "text": "sat", "max_words": 50, "seed": 6}
    steps = Steps(service.runtime)
    caller = Caller(service, json.dumps({**request, "stream": True}).encode())
    async with anyio.create_task_group() as group:
        group.start_soon(caller.run, "/v1/generate")
        steps.allow(4)  # consumes `sat` and three words; four are said
        with anyio.fail_after(10):
            while len(caller.sent) < 5:
                await anyio.lowlevel.checkpoint()
        caller.leave()
        steps.allow(1000)
        await service.in_flight(0)
    words = [events(message["body"].decode())[0][1]["word"] for message in caller.sent[1:]]
    oracle = after("the", "cat", "sat")
    assert words == told(oracle, Sampling(), 6, 4)
    found = await service.client.get(f"/v1/sessions/{session}")
    assert found.json()["position"] == 7
    assert found.json()["words"] == ["the", "cat", "sat", *words]
    assert_equals(await service.ok(session_id=session, position=7, **WHOLE), oracle)


async def test_a_broken_stream_is_completed_by_the_same_request(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    request = {"session_id": session, "position": 2, "max_words": 12, "stream": True}
    steps = Steps(service.runtime)
    caller = Caller(service, json.dumps(request).encode())
    async with anyio.create_task_group() as group:
        group.start_soon(caller.run, "/v1/generate")
        steps.allow(4)
        with anyio.fail_after(10):
            while len(caller.sent) < 6:
                await anyio.lowlevel.checkpoint()
        caller.leave()
        steps.allow(1000)
        await service.in_flight(0)
    first = [events(message["body"].decode())[0][1] for message in caller.sent[1:]]
    response = await service.client.post("/v1/generate", json=request)
    *words, (_, done) = events(response.text)
    for (_, data), before in zip(words, first, strict=False):
        # What was told before is known by its word only: how likely it was is not kept.
        assert data == {name: before[name] for name in ("word", "text", "position")}
    assert all("rank" in data for _, data in words[5:])
    assert [data["position"] for _, data in words] == list(range(3, 15))
    assert (len(done["words"]), done["position"]) == (12, 14)
    assert_equals(await service.ok(session_id=session, position=14, **WHOLE), after("the", "cat", *done["words"]))


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_before_it_was_told_anything_changes_nothing(service: Running, stream: bool) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    steps = Steps(service.runtime)
    for given in ({"session_id": session}, {}):
        caller = Caller(service, json.dumps({**given, "text": "dog ran to", "stream": stream}).encode())
        async with anyio.create_task_group() as group:
            group.start_soon(caller.run, "/v1/generate")
            await service.in_flight(1)
            steps.allow(1)
            caller.leave()
            await service.in_flight(0)
        assert caller.sent == []
    assert len(service.service.store) == 1
    steps.allow(1000)
    assert_equals(await service.ok(session_id=session, position=2, **WHOLE), after("the", "cat"))


async def test_runtime_that_fails_ends_a_stream_with_a_problem_and_the_session_is_as_it_was(service: Running) -> None:
    session = (await service.ok(text="the cat"))["session_id"]
    words = (await generate(service, text="the cat", seed=8))["words"]
    place = next(i for i, word in enumerate(words) if i > 1 and word not in [*words[:i], "the", "cat", "on"])
    service.runtime.poisoned = WORDS.index(words[place])
    body = {"session_id": session, "position": 2, "seed": 8, "stream": True}
    found = events((await service.client.post("/v1/generate", json=body)).text)
    assert [data["word"] for name, data in found if name == "word"] == words[: place + 1]
    name, problem = found[-1]
    assert (name, problem["status"], problem["type"]) == ("error", 500, "urn:nextword:problem:defect")
    assert_equals(await service.ok(session_id=session, position=2, **WHOLE), after("the", "cat"))
    whole = await service.client.post("/v1/generate", json={**body, "stream": False})
    assert whole.status_code == 500


async def test_answer_that_is_no_number(service: Running) -> None:
    service.runtime.nan = True
    for fields in ({"temperature": 0}, {}):
        response = await service.client.post("/v1/generate", json={"text": "the", **fields})
        assert response.status_code in (500, 503)
    assert len(service.service.store) == 0


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live() as it:
        yield it


def test_closing_the_socket_in_mid_stream(server: Live) -> None:
    """The server may be ahead of what the client has read, and the session stands where the server had come to."""
    with httpx2.Client(base_url=server.address, timeout=20) as client:
        session = client.post("/v1/predict", json={"text": "the cat"}).json()["session_id"]
        steps = Steps(server.runtime)
        host, port = server.address.removeprefix("http://").split(":")
        body = json.dumps({"session_id": session, "text": "sat", "max_words": 500, "seed": 6, "stream": True}).encode()
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            head = b"POST /v1/generate HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)
            steps.allow(3)
            answer = b""
            while answer.count(b"event: word") < 3:
                answer += connection.recv(65_536)

        def over() -> bool:
            steps.allow(1)
            return server.service.scheduler.in_flight == 0

        server.until(over)
        found = client.get(f"/v1/sessions/{session}").json()
        steps.allow(10_000)
        oracle = after("the", "cat", "sat")
        words = told(oracle, Sampling(), 6, found["position"] - 3)
        assert 3 <= len(words) < 500
        assert found["words"] == ["the", "cat", "sat", *words]
        reply = client.post("/v1/predict", json={"session_id": session, "position": 3 + len(words), **WHOLE}).json()
        assert_equals(reply, oracle)


async def test_words_leave_as_they_are_said(service: Running) -> None:
    """While the runtime waits for leave to go on, all words so far have been sent."""
    steps = Steps(service.runtime)
    caller = Caller(service, b'{"text": "the", "max_words": 5, "stream": true}')
    async with anyio.create_task_group() as group:
        group.start_soon(caller.run, "/v1/generate")
        for count in range(1, 6):
            steps.allow(1)
            with anyio.fail_after(10):
                while len(caller.sent) <= count:
                    await anyio.lowlevel.checkpoint()
            assert len(caller.sent) == count + 1
        steps.allow(1)
    assert caller.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_slow_reader_holds_up_nobody_and_makes_nothing_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read has its request finished inside; the others are answered meanwhile. When it has read
    nothing for too long, it counts as having left: the session stands after the words that were sent."""
    async with running() as service:
        monkeypatch.setattr("app.connection.READ_SECONDS", 0.2)
        session = (await service.ok(text="the cat"))["session_id"]
        body = {"session_id": session, "max_words": 200, "seed": 2, "stream": True}
        caller = Caller(service, json.dumps(body).encode())
        sent = 0

        async def stuck(message: Any) -> None:
            nonlocal sent
            if message.get("body"):
                if sent == 7:
                    await anyio.sleep_forever()
                sent += 1

        caller._send = stuck  # type: ignore[method-assign]
        async with anyio.create_task_group() as group:
            group.start_soon(caller.run, "/v1/generate")
            for _ in range(20):
                await service.ok(text="the dog")
            await service.in_flight(0)
        oracle = after("the", "cat")
        told(oracle, Sampling(), 2, 7)
        assert_equals(await service.ok(session_id=session, position=9, **WHOLE), oracle)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_words", -1),
        ("max_words", 1001),
        ("temperature", -0.1),
        ("temperature", 101),
        ("top_k", 0),
        ("top_p", 0),
        ("top_p", 1.01),
        ("seed", 2**63),
        ("seed", 1.5),
        ("stop", "the"),
        ("stop", [""]),
        ("stop", ["the", " "]),
        ("stop", ["x" * 1001]),
        ("stop", ["the"] * 65),
        ("stream", 1),
        ("keep", False),
        ("position", -1),
    ],
)
async def test_fields_out_of_range_are_named(service: Running, field: str, value: Any) -> None:
    problem = await generate(service, 422, text="the", **{field: value})
    assert problem["errors"][0]["field"].split(".")[0] == field
    assert len(service.service.store) == 0


async def test_sessions_that_are_not_there(service: Running) -> None:
    await generate(service, 404, session_id="x" * 32)
    session = (await service.ok(text="the"))["session_id"]
    await service.client.delete(f"/v1/sessions/{session}")
    await generate(service, 410, session_id=session)
    response = await service.client.post("/v1/generate", json={"text": "the"}, headers={"x-session-id": session})
    assert response.status_code == 400
