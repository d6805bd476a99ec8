"""`POST /v1/score`: the same figures as consuming the words one by one gives, and no session touched."""

from __future__ import annotations

import json
import math
import random
import threading
from typing import Any

import anyio
import pytest

from app.engine import SCORE_ROWS
from app.schemas import ScoreReply
from app.scoring import MAX_PREDICTIONS, TEXTS_AT_ONCE
from app.service import LARGE_CHARACTERS
from model.evaluation import evaluate
from model.measurement import ALL
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, WORDS, FakeRuntime, Oracle, artifact
from tests.app.test_scheduler import Caller

pytestmark = pytest.mark.anyio


async def score(service: Running, status: int = 200, **fields: Any) -> dict[str, Any]:
    response = await service.client.post("/v1/score", json=fields)
    assert response.status_code == status, response.text
    return response.json()  # type: ignore[no-any-return]


def assert_scored(result: dict[str, Any], words: list[str]) -> None:
    """Every word has the oracle's score."""
    oracle = Oracle()
    assert [item["word"] for item in result["words"]] == words
    total = 0.0
    for item in result["words"]:
        row = oracle.row()
        p = row[item["word"]]
        assert item["probability"] == pytest.approx(p, rel=1e-4)
        assert item["log_probability"] == pytest.approx(math.log(p), abs=1e-4)
        assert item["surprisal_bits"] == pytest.approx(-math.log2(p), abs=1e-4)
        assert item["rank"] == 1 + sum(value > p * (1 + 1e-9) for value in row.values())
        total += math.log(p)
        oracle.consume(item["word"])
    assert result["total_log_probability"] == pytest.approx(total, abs=1e-3)
    assert result["perplexity"] == pytest.approx(math.exp(-total / len(words)), rel=1e-4)


async def test_reply_has_the_documented_shape(service: Running) -> None:
    response = await service.client.post("/v1/score", json={"texts": ["the cat", ""], "top_k": 3})
    reply = ScoreReply.model_validate_json(response.content)
    assert reply.model == "fake@0123456789ab"
    assert [len(result.words) for result in reply.results] == [2, 0]
    assert [(word.word, word.start, word.end, word.known) for word in reply.results[0].words] == [
        ("the", 0, 3, True),
        ("cat", 4, 7, True),
    ]
    assert (reply.results[1].total_log_probability, reply.results[1].perplexity) == (0.0, None)
    assert len(service.service.store) == 0


async def test_words_are_scored_as_if_they_were_consumed_one_by_one(service: Running) -> None:
    reply = await score(service, text="the cat zzz home\nthe dog")
    assert_scored(reply["results"][0], ["the", "cat", "<unk>", "home", "<eos>", "the", "dog"])
    assert [word["known"] for word in reply["results"][0]["words"]] == [True, True, False, True, True, True, True]
    assert "predictions" not in reply["results"][0]["words"][0]


async def test_perplexity_is_that_of_the_evaluation(service: Running) -> None:
    text = " ".join(random.Random(1).choices([*PLAIN, "zzz", "\n"], k=400))
    reply = await score(service, text=text)
    found = evaluate(artifact(), FakeRuntime(), {"text": text}, keystrokes=False).together
    assert len(reply["results"][0]["words"]) == found.words
    assert reply["results"][0]["perplexity"] == pytest.approx(found.figures[ALL].perplexity, rel=1e-4)


async def test_predictions_stand_beside_each_word(service: Running) -> None:
    reply = await score(service, text="the cat sat", top_k=4)
    oracle = Oracle()
    for item in reply["results"][0]["words"]:
        row = oracle.row()
        best = sorted(row, key=lambda word: -row[word])[:4]
        assert [prediction["word"] for prediction in item["predictions"]] == best
        assert [prediction["probability"] for prediction in item["predictions"]] == pytest.approx(
            [row[word] for word in best], rel=1e-4
        )
        for prediction in item["predictions"]:
            if prediction["word"] == item["word"]:
                assert prediction["log_probability"] == item["log_probability"], "one word, two figures"
        oracle.consume(item["word"])
    every = await score(service, text="the", top_k=1000)
    assert len(every["results"][0]["words"][0]["predictions"]) == len(WORDS)


