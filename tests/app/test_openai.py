"""`/v1/completions`, `/v1/models` and the tokenizer, with the `openai` client and as an evaluation harness asks."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

import model.runtimes
from app.running_text import RunningText
from model import decoding
from model.artifact import Artifact
from model.decoding import Sampling
from model.evaluation import evaluate
from model.measurement import ALL
from model.runtimes.base import Runtime
from model.shapes import parameter_shapes
from model.tokenizer import Tokenizer
from tests.app.fake_runtime import PLAIN, WORDS, Oracle
from tests.app.live import Live, Steps, live
from tests.app.test_generate import after, told


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live() as it:
        yield it


@pytest.fixture
def client(server: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=20) as it:
        yield it


def greedy(*words: str, count: int) -> list[str]:
    return told(after(*words), Sampling(0.0), 0, count)


# --- The client of OpenAI ---------------------------------------------------------------------------------------------


def test_models(client: openai.OpenAI) -> None:
    assert [found.id for found in client.models.list()] == ["fake", "fake@0123456789ab"]
    for name in ("fake", "fake@0123456789ab"):
        assert client.completions.create(model=name, prompt="the", max_tokens=1).model == "fake@0123456789ab"
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError, match="'gpt' is not served here"):
        client.models.retrieve("gpt")


def test_a_completion(client: openai.OpenAI, server: Live) -> None:
    reply = client.completions.create(model="fake", prompt="the cat", max_tokens=5, temperature=0)
    words = greedy("the", "cat", count=5)
    assert reply.object == "text_completion"
    assert reply.id.startswith("cmpl-")
    assert [(choice.index, choice.text, choice.finish_reason) for choice in reply.choices] == [
        (0, "".join(f" {word}" for word in words), "length")
    ]
    assert reply.choices[0].logprobs is None
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (2, 5, 7)
    assert len(server.service.store) == 0, "no session was asked for"


def test_defaults_are_those_of_openai(client: openai.OpenAI) -> None:
    """16 tokens, temperature 1; null is the default."""
    for fields in ({}, {"max_tokens": None, "temperature": None, "top_p": None, "n": None, "stop": None}):
        reply = client.completions.create(model="fake", prompt="the cat", seed=4, extra_body=fields)
        assert reply.choices[0].text.split() == told(after("the", "cat"), Sampling(), 4, 16)


def test_several_prompts_of_every_kind(client: openai.OpenAI) -> None:
    ids = [WORDS.index("the"), WORDS.index("cat")]
    expected = "".join(f" {word}" for word in greedy("the", "cat", count=3))
    for prompt in ("the cat", ["the cat"], ids, [ids]):
        reply = client.completions.create(model="fake", prompt=prompt, max_tokens=3, temperature=0)
        assert [choice.text for choice in reply.choices] == [expected]
    reply = client.completions.create(model="fake", prompt=["the cat", "a dog", ""], max_tokens=3, temperature=0, n=2)
    assert [choice.index for choice in reply.choices] == list(range(6))
    wanted = [greedy(*words, count=3) for words in (["the", "cat"], ["a", "dog"], [])]
    assert [choice.text.split() for choice in reply.choices] == [words for words in wanted for _ in range(2)]
    assert not reply.choices[4].text.startswith(" ")


def test_seeds_and_n(client: openai.OpenAI) -> None:
    def texts(**fields: Any) -> list[str]:
        reply = client.completions.create(model="fake", max_tokens=12, **fields)
        return [choice.text for choice in reply.choices]

    three = texts(prompt="the cat", seed=5, n=3)
    assert three == texts(prompt="the cat", seed=5, n=3)
    assert len(set(three)) == 3
    assert texts(prompt="the cat", seed=5) == three[:1]
    assert texts(prompt=["a dog", "the cat"], seed=5, n=3)[3:] == three, "a prompt's company does not matter"
    assert texts(prompt="the cat", seed=6) != three[:1]
    for number, text in enumerate(three):
        assert text.split() == told(after("the", "cat"), Sampling(), decoding.branch(5, number), 12)


def test_top_p_and_temperature(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="fake", prompt="the cat", max_tokens=20, seed=3, temperature=1.4, top_p=0.5, user="somebody"
    )
    assert reply.choices[0].text.split() == told(after("the", "cat"), Sampling(1.4, None, 0.5), 3, 20)


def test_stop(client: openai.OpenAI) -> None:
    def complete(stop: Any) -> tuple[str, str]:
        reply = client.completions.create(model="fake", prompt="the cat", max_tokens=12, seed=5, stop=stop)
        return reply.choices[0].text, reply.choices[0].finish_reason

    text, _ = complete(None)
    words = text.split()
    place = next(i for i in range(3, 12) if words[i] not in words[:i])
    before = "".join(f" {word}" for word in words[:place])
    assert complete(words[place]) == (before, "stop")
    assert complete(["unheard-of", f"{words[place]} {words[place + 1]}"]) == (before, "stop"), "of several words"
    wrong = next(word for word in PLAIN if word != words[place + 1])
    assert complete(f"{words[place]} {wrong}") == (text, "length")
    assert complete(f"{words[-1]} the") == (text, "length"), "begun at the end, but not completed"
    with pytest.raises(openai.UnprocessableEntityError, match="there is no word in ' '"):
        complete(["the", " "])


def test_line_ends_are_text(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="fake", prompt="the\n", max_tokens=200, seed=2, temperature=50, logprobs=0)
    choice = reply.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert choice.text.count("\n") == choice.logprobs.tokens.count("<eos>") > 0
    stopped = client.completions.create(model="fake", prompt="the\n", max_tokens=200, seed=2, temperature=50, stop="\n")
    assert stopped.choices[0].text == choice.text.partition("\n")[0]


def test_logprobs_are_of_the_model_and_parallel(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="fake", prompt="the cat", max_tokens=10, seed=7, temperature=1.5, logprobs=3, n=2
    )
    for choice in reply.choices:
        assert choice.logprobs is not None
        lists: Any = choice.logprobs
        oracle = after("the", "cat")
        assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset) == 10
        for token, value, tops, offset in zip(
            lists.tokens, lists.token_logprobs, lists.top_logprobs, lists.text_offset, strict=True
        ):
            row = oracle.row()
            assert math.exp(value) == pytest.approx(row[token], rel=1e-4)
            best = sorted(row, key=lambda word: -row[word])[:3]
            assert set(tops) == {*best, token}
            assert tops[token] == value
            assert {word: math.exp(its) for word, its in tops.items()} == pytest.approx(
                {word: row[word] for word in tops}, rel=1e-4
            )
            written = "\n" if token == "<eos>" else token  # noqa: S105 - a word
            assert choice.text[offset : offset + len(written)] == written
            oracle.consume(token)
    none = client.completions.create(model="fake", prompt="the", max_tokens=2, logprobs=0)
    assert none.choices[0].logprobs is not None
    assert [len(tops) for tops in none.choices[0].logprobs.top_logprobs or []] == [1, 1]


def test_echo(client: openai.OpenAI) -> None:
    prompt = "the  cat zzz, sat"
    reply = client.completions.create(
        model="fake", prompt=prompt, max_tokens=2, temperature=0, logprobs=2, echo=True, n=2
    )
    for choice in reply.choices:
        lists: Any = choice.logprobs
        assert choice.text.startswith(prompt)
        assert lists.tokens[:5] == ["the", "cat", "<unk>", "<unk>", "sat"]
        assert [prompt[start : start + 3] for start in lists.text_offset[:5]] == ["the", "cat", "zzz", ", s", "sat"]
        assert (lists.token_logprobs[0], lists.top_logprobs[0]) == (None, None)
        oracle = after("the")
        for token, value, tops in zip(lists.tokens[1:], lists.token_logprobs[1:], lists.top_logprobs[1:], strict=True):
            row = oracle.row()
            assert math.exp(value) == pytest.approx(row[token], rel=1e-4)
            assert max(tops.values()) == pytest.approx(math.log(max(row.values())), abs=1e-4)
            oracle.consume(token)
        offset = lists.text_offset[5]
        assert choice.text[offset:].startswith(lists.tokens[5])
    only = client.completions.create(model="fake", prompt=prompt, max_tokens=0, echo=True)
    assert (only.choices[0].text, only.choices[0].logprobs, only.choices[0].finish_reason) == (prompt, None, "length")


def test_streaming(client: openai.OpenAI) -> None:
    fields: Any = {"model": "fake", "prompt": ["the cat", "a"], "max_tokens": 8, "seed": 4, "n": 2, "logprobs": 1}
    whole = client.completions.create(**fields, echo=True)
    chunks = list(client.completions.create(**fields, echo=True, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + ["length"]
        assert choice.logprobs is not None
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [item for part in parts for item in getattr(part.logprobs, name)]
            assert joined == getattr(choice.logprobs, name)
    assert len({chunk.id for chunk in chunks}) == 1
    # As the standard has it: with usage asked for, each chunk has the field.
    assert {"usage" in chunk.model_fields_set for chunk in chunks} == {True}
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    plain = client.completions.create(model="fake", prompt="the", max_tokens=1, stream=True)
    assert not any("usage" in chunk.model_fields_set for chunk in plain)


def test_streams_end_as_openais_do(server: Live) -> None:
    body = {"prompt": "the", "max_tokens": 1, "stream": True}
    with httpx2.Client(base_url=server.address, timeout=20) as plain:
        response = plain.post("/v1/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


def test_a_stream_that_is_closed_ends_the_work(server: Live, client: openai.OpenAI) -> None:
    stream = client.completions.create(model="fake", prompt="the", max_tokens=1000, n=4, stream=True)
    for _ in range(5):
        next(stream)
    stream.close()
    scheduler = server.service.scheduler
    server.until(lambda: scheduler.in_flight == 0 and scheduler.states.in_use == 0)


def test_a_session_goes_on(server: Live, client: openai.OpenAI) -> None:
    with httpx2.Client(base_url=server.address, timeout=20) as plain:
        session = plain.post("/v1/sessions", json={"text": "the cat"}).json()["session_id"]
        extra = {"session_id": session, "position": 2}
        replies = [
            client.completions.create(model="fake", prompt=" sat", max_tokens=4, seed=8, stream=False, extra_body=extra)
            for _ in range(2)
        ]
        words = told(after("the", "cat", "sat"), Sampling(), 8, 4)
        for reply in replies:  # the second is a repetition
            assert reply.choices[0].text.split() == words
            assert reply.model_extra == {"session_id": session, "position": 7}
        found = plain.get(f"/v1/sessions/{session}").json()
        assert found["words"] == ["the", "cat", "sat", *words]
        stop = told(after("the", "cat", "sat", *words), Sampling(), 9, 4)
        chunks = client.completions.create(
            model="fake",
            prompt="",
            max_tokens=9,
            seed=9,
            stop=f"{stop[2]} {stop[3]}",
            logprobs=1,
            echo=True,
            stream=True,
            extra_body={"session_id": session, "position": 7},
        )
        assert "".join(chunk.choices[0].text for chunk in chunks).split() == stop[:2]
        found = plain.get(f"/v1/sessions/{session}").json()
        assert found["words"] == ["the", "cat", "sat", *words, *stop[:2]], "what began the stop was not sent"
        plain.delete(f"/v1/sessions/{session}")


def test_errors_are_the_clients_own_and_say_why(server: Live) -> None:
    """With retries on, as they are by default: what cannot be mended is not tried again."""
    with (
        openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", timeout=20) as client,
        httpx2.Client(base_url=server.address, timeout=20) as plain,
    ):
        session = plain.post("/v1/sessions", json={"text": "the cat"}).json()["session_id"]
        for kind, message, fields in [
            (openai.NotFoundError, "'gpt' is not served here", {"model": "gpt"}),
            (openai.NotFoundError, "no such session", {"extra_body": {"session_id": "x" * 32}}),
            (openai.ConflictError, "not yet at 9", {"extra_body": {"session_id": session, "position": 9}}),
            (openai.UnprocessableEntityError, "max_tokens: Input should be", {"max_tokens": 5000}),
            (openai.UnprocessableEntityError, "prompt: no word has the id 999", {"prompt": [999]}),
            (openai.UnprocessableEntityError, "one prompt", {"n": 2, "extra_body": {"session_id": session}}),
            (openai.UnprocessableEntityError, "position", {"extra_body": {"position": 1}}),
            (openai.UnprocessableEntityError, "best_of", {"best_of": 3}),
            (openai.UnprocessableEntityError, "suffix", {"suffix": "the end"}),
            (openai.UnprocessableEntityError, "frequency_penalty", {"frequency_penalty": 0.5}),
            (openai.UnprocessableEntityError, "tools", {"extra_body": {"tools": []}}),
        ]:
            ticks = server.service.scheduler.engine.ticks
            request: Any = {"model": "fake", "prompt": "the", **fields}
            with pytest.raises(kind, match=message) as caught:
                client.completions.create(**request)
            assert caught.value.body["type"].startswith("urn:nextword:problem:")
            assert server.service.scheduler.engine.ticks == ticks
        plain.delete(f"/v1/sessions/{session}")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": ["the"] * 128, "n": 16, "max_tokens": 1000}, 2_048_000),
        ({"prompt": "the cat " * 2000, "max_tokens": 0, "echo": True, "logprobs": 20, "n": 16}, 64_000),
        ({"prompt": ["the cat " * 20] * 100, "max_tokens": 10, "echo": True, "logprobs": 5, "n": 10}, 50_000),
    ],
)
def test_answers_have_a_size_that_they_do_not_pass(server: Live, fields: dict[str, Any], words: int) -> None:
    """What one request can make the service hold is known before anything is computed."""
    ticks = server.service.scheduler.engine.ticks
    with httpx2.Client(base_url=server.address, timeout=20) as plain:
        reply = plain.post("/v1/completions", json=fields)
    assert reply.status_code == 413
    assert reply.json()["words"] == words
    assert reply.json()["limit"] == 200_000
    assert "max_tokens" in reply.json()["detail"]
    assert server.service.scheduler.engine.ticks == ticks


def test_long_answers_are_not_written_where_all_requests_are_served(
    server: Live, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: set[int] = set()
    add = RunningText.add

    def noting(text: RunningText, id: int) -> str:
        writers.add(threading.get_ident())
        return add(text, id)

    async def ident() -> int:
        return threading.get_ident()

    monkeypatch.setattr(RunningText, "add", noting)
    client.completions.create(model="fake", prompt="the", max_tokens=300, n=2)
    httpx2.post(f"{server.address}/v1/generate", json={"text": "the", "max_words": 300}, timeout=20)
    assert writers
    assert server.run(ident()) not in writers


def test_failure_in_mid_stream_reaches_the_client(server: Live, client: openai.OpenAI) -> None:
    words = told(after("the", "cat"), Sampling(), 8, 9)
    place = next(i for i, word in enumerate(words) if i > 1 and word not in [*words[:i], "the", "cat", "<eos>"])
    server.runtime.poisoned = WORDS.index(words[place])
    try:
        stream = client.completions.create(model="fake", prompt="the cat", seed=8, stream=True)
        assert [next(stream).choices[0].text for _ in range(place + 1)] == [f" {word}" for word in words[: place + 1]]
        with pytest.raises(openai.APIError, match="a defect of the service"):
            next(stream)
    finally:
        server.runtime.poisoned = None


def test_words_arrive_as_they_are_said() -> None:
    with live() as server:
        steps = Steps(server.runtime)
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=20) as client:
            steps.allow(1)
            stream = client.completions.create(model="fake", prompt="the", max_tokens=3, temperature=0, stream=True)
            for word in greedy("the", count=3):
                assert next(stream).choices[0].text == f" {word}"
                steps.allow(1)
            assert next(stream).choices[0].finish_reason == "length"


# --- The tokenizer ----------------------------------------------------------------------------------------------------


def test_tokenizer(server: Live) -> None:
    with httpx2.Client(base_url=server.address, timeout=20) as plain:
        info = plain.get("/tokenizer_info").json()
        assert (info["bos_token"], info["eos_token"], info["unk_token"]) == ("\n", "\n", "<unk>")
        assert (info["vocab_size"], info["add_bos_token"]) == (len(WORDS), True)

        def tokenize(**fields: Any) -> dict[str, Any]:
            response = plain.post("/tokenize", json=fields)
            assert response.status_code == 200, response.text
            return response.json()  # type: ignore[no-any-return]

        ids = [WORDS.index(word) for word in ("the", "cat", "<unk>", "<eos>")]
        assert tokenize(prompt="the cat zzz\n", add_special_tokens=False) == {"count": 4, "tokens": ids}
        assert tokenize(prompt="the cat zzz\n")["tokens"] == [WORDS.index("<eos>"), *ids]
        named = tokenize(prompt="the cat", add_special_tokens=False, return_token_strs=True, model="fake")
        assert named["token_strs"] == ["the", "cat"]
        assert tokenize(prompt=info["eos_token"], add_special_tokens=False)["tokens"] == [WORDS.index("<eos>")]
        assert plain.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "the cat <unk>\n"}
        wrong = plain.post("/detokenize", json={"tokens": [0, len(WORDS)]})
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "tokens")
        assert plain.post("/tokenize", json={"prompt": ["the"]}).status_code == 422


# --- Evaluation harnesses ---------------------------------------------------------------------------------------------


class Harness:
    """What lm-evaluation-harness asks a server for with `local-completions` and the server's own tokenizer, and what
    it makes of the answers: written after its documentation, request for request."""

    def __init__(self, address: str, batch_size: int = 1) -> None:
        self._http = httpx2.Client(base_url=address, timeout=60)
        self._batch_size = batch_size
        info = self._json(self._http.get("/tokenizer_info"))
        assert "eos_token" in info
        self.end: str = info["eos_token"]
        assert isinstance(self._json(self._post("/tokenize", prompt="test", add_special_tokens=False))["tokens"], list)

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _post(self, path: str, **body: Any) -> httpx2.Response:
        return self._http.post(path, json=body)

    @staticmethod
    def _json(response: httpx2.Response) -> Any:
        assert response.status_code == 200, response.text
        return response.json()

    def encode(self, text: str) -> list[int]:
        return list(self._json(self._post("/tokenize", prompt=text, add_special_tokens=False))["tokens"])

    def loglikelihood(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """For (context, continuation) of ids: how likely the continuation is, and whether it is the likeliest."""
        found = []
        for first in range(0, len(pairs), self._batch_size):
            batch = pairs[first : first + self._batch_size]
            body = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
            prompts = [context + continuation for context, continuation in batch]
            reply = self._json(self._post("/v1/completions", model="fake", prompt=prompts, **body))
            for choice, (context, _) in zip(sorted(reply["choices"], key=itemgetter("index")), batch, strict=True):
                values = choice["logprobs"]["token_logprobs"][len(context) : -1]
                tops = choice["logprobs"]["top_logprobs"][len(context) : -1]
                is_greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
                found.append((sum(values), is_greedy))
        return found

    def loglikelihood_rolling(self, text: str, max_length: int = 2047) -> float:
        """Of a whole text, in windows that begin with the word that texts start after."""
        ids, start = self.encode(text), self.encode(self.end)[:1]
        windows = [(start, ids[:max_length])]
        for begin in range(max_length, len(ids), max_length):
            windows.append((ids[begin - 1 : begin], ids[begin : begin + max_length]))
        return sum(value for value, _ in self.loglikelihood(windows))

    def generate_until(self, text: str, until: list[str], max_tokens: int) -> str:
        body = {"max_tokens": max_tokens, "temperature": 0, "stop": [*until, self.end], "seed": 1234}
        reply = self._json(self._post("/v1/completions", model="fake", prompt=[self.encode(text)], **body))
        return str(reply["choices"][0]["text"])


@pytest.mark.parametrize("batch_size", [1, 7])
def test_harness_scores_continuations(server: Live, batch_size: int) -> None:
    rng = random.Random(4)
    with Harness(server.address, batch_size) as harness:
        pairs, expected = [], []
        for number in range(20):
            context = rng.choices(PLAIN, k=rng.randint(1, 6))
            oracle = after(*context)
            continuation = rng.choices(WORDS, k=rng.randint(1, 4))
            if number % 3 == 0:
                row = oracle.row()
                continuation = [max(row, key=lambda word: row[word])]
            value, is_greedy = 0.0, True
            for word in continuation:
                row = oracle.row()
                value += math.log(row[word])
                is_greedy &= row[word] == max(row.values())
                oracle.consume(word)
            pairs.append(([WORDS.index(word) for word in context], [WORDS.index(word) for word in continuation]))
            expected.append((value, is_greedy))
        found = harness.loglikelihood(pairs)
    assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-3)
    assert {is_greedy for _, is_greedy in expected} == {True, False}


def test_harness_generates(server: Live) -> None:
    with Harness(server.address) as harness:
        words = greedy("the", "cat", count=12)
        place = next(i for i in range(2, 12) if words[i] not in words[:i])
        assert harness.generate_until("the cat", [words[place]], 12).split() == words[:place]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Runtime]:
    """A real model, if a small one, in the CPU runtime."""
    words = ["<unk>", "<eos>", ".", ",", *PLAIN]
    network = {"kind": "lstm_stack", "vocabulary_size": len(words), "embedding_size": 16, "hidden_sizes": [24, 16]}
    chance = np.random.default_rng(0)
    path = Path(tmp_path_factory.mktemp("models")) / "small"
    Artifact.write(
        path,
        name="fake",
        network=network,
        start="<eos>",
        tokenizer=Tokenizer.from_vocabulary(words, "english"),
        weights={name: chance.normal(0, 0.5, size=shape) for name, shape in parameter_shapes(network).items()},
        card="# Small\n",
    )
    artifact = Artifact.load(path)
    return artifact, model.runtimes.load(artifact, "cpu-float32", threads=1)


def test_harness_finds_the_perplexity_of_the_evaluation(small: tuple[Artifact, Runtime]) -> None:
    artifact, runtime = small
    rng = random.Random(6)
    text = "".join(f"{' '.join(rng.choices([*PLAIN, 'zzz', ','], k=9))}.\n" for _ in range(30))
    expected = evaluate(artifact, runtime, {"text": text}, keystrokes=False).together.figures[ALL]
    with live(runtime, artifact) as server, Harness(server.address) as harness:
        value = harness.loglikelihood_rolling(text)
        scored = httpx2.post(f"{server.address}/v1/score", json={"text": text}).json()["results"][0]
    words = len(artifact.tokenizer.encode(text).ids)
    assert words == expected.targets
    assert math.exp(-value / words) == pytest.approx(expected.perplexity, rel=1e-4)
    assert scored["perplexity"] == pytest.approx(expected.perplexity, rel=1e-4)


def test_greedy_is_told_by_equal_floats_in_every_runtime(small: tuple[Artifact, Runtime]) -> None:
    """The likeliest word has the very float that stands in `top_logprobs`, prompt or not."""
    artifact, _ = small
    for name in ("cpu", "cpu-float32", "chainer"):
        runtime = model.runtimes.load(artifact, name, threads=1)
        with live(runtime, artifact) as server, Harness(server.address) as harness:
            reply = httpx2.post(
                f"{server.address}/v1/completions",
                json={"prompt": "the cat", "max_tokens": 30, "temperature": 0, "logprobs": 1},
            ).json()["choices"][0]["logprobs"]
            assert all(
                value == max(tops.values())
                for token, value, tops in zip(
                    reply["tokens"], reply["token_logprobs"], reply["top_logprobs"], strict=True
                )
                if "<unk>" not in tops
            )
            ids = [artifact.tokenizer.id_of(token) or 0 for token in reply["tokens"]]
            context = harness.encode("the cat")
            likeliest = [
                max(tops, key=tops.__getitem__) == token
                for token, tops in zip(reply["tokens"], reply["top_logprobs"], strict=True)
            ]
            pairs = [(context + ids[:place], [ids[place]]) for place in range(len(ids))]
            found = harness.loglikelihood(pairs)
            assert [is_greedy for _, is_greedy in found] == likeliest
            assert any(likeliest)


def test_first_word_of_a_prompt_of_ids_is_not_consumed_twice(server: Live) -> None:
    """Texts start after <eos>: ids that begin with it say so, they do not say it again."""
    with httpx2.Client(base_url=server.address, timeout=20) as plain:

        def value(prompt: Any) -> list[Any]:
            body = {"prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 0}
            return list(plain.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["token_logprobs"])

        the, end = WORDS.index("the"), WORDS.index("<eos>")
        scored = plain.post("/v1/score", json={"text": "the the"}).json()["results"][0]["words"]
        assert value([end, the, the]) == [None, scored[0]["log_probability"], scored[1]["log_probability"]]
        assert value([the, the]) == value("the the") == [None, scored[1]["log_probability"]]
        assert value([end]) == [None]
    oracle = Oracle()
    assert math.exp(scored[0]["log_probability"]) == pytest.approx(oracle.row()["the"], rel=1e-4)


def test_events_are_single_lines(server: Live) -> None:
    """Line ends in the text are escaped, or they would end the event."""
    with httpx2.Client(base_url=server.address, timeout=20) as plain:
        body = {"prompt": "the", "max_tokens": 150, "temperature": 50, "seed": 2, "stream": True}
        text = plain.post("/v1/completions", json=body).text
    parts = [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-2]]
    assert "\n" in "".join(part["choices"][0]["text"] for part in parts)
