"""Sessions that adapt: each answers as the formula over its own words says, and nobody else's answers change."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app import state_file
from app.history import STRIDE
from app.main import create_app
from app.settings import Settings
from model import decoding
from model.adaptation import MARGIN, Adaptation
from model.decoding import Sampling
from model.products import BLOCK
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, WORDS, FakeRuntime, Oracle, artifact
from tests.app.test_fork import fork
from tests.app.test_generate import generate
from tests.app.test_metrics import at, scraped
from tests.app.test_predict import WHOLE, assert_equals, probabilities
from tests.app.test_rewind import rewind, rewound
from tests.app.test_transfer import bring, exported, imported

pytestmark = pytest.mark.anyio

HOW: dict[str, Any] = {"size": 4, "theta": 1.5, "weight": 0.4}
ADAPTATION = Adaptation(**HOW)
#: Words that come again.
TEXT = [PLAIN[number * number % 11] for number in range(40)]


def adapted(words: list[str], how: Adaptation | None = ADAPTATION) -> Oracle:
    oracle = Oracle(adaptation=how)
    oracle.consume(*words)
    return oracle


async def opened(service: Running, adapt: Any = HOW, **fields: Any) -> str:
    response = await service.client.post("/v1/sessions", json={"adapt": adapt, **fields})
    assert response.status_code == 201, response.text
    session: str = response.json()["session_id"]
    return session


async def assert_adapted(
    service: Running, session: str, words: list[str], how: Adaptation | None = ADAPTATION
) -> dict[str, Any]:
    """The session answers as one that has adapted to these words."""
    reply = await service.ok(session_id=session, position=len(words), **WHOLE)
    assert_equals(reply, adapted(words, how))
    return reply


async def test_it_is_the_formula_word_by_word(service: Running) -> None:
    session = await opened(service)
    oracle = adapted([])
    for number, word in enumerate(TEXT):
        before = oracle.row()
        reply = await service.ok(session_id=session, words=[word], scores=True, **WHOLE)
        oracle.consume(word)
        assert_equals(reply, oracle)
        (scored,) = reply["words"]
        assert scored["probability"] == pytest.approx(before[word], rel=1e-4)
        likelier = sum(p > before[word] * (1 + 1e-6) for p in before.values())
        assert likelier < scored["rank"] <= 1 + sum(p >= before[word] * (1 - 1e-6) for p in before.values())
        row = oracle.row()
        assert reply["entropy_bits"] == pytest.approx(-sum(p * math.log2(p) for p in row.values()), abs=1e-4)
        assert reply["unknown_probability"] == pytest.approx(row["<unk>"], rel=1e-4)
        assert sum(probabilities(reply).values()) == pytest.approx(1, abs=1e-5), number


async def test_the_likeliest_and_those_with_a_prefix(service: Running) -> None:
    session = await opened(service, words=TEXT)
    row = adapted(TEXT).row()
    best = sorted((word for word in WORDS if word != "<unk>"), key=lambda word: -row[word])
    for top_k in (1, 3, 10):
        reply = await service.ok(session_id=session, top_k=top_k)
        assert [item["word"] for item in reply["predictions"]] == best[:top_k]
    for prefix in ("c", "cat", "s", "wa"):
        among = {word: row[word] for word in WORDS if word.startswith(prefix)}
        reply = await service.ok(session_id=session, prefix=prefix, top_k=3)
        total = sum(among.values())
        assert reply["prefix_probability"] == pytest.approx(total, rel=1e-4)
        expected = sorted(among, key=lambda word: -among[word])[:3]
        assert [item["word"] for item in reply["predictions"]] == expected
        for item in reply["predictions"]:
            assert item["probability"] == pytest.approx(among[item["word"]] / total, rel=1e-4)


async def test_scores_of_many_words_at_once_are_those_of_one_by_one(service: Running) -> None:
    session = await opened(service)
    oracle, expected = adapted([]), []
    text = TEXT * 4  # more than are scored in one product
    for word in text:
        expected.append(oracle.row()[word])
        oracle.consume(word)
    reply = await service.ok(session_id=session, words=text, scores=True)
    assert [item["probability"] for item in reply["words"]] == pytest.approx(expected, rel=1e-4)
    again = await service.ok(session_id=session, words=text, position=0, scores=True)
    assert again["words"] == reply["words"]


async def test_who_does_not_adapt_is_answered_to_the_bit_as_before(service: Running) -> None:
    """Whether it was never asked for, refused, or given no weight; beside sessions that do."""
    async with running() as elsewhere:
        plain = await elsewhere.ok(words=TEXT, scores=True, **WHOLE)
    await opened(service, words=TEXT)
    for adapt in (None, False, {"weight": 0}, {"weight": 0, "size": 3}):
        session = await opened(service, adapt)
        reply = await service.ok(session_id=session, words=TEXT, scores=True, **WHOLE)
        for field in ("words", "predictions", "entropy_bits", "unknown_probability"):
            assert reply[field] == plain[field]
        shown = (await service.client.get(f"/v1/sessions/{session}")).json()
        assert (shown["adapt"], shown["state_bytes"]) == (None, 44)


async def test_words_are_said_as_the_mixture_has_them(service: Running) -> None:
    for sampling, fields in (
        (Sampling(0), {"temperature": 0}),
        (Sampling(1.3), {"temperature": 1.3, "seed": 5}),
        (Sampling(0.9, 5, 0.9), {"temperature": 0.9, "top_k": 5, "top_p": 0.9, "seed": 6}),
    ):
        session = await opened(service, words=TEXT)
        request: dict[str, Any] = {"session_id": session, "position": len(TEXT), "max_words": 12, **fields}
        reply = await generate(service, **request)
        oracle, expected = adapted(TEXT), []
        for number in range(12):
            row = np.log(np.array(list(oracle.row().values()))).astype(np.float32)
            id = decoding.sample(row, sampling, decoding.uniform(fields.get("seed", 0), number), without=0)
            assert id is not None
            expected.append(WORDS[id])
            oracle.consume(WORDS[id])
        assert reply["words"] == expected
        await assert_adapted(service, session, TEXT + expected)
        assert await generate(service, **request) == reply  # once more, word for word
        await assert_adapted(service, session, TEXT + expected)


async def test_log_probabilities_in_the_openai_shape(service: Running) -> None:
    session = await opened(service, words=TEXT)
    body = {"model": "fake", "prompt": "", "session_id": session, "max_tokens": 6, "temperature": 0, "logprobs": 3}
    (choice,) = (await service.client.post("/v1/completions", json=body)).json()["choices"]
    oracle = adapted(TEXT)
    lists = choice["logprobs"]
    for token, value, tops in zip(lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True):
        row, word = oracle.row(), token.strip() or "<eos>"
        assert value == pytest.approx(math.log(row[word]), abs=1e-4)
        for other, its in tops.items():
            assert its == pytest.approx(math.log(row[other.strip() or "<eos>"]), abs=1e-4)
        oracle.consume(word)


async def test_the_trace_is_of_what_it_answered(service: Running) -> None:
    session = await opened(service, words=TEXT)
    for last in (1, 7, 40):
        moments = (await service.client.get(f"/v1/sessions/{session}/trace?last={last}")).json()["words"]
        for count, moment in zip(range(len(TEXT) - last + 1, len(TEXT) + 1), moments, strict=True):
            row = adapted(TEXT[:count]).row()
            for item in moment["predictions"]:
                assert item["probability"] == pytest.approx(row[item["word"]], rel=1e-4)


@pytest.mark.parametrize("history_bytes", [0, 1 << 20])
async def test_it_goes_back_with_what_it_remembers(history_bytes: int) -> None:
    """To positions that are at hand, and to those for which words are read again."""
    long = (TEXT * 12)[: STRIDE + 2 * MARGIN + 20]
    async with running(history_bytes=history_bytes) as service:
        for position in (len(long) - 1, len(long) - MARGIN, len(long) - MARGIN - 9, STRIDE + 2, STRIDE, 5, 4, 3, 0):
            session = await opened(service, words=long[:-2])
            await service.ok(session_id=session, words=long[-2:])
            other = (await fork(service, session, position=position)).json()["session_id"]
            await assert_adapted(service, other, long[:position])
            await rewound(service, session, position)
            await assert_adapted(service, session, long[:position])
            for both in (session, other):
                await service.ok(session_id=both, words=["home", "cat"])
                await assert_adapted(service, both, [*long[:position], "home", "cat"])


async def test_a_step_back_after_another_reads_no_words_for_the_memory() -> None:
    """Nor do those that follow, as many as there are pairs at hand beyond those asked for."""
    words = (TEXT * 20)[: 2 * STRIDE + 3 * MARGIN]
    async with running(history_bytes=1 << 20) as service:
        session = await opened(service, {**HOW, "size": STRIDE}, words=words)
        position = len(words) - 3 * MARGIN  # beyond what is at hand
        for back in range(0, MARGIN + 1, 8):
            before = sum(service.runtime.batches)
            await rewound(service, session, position - back)
            read = sum(service.runtime.batches) - before
            # What the state needs is a stride at most.
            assert (read > STRIDE + MARGIN) if back == 0 else (read < STRIDE), (back, read)
            await assert_adapted(service, session, words[: position - back], Adaptation(STRIDE, 1.5, 0.4))


async def test_forks_go_on_from_the_same_memory_each_in_its_way(service: Running) -> None:
    session = await opened(service, words=TEXT)
    forks = [(await fork(service, session)).json()["session_id"] for _ in range(4)]
    await asyncio.gather(
        *(service.ok(session_id=id, words=[PLAIN[number]] * 6) for number, id in enumerate([session, *forks]))
    )
    for number, id in enumerate([session, *forks]):
        await assert_adapted(service, id, TEXT + [PLAIN[number]] * 6)


async def test_forgotten_words_bound_how_far_it_goes_back() -> None:
    async with running(max_session_words=16, history_bytes=0) as service:
        session = await opened(service)
        words = (TEXT * 8)[:250]
        for word in words:
            await service.ok(session_id=session, words=[word])
        refused = (await rewind(service, session, 0)).json()
        earliest = refused["earliest"]
        assert 250 - 16 <= earliest <= 250 - 8 + 4
        assert (await rewind(service, session, earliest - 1)).status_code == 409
        for position in (249, earliest):
            await rewound(service, session, position)
            await assert_adapted(service, session, words[:position])
        # A copy that came as a file has the pairs it adapts to, and none before them: its words are read again.
        other = await imported(service, await exported(service, session))
        assert (await rewind(service, other, earliest - 1)).status_code == 409
        await assert_adapted(service, other, words[:earliest])


@pytest.mark.parametrize("count", [0, 3, 40])
async def test_it_leaves_and_comes_back_bit_equal(service: Running, count: int) -> None:
    session = await opened(service, words=TEXT[:count])
    content = await exported(service, session)
    async with running() as elsewhere:
        other = await imported(elsewhere, content)
        assert await exported(elsewhere, other) == content
        assert (await elsewhere.client.get(f"/v1/sessions/{other}")).json()["adapt"] == HOW
        before = await service.ok(session_id=session, words=["home", "cat"], scores=True, **WHOLE)
        after = await elsewhere.ok(session_id=other, words=["home", "cat"], scores=True, **WHOLE)
        for field in ("words", "predictions", "entropy_bits"):
            assert after[field] == before[field]
        await rewound(elsewhere, other, count // 2)
        await assert_adapted(elsewhere, other, TEXT[: count // 2])


async def test_a_file_of_a_session_that_does_not_adapt_does_not_begin_to(service: Running) -> None:
    content = await exported(service, (await service.ok(words=TEXT))["session_id"])
    async with running(adapt=True) as elsewhere:
        await assert_adapted(elsewhere, await imported(elsewhere, content), TEXT, None)


@pytest.mark.parametrize("count", [0, 2, 3, 40])
async def test_a_file_that_keeps_more_than_this_server_does_is_cut(service: Running, count: int) -> None:
    content = await exported(service, await opened(service, words=TEXT[:count]))
    async with running(adapt_size=3) as elsewhere:
        session = await imported(elsewhere, content)
        less = Adaptation(3, ADAPTATION.theta, ADAPTATION.weight)
        await assert_adapted(elsewhere, session, TEXT[:count], less)
        again = await imported(elsewhere, await exported(elsewhere, session))
        await elsewhere.ok(session_id=again, words=["home", "cat"])
        await assert_adapted(elsewhere, again, [*TEXT[:count], "home", "cat"], less)


async def test_as_configured_unless_the_client_says_otherwise() -> None:
    async with running(adapt=True, adapt_size=6, adapt_theta=2, adapt_weight=0.3) as service:
        usual = Adaptation(6, 2, 0.3)
        for session in (
            (await service.ok(words=TEXT))["session_id"],
            (await generate(service, words=TEXT, max_words=0))["session_id"],
            await opened(service, None, words=TEXT),
            await opened(service, True, words=TEXT),
        ):
            await assert_adapted(service, session, TEXT, usual)
        assert_equals(await service.ok(words=TEXT, keep=False, **WHOLE), adapted(TEXT, usual))
        await assert_adapted(service, await opened(service, False, words=TEXT), TEXT, None)
        own = await opened(service, {"theta": 3}, words=TEXT)
        await assert_adapted(service, own, TEXT, Adaptation(6, 3, 0.3))
        shown = (await service.client.get(f"/v1/sessions/{own}")).json()
        assert shown["adapt"] == {"size": 6, "theta": 3, "weight": 0.3}
        # No session, nothing to adapt to.
        scored = (await service.client.post("/v1/score", json={"text": " ".join(TEXT)})).json()["results"][0]
        async with running() as plain:
            assert scored == (await plain.client.post("/v1/score", json={"text": " ".join(TEXT)})).json()["results"][0]


async def test_as_is_best_for_the_model_where_nothing_is_configured() -> None:
    best = Adaptation(7, 2.5, 0.25)
    app = create_app(Settings(adapt=True), runtime=FakeRuntime(), artifact=replace(artifact(), adaptation=best))
    assert app.state.service.new_cache(None).adaptation == best
    settings = Settings(adapt=True, adapt_weight=0.5)
    app = create_app(settings, runtime=FakeRuntime(), artifact=replace(artifact(), adaptation=best))
    assert app.state.service.new_cache(None).adaptation == Adaptation(7, 2.5, 0.5)


async def test_made_up_files_are_refused(service: Running) -> None:
    session = await opened(service, words=TEXT)
    file = state_file.decode(await exported(service, session))
    assert file.cache is not None
    content = file.cache.content
    for changed, said in (
        (replace(file.cache, pairs=3), "not 3 of them"),
        (replace(file.cache, content=content[:-1]), "are no 4 pairs"),
        (replace(file.cache, content=b"\xff\xff\xff\xff" + content[4:]), "the word 4294967295"),
        (replace(file.cache, content=b"\xff\xff\0\0" + content[4:]), "names the word 65535"),
        (replace(file.cache, content=content[4:8] + content[4:]), "other words than the session"),
        (replace(file.cache, content=content[:-1] + b"\x80"), "below -127"),
    ):
        response = await bring(service, state_file.encode(replace(file, cache=changed)))
        assert (response.status_code, said in response.json()["detail"]) == (400, True), response.text
    assert len(service.service.store) == 1


async def test_a_step_that_fails_leaves_what_a_session_remembers_as_it_was(service: Running) -> None:
    sessions = [await opened(service, words=TEXT[:number]) for number in (7, 8, 9)]
    service.runtime.poisoned = WORDS.index("gone")
    replies = await asyncio.gather(
        service.predict(session_id=sessions[0], words=["cat", "gone", "cat"]),
        service.predict(session_id=sessions[1], words=["cat", "dog", "cat"]),
        service.predict(session_id=sessions[2], words=["gone"]),
    )
    assert [reply.status_code for reply in replies] == [500, 200, 500]
    service.runtime.poisoned = None
    await assert_adapted(service, sessions[0], TEXT[:7])
    await assert_adapted(service, sessions[1], [*TEXT[:8], "cat", "dog", "cat"])
    await assert_adapted(service, sessions[2], TEXT[:9])


@pytest.mark.parametrize(
    ("adapt", "field"),
    [
        ("yes", "adapt"),
        (1, "adapt"),
        ({"size": 0}, "adapt.size"),
        ({"size": 501}, "adapt.size"),
        ({"size": 2.5}, "adapt.size"),
        ({"theta": 0}, "adapt.theta"),
        ({"theta": 101}, "adapt.theta"),
        ({"weight": 1}, "adapt.weight"),
        ({"weight": -0.1}, "adapt.weight"),
        ({"lambda": 0.1}, "adapt.lambda"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(service: Running, adapt: Any, field: str) -> None:
    response = await service.client.post("/v1/sessions", json={"adapt": adapt})
    assert response.status_code == 422
    assert [item["field"] for item in response.json()["errors"]] == [field]
    assert not len(service.service.store)


async def test_many_at_once_adapting_and_not_each_as_if_alone(service: Running) -> None:
    hows = [None, Adaptation(**HOW), Adaptation(50, 0.5, 0.2), Adaptation(1, 4, 0.9)]
    sessions = []
    for number in range(64):
        how = hows[number % 4]
        adapt = False if how is None else {"size": how.size, "theta": how.theta, "weight": how.weight}
        sessions.append((await opened(service, adapt), adapted([], how)))

    async def talk(number: int) -> None:
        session, oracle = sessions[number]
        for turn in range(6):
            words = [TEXT[(number * 7 + turn * 3 + place) % 40] for place in range(1 + (number + turn) % 5)]
            oracle.consume(*words)
            reply = await service.ok(session_id=session, words=words, **WHOLE)
            assert_equals(reply, oracle)

    await asyncio.gather(*(talk(number) for number in range(64)))
    assert max(service.runtime.batches) > 32


async def test_memory_is_bounded_and_told() -> None:
    row = 5 + 12  # a hidden output; its offset, a word and its number
    async with running(max_adapting_sessions=3, max_sessions=6, adapt_size=8) as service:
        first = await opened(service, True, words=TEXT * 30)
        shown = (await service.client.get(f"/v1/sessions/{first}")).json()
        assert 44 + 8 * row <= shown["state_bytes"] <= 44 + (8 + 2 * MARGIN + BLOCK) * row
        plain = (await service.ok(words=TEXT))["session_id"]
        others = [await opened(service, True, words=TEXT * 30) for _ in range(2)]
        await service.ok(session_id=first, words=["the"])
        samples = await scraped(service)
        assert at(samples, "adapting_sessions") == 3
        assert 3 * 8 * row <= at(samples, "cache_bytes") <= 3 * (8 + 2 * MARGIN + BLOCK) * row
        newest = await opened(service, True, words=TEXT)
        # The one that adapts and was left alone for longest had to go, though others were left alone for longer.
        assert (await service.predict(session_id=others[0])).status_code == 410
        for session in (first, plain, others[1], newest):
            assert (await service.predict(session_id=session)).status_code == 200
            await service.client.delete(f"/v1/sessions/{session}")
        samples = await scraped(service)
        assert (at(samples, "adapting_sessions"), at(samples, "cache_bytes")) == (0, 0)
