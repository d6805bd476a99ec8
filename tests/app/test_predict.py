"""`POST /v1/predict`: what it consumes, what it answers, and that a session is exactly its words."""

from __future__ import annotations

import math
import random
from typing import Any

import anyio
import pytest

from app.schemas import PredictReply
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, WORDS, Oracle

pytestmark = pytest.mark.anyio


def probabilities(reply: dict[str, Any]) -> dict[str, float]:
    return {item["word"]: item["probability"] for item in reply["predictions"]}


def assert_equals(reply: dict[str, Any], oracle: Oracle) -> None:
    """The reply holds the oracle's whole distribution (asked for with a large top_k and <unk>)."""
    assert probabilities(reply) == pytest.approx(oracle.row(), rel=1e-5, abs=1e-9)


WHOLE: dict[str, Any] = {"top_k": 1000, "include_unknown": True}


async def test_reply_has_the_documented_shape(service: Running) -> None:
    response = await service.predict(text="the cat", scores=True)
    reply = PredictReply.model_validate_json(response.content)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-session-id"] == reply.session_id
    assert reply.model == "fake@0123456789ab"
    assert reply.expires_at == "2027-01-15T08:30:00Z"
    assert reply.position == 2
    assert [(word.word, word.start, word.end, word.known) for word in reply.words] == [
        ("the", 0, 3, True),
        ("cat", 4, 7, True),
    ]
    assert list(response.json()) == [*PredictReply.model_fields]


async def test_fields_of_scores_only_with_scores(service: Running) -> None:
    reply = await service.ok(text="the")
    assert "entropy_bits" not in reply
    assert reply["words"] == [{"word": "the", "start": 0, "end": 3, "known": True}]


async def test_five_words_in_one_request_equal_five_requests(service: Running) -> None:
    together = await service.ok(text="the cat sat on the", **WHOLE)
    apart: dict[str, Any] = {"session_id": None}
    for word in ["the", "cat", "sat", "on", "the"]:
        apart = await service.ok(text=word, session_id=apart["session_id"], **WHOLE)
    assert apart["position"] == together["position"] == 5
    assert probabilities(apart) == pytest.approx(probabilities(together), rel=1e-5)
    oracle = Oracle()
    oracle.consume("the", "cat", "sat", "on", "the")
    assert_equals(apart, oracle)


async def test_whole_vocabulary_sums_to_one(service: Running) -> None:
    reply = await service.ok(text="the cat", **WHOLE)
    assert len(reply["predictions"]) == len(WORDS)
    assert sum(probabilities(reply).values()) == pytest.approx(1, abs=1e-5)
    values = [item["probability"] for item in reply["predictions"]]
    assert values == sorted(values, reverse=True)
    for item in reply["predictions"]:
        assert math.exp(item["log_probability"]) == pytest.approx(item["probability"])


@pytest.mark.parametrize("start", ["<eos>", None])
async def test_new_session_stands_where_a_text_begins(start: str | None) -> None:
    async with running(start=start) as service:
        reply = await service.ok(**WHOLE)
        assert reply["position"] == 0
        assert reply["words"] == []
        assert_equals(reply, Oracle(start))


async def test_nothing_consumed_answers_again(service: Running) -> None:
    first = await service.ok(text="the cat", **WHOLE)
    for nothing in ({}, {"text": ""}, {"words": []}, {"text": "  \n"[:2]}):
        again = await service.ok(session_id=first["session_id"], **nothing, **WHOLE)
        assert again["position"] == 2
        assert again["predictions"] == first["predictions"]


async def test_words_are_consumed_as_they_are(service: Running) -> None:
    reply = await service.ok(words=["the", "cat", "The cat", "<eos>"], **WHOLE)
    assert [word["word"] for word in reply["words"]] == ["the", "cat", "<unk>", "<eos>"]
    assert [word["known"] for word in reply["words"]] == [True, True, False, True]
    assert all("start" not in word for word in reply["words"])
    oracle = Oracle()
    oracle.consume("the", "cat", "<unk>", "<eos>")
    assert_equals(reply, oracle)


async def test_offsets_are_characters_of_the_text(service: Running) -> None:
    text = "the 🐈 zzz cat\u0301 sat"
    reply = await service.ok(text=text)
    last = reply["words"][-1]
    assert text[last["start"] : last["end"]] == "sat"
    assert [word["known"] for word in reply["words"]][:2] == [True, False]


@pytest.mark.parametrize(("top_k", "count"), [(0, 0), (1, 1), (1000, len(WORDS) - 1)])
async def test_top_k(service: Running, top_k: int, count: int) -> None:
    reply = await service.ok(text="the", top_k=top_k)
    assert len(reply["predictions"]) == count
    assert "<unk>" not in probabilities(reply)


async def test_unknown_is_left_out_but_counted(service: Running) -> None:
    oracle = Oracle()
    for word in PLAIN[:12]:
        oracle.consume(word)
        row = oracle.row()
        ranked = sorted(row, key=lambda word: -row[word])
        session = (await service.ok(words=PLAIN[: PLAIN.index(word) + 1], top_k=3))["session_id"]
        without = await service.ok(session_id=session, top_k=3)
        including = await service.ok(session_id=session, top_k=3, include_unknown=True)
        assert list(probabilities(without)) == [word for word in ranked if word != "<unk>"][:3]
        assert list(probabilities(including)) == ranked[:3]
        assert without["unknown_probability"] == pytest.approx(row["<unk>"], rel=1e-5)
        assert probabilities(without) == pytest.approx({w: row[w] for w in probabilities(without)}, rel=1e-5)