async def test_many_texts_share_steps_and_stand_in_their_order(service: Running) -> None:
    rng = random.Random(2)
    texts = [rng.choices(PLAIN, k=rng.choice([0, 1, 5, 40])) for _ in range(60)]
    reply = await score(service, texts=[" ".join(words) for words in texts])
    for result, words in zip(reply["results"], texts, strict=True):
        if words:
            assert_scored(result, words)
    assert 1 < max(service.runtime.batches) <= TEXTS_AT_ONCE


async def test_long_text_is_projected_in_bounded_products_and_holds_up_nobody(service: Running) -> None:
    words = random.Random(3).choices(PLAIN, k=12_000)  # more than one request may bring to a session
    replies: list[dict[str, Any]] = []

    async def ask() -> None:
        replies.append(await score(service, text=" ".join(words), top_k=2))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await service.in_flight(1)
        for _ in range(20):
            await service.ok(text="the cat", keep=False)
            assert not replies, "the short ones waited for the long one"
    assert max(service.runtime.products) <= SCORE_ROWS
    assert_scored(replies[0]["results"][0], words)


async def test_client_that_leaves_ends_the_work(service: Running) -> None:
    service.runtime.gate.clear()
    body = json.dumps({"texts": [" ".join(PLAIN * 20)] * 40}).encode()
    caller = Caller(service, body)
    async with anyio.create_task_group() as group:
        group.start_soon(caller.run, "/v1/score")
        await service.in_flight(1)
        caller.leave()
        await service.in_flight(0)
        service.runtime.gate.set()
    assert caller.sent == []
    await service.ok(text="the", keep=False)
    assert len(service.runtime.batches) <= 4, "steps were taken for a client that had left"


async def test_failure_is_that_of_the_request(service: Running) -> None:
    service.runtime.poisoned = WORDS.index("dog")
    problem = await score(service, 500, texts=["the cat", "a dog", "the cat sat"])
    assert problem["type"] == "urn:nextword:problem:defect"
    assert_scored((await score(service, text="the cat"))["results"][0], ["the", "cat"])


async def test_too_many_predictions(service: Running) -> None:
    words = MAX_PREDICTIONS // 1000 + 1
    problem = await score(service, 413, text="the " * words, top_k=1000)
    assert (problem["words"], problem["limit"]) == (words, MAX_PREDICTIONS)


async def test_too_many_words(monkeypatch: pytest.MonkeyPatch, service: Running) -> None:
    monkeypatch.setattr("app.scoring.MAX_WORDS", 10)
    assert len((await score(service, texts=["the cat"] * 5))["results"]) == 5
    problem = await score(service, 413, texts=["the cat"] * 5 + ["the"])
    assert problem["type"] == "urn:nextword:problem:too-many-words"
    assert (problem["words"], problem["limit"]) == (11, 10)


async def test_an_answer_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch, service: Running) -> None:
    texts = ["the cat sat on the mat", "", "dog"]
    whole = await score(service, texts=texts, top_k=2)
    for size in (1, 4):
        monkeypatch.setattr("app.routes.score._WORDS_A_PIECE", size)
        assert await score(service, texts=texts, top_k=2) == whole


async def test_of_what_is_large_one_is_worked_on_at_a_time(service: Running) -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def work(both: threading.Barrier | None) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        if both is not None:
            both.wait(10)
        with lock:
            at_once -= 1
        return at_once

    async def beside(size: int, both: threading.Barrier | None) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(service.service.beside, size, work, both)

    await beside(LARGE_CHARACTERS + 1, None)
    assert most == 1
    await beside(LARGE_CHARACTERS, threading.Barrier(2))
    assert most == 2


async def test_text_over_the_limit() -> None:
    async with running(max_body_bytes=2048) as service:
        problem = await score(service, 413, text="the " * 1000)
        assert problem["type"] == "urn:nextword:problem:body-too-large"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"text": "the", "texts": ["the"]}, "body"),
        ({"text": None}, "body"),
        ({"texts": []}, "texts"),
        ({"texts": ["the"] * 1001}, "texts"),
        ({"texts": ["the", 5]}, "texts.1"),
        ({"text": "the", "top_k": -1}, "top_k"),
        ({"text": "the", "top_k": 1001}, "top_k"),
        ({"text": "the", "session_id": "x"}, "session_id"),
    ],
)
async def test_fields_that_are_wrong_are_named(service: Running, body: dict[str, Any], field: str) -> None:
    assert (await score(service, 422, **body))["errors"][0]["field"] == field