async def test_prefix_is_renormalised(service: Running) -> None:
    oracle = Oracle()
    oracle.consume("the")
    row = oracle.row()
    starting = {word: row[word] for word in row if word.startswith("cat")}
    assert set(starting) == {"cat", "catalogue", "cater", "category"}
    reply = await service.ok(text="the", prefix="cat", top_k=3, scores=True)
    total = sum(starting.values())
    assert reply["prefix_probability"] == pytest.approx(total, rel=1e-5)
    best = sorted(starting, key=lambda word: -starting[word])[:3]
    assert probabilities(reply) == pytest.approx({word: starting[word] / total for word in best}, rel=1e-5)
    assert [math.exp(item["log_probability"]) for item in reply["predictions"]] == pytest.approx(
        list(probabilities(reply).values())
    )
    assert reply["unknown_probability"] == pytest.approx(row["<unk>"], rel=1e-5)
    every = await service.ok(session_id=reply["session_id"], prefix="cat", top_k=50)
    assert sum(probabilities(every).values()) == pytest.approx(1)


async def test_prefix_that_no_word_has(service: Running) -> None:
    reply = await service.ok(text="the", prefix="qqq")
    assert reply["predictions"] == []
    assert reply["prefix_probability"] == 0


async def test_scores_are_those_of_each_word_before_it_was_consumed(service: Running) -> None:
    words = ["the", "cat", "<unk>", "home"]
    reply = await service.ok(words=words, scores=True)
    oracle = Oracle()
    for word, scored in zip(words, reply["words"], strict=True):
        row = oracle.row()
        assert scored["probability"] == pytest.approx(row[word], rel=1e-5)
        assert scored["log_probability"] == pytest.approx(math.log(row[word]), rel=1e-5)
        assert scored["surprisal_bits"] == pytest.approx(-math.log2(row[word]), rel=1e-5)
        assert scored["rank"] == 1 + sum(value > row[word] * (1 + 1e-9) for value in row.values())
        oracle.consume(word)
    row = oracle.row()
    assert reply["entropy_bits"] == pytest.approx(-sum(p * math.log2(p) for p in row.values()), rel=1e-5)


async def test_scores_of_a_long_text_are_projected_in_bounded_products(service: Running) -> None:
    words = [PLAIN[i % len(PLAIN)] for i in range(1000)]
    reply = await service.ok(words=words, scores=True)
    assert max(service.runtime.products) <= 64
    assert len(service.runtime.products) <= 1000 // 64 + 2
    oracle = Oracle()
    for word, scored in zip(words, reply["words"], strict=True):
        assert scored["probability"] == pytest.approx(oracle.row()[word], rel=1e-4)
        oracle.consume(word)


async def test_keep_false_keeps_nothing(service: Running) -> None:
    response = await service.predict(text="the cat", keep=False, **WHOLE)
    reply = response.json()
    assert reply["session_id"] is None
    assert reply["expires_at"] is None
    assert reply["position"] == 2
    assert "x-session-id" not in response.headers
    assert len(service.service.store) == 0
    oracle = Oracle()
    oracle.consume("the", "cat")
    assert_equals(reply, oracle)


async def test_one_lonely_request_goes_at_once(service: Running) -> None:
    before = service.service.scheduler.engine.ticks
    await service.ok(text="the")
    assert service.service.scheduler.engine.ticks == before + 1


async def test_sixty_four_sessions_at_once_equal_the_serial_oracle(service: Running) -> None:
    """Random pieces of random length, each session alone in its order, all of them in the same steps."""

    async def drive(number: int) -> None:
        rng = random.Random(number)
        oracle, session, position = Oracle(), None, 0
        for _ in range(6):
            words = rng.choices(WORDS, k=rng.choice([0, 1, 1, 1, 3, 9]))
            fields: dict[str, Any] = {"position": position} if rng.random() < 0.5 else {}
            if rng.random() < 0.3:
                fields["scores"] = True
            reply = await service.ok(session_id=session, words=words, **fields, **WHOLE)
            session, position = reply["session_id"], position + len(words)
            oracle.consume(*words)
            assert reply["position"] == position
            assert_equals(reply, oracle)

    service.runtime.gate.clear()  # so that all of them meet in one step
    async with anyio.create_task_group() as group:
        for number in range(64):
            group.start_soon(drive, number)
        await service.in_flight(64)
        service.runtime.gate.set()
    assert max(service.runtime.batches) > 32, "the sessions were not batched"


async def test_answer_does_not_depend_on_company(service: Running) -> None:
    alone = await service.ok(text="the cat sat", **WHOLE)
    replies: list[dict[str, Any]] = []

    async def ask(text: str) -> None:
        reply = await service.ok(text=text, **WHOLE)
        if text == "the cat sat":
            replies.append(reply)

    async with anyio.create_task_group() as group:
        for number in range(63):
            group.start_soon(ask, " ".join(PLAIN[number % 20 :]))
        group.start_soon(ask, "the cat sat")
    assert probabilities(replies[0]) == pytest.approx(probabilities(alone), rel=1e-5)
