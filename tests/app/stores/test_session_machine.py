"""Anything that clients may do to sessions, in any order, against a model in plain Python: a session is its words."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio
import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import app.stores.redis
from app.sessions import SessionIds
from model.adaptation import Adaptation
from tests.app.conftest import Running, leaked, running
from tests.app.fake_runtime import WORDS, Oracle
from tests.app.redis_server import RedisServer
from tests.app.stores.conftest import place

#: Histories of each store; more find more (`EXAMPLES=200`).
EXAMPLES = int(os.environ.get("EXAMPLES", "5"))

TTL = 1800
FILE = {"content-type": "application/vnd.nextword.state"}

#: Few words, so that histories that differ look alike.
VOCABULARY = ["the", "cat", "sat", "zyzzyva"]

T = TypeVar("T")

a_word = st.sampled_from(VOCABULARY)
some_words = st.lists(a_word, max_size=6)
a_place = st.integers(0, 2**16)  # of a session, a file or a position among those that there are

#: How sessions adapt, if they do.
ADAPTATIONS = (Adaptation(3, 2.0, 0.5), Adaptation(20, 0.5, 0.1))


@dataclass
class Expected:
    """What a session has to be."""

    words: tuple[str, ...]
    expires: float
    last: int = 0  # how many words its last request brought, 0 if that cannot be told any more
    most: int = 0  # how many words it or those that it came from ever had: beyond the bound some are forgotten
    adapt: Adaptation | None = None

    def __post_init__(self) -> None:
        self.most = max(self.most, len(self.words))


@lru_cache(maxsize=4096)
def row(words: tuple[str, ...], adapt: Adaptation | None) -> dict[str, float]:
    """The probability of every word after these, computed alone and from the start."""
    oracle = Oracle(adaptation=adapt)
    oracle.consume(*words)
    return oracle.row()


class Sessions(RuleBasedStateMachine):
    """`live` must answer as the model says, whatever was done before."""

    live: Live

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, Expected] = {}
        self.gone: list[str] = []
        self.files: list[tuple[bytes, Expected]] = []

    # --- What is asked and how it is answered

    def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        client = self.live.service.client
        return self.live.do(lambda: client.request(method, path, **options))

    def post(self, path: str, status: int, **body: Any) -> dict[str, Any]:
        response = self.call("POST", path, json=body)
        assert response.status_code == status, response.text
        reply: dict[str, Any] = response.json()
        return reply

    @property
    def now(self) -> float:
        return self.live.service.clock.now

    def session(self, place: int) -> tuple[str, Expected]:
        return list(self.sessions.items())[place % len(self.sessions)]

    def used(self, session: Expected) -> None:
        session.expires = self.now + TTL

    def born(
        self,
        reply: dict[str, Any],
        words: tuple[str, ...],
        last: int = 0,
        most: int = 0,
        adapt: Adaptation | None = None,
    ) -> None:
        session = reply["session_id"]
        assert session not in self.sessions
        assert session not in self.gone
        self.sessions[session] = Expected(words, self.now + TTL, last, most, adapt)
        assert reply["position"] == len(words)

    def stands(self, reply: dict[str, Any], words: tuple[str, ...], adapt: Adaptation | None = None) -> None:
        """The reply to a predict request with `top_k` of all words is that of somebody who has consumed `words`."""
        assert reply["position"] == len(words)
        expected = row(words, adapt)
        told = {item["word"]: item["probability"] for item in reply["predictions"]}
        assert told.keys() == expected.keys()
        logs = np.log([[told[word], expected[word]] for word in told])
        assert np.abs(logs[:, 0] - logs[:, 1]).max() < 1e-4

    # --- Rules

    @initialize(words=some_words)
    def begin(self, words: list[str]) -> None:
        self.open(words, predict=False)

    @rule(words=some_words, predict=st.booleans(), adapt=st.sampled_from([None, *ADAPTATIONS]))
    def open(self, words: list[str], predict: bool, adapt: Adaptation | None = None) -> None:
        if adapt is not None:
            reply = self.post("/v1/sessions", 201, words=words, adapt=asdict(adapt))
        elif predict:
            reply = self.post("/v1/predict", 200, words=words, top_k=len(WORDS), include_unknown=True)
            self.stands(reply, tuple(words))
        else:
            reply = self.post("/v1/sessions", 201, words=words)
        self.born(reply, tuple(words), len(words), adapt=adapt)

    @precondition(lambda self: self.sessions)
    @rule(place=a_place, words=some_words, told=st.booleans(), scores=st.booleans())
    def predict(self, place: int, words: list[str], told: bool, scores: bool) -> None:
        id, session = self.session(place)
        body: dict[str, Any] = {"session_id": id, "words": words, "scores": scores}
        if told:
            body["position"] = len(session.words)
        reply = self.post("/v1/predict", 200, top_k=len(WORDS), include_unknown=True, **body)
        session.words += tuple(words)
        session.most = max(session.most, len(session.words))
        session.last = len(words) or session.last
        self.used(session)
        self.stands(reply, session.words, session.adapt)

    @precondition(lambda self: any(session.last for session in self.sessions.values()))
    @rule(place=a_place, scores=st.booleans())
    def retry(self, place: int, scores: bool) -> None:
        asked = [(id, session) for id, session in self.sessions.items() if session.last]
        id, session = asked[place % len(asked)]
        words = session.words[-session.last :]
        position = len(session.words) - len(words)
        body = {"session_id": id, "words": list(words), "position": position, "scores": scores}
        reply = self.post("/v1/predict", 200, top_k=len(WORDS), include_unknown=True, **body)
        self.stands(reply, session.words, session.adapt)
        self.used(session)

    @precondition(lambda self: self.sessions)
    @rule(place=a_place, words=some_words, most=st.integers(0, 4), seed=st.integers(0, 9), times=st.integers(1, 2))
    def generate(self, place: int, words: list[str], most: int, seed: int, times: int) -> None:
        """What is said is consumed; the same request once more is answered with the same."""
        id, session = self.session(place)
        body = {"session_id": id, "words": words, "position": len(session.words), "max_words": most, "seed": seed}
        replies = [self.post("/v1/generate", 200, **body) for _ in range(times)]
        assert replies[0] == replies[-1]
        session.words += (*words, *replies[0]["words"])
        session.most = max(session.most, len(session.words))
        session.last = 0 if words or most else session.last
        self.used(session)
        assert replies[0]["position"] == len(session.words)

    @precondition(lambda self: self.sessions)
    @rule(place=a_place, further=st.integers(1, 5), word=a_word)
    def wrong_position(self, place: int, further: int, word: str) -> None:
        id, session = self.session(place)
        count = len(session.words)
        beyond = {"session_id": id, "words": [word], "position": count + further}
        assert self.post("/v1/predict", 409, **beyond)["position"] == count
        if count >= further:
            # One word more than came after that position, so it cannot be a repetition.
            longer = {"session_id": id, "words": [*session.words[count - further :], word], "position": count - further}
            assert self.post("/v1/predict", 409, **longer)["position"] == count
            # Nothing is no repetition of something.
            nothing = {"session_id": id, "position": count - further}
            assert self.post("/v1/predict", 409, **nothing)["position"] == count
        assert self.post(f"/v1/sessions/{id}/rewind", 409, position=count + further)["position"] == count
        assert self.post(f"/v1/sessions/{id}/fork", 409, position=count + further)["position"] == count

    def reachable(self, response: httpx2.Response, session: Expected, position: int) -> bool:
        """False: it was refused, and that is right since the words there are forgotten."""
        if response.status_code != 409:
            assert response.status_code < 300, response.text
            return True
        problem = response.json()
        assert problem["position"] == len(session.words)
        assert position < problem["earliest"] <= len(session.words)
        assert session.most > self.live.bound, "nothing was forgotten yet"
        return False

    @precondition(lambda self: self.sessions)
    @rule(place=a_place, at=a_place, now=st.booleans())
    def fork(self, place: int, at: int, now: bool) -> None:
        id, session = self.session(place)
        position = len(session.words) if now else at % (len(session.words) + 1)
        response = self.call("POST", f"/v1/sessions/{id}/fork", json={} if now else {"position": position})
        if self.reachable(response, session, position):
            words = session.words[:position]
            last = session.last if position == len(session.words) else 0
            self.born(response.json(), words, last, session.most, session.adapt)

    @precondition(lambda self: self.sessions)
    @rule(place=a_place, at=a_place, times=st.integers(1, 2))
    def rewind(self, place: int, at: int, times: int) -> None:
        id, session = self.session(place)
        position = at % (len(session.words) + 1)
        for _ in range(times):
            response = self.call("POST", f"/v1/sessions/{id}/rewind", json={"position": position})
            if not self.reachable(response, session, position):
                return
            assert response.json()["position"] == position
            if position < len(session.words):
                session.words, session.last = session.words[:position], 0
            self.used(session)

    @precondition(lambda self: self.sessions)
    @rule(place=a_place)
    def carry_out(self, place: int) -> None:
        id, session = self.session(place)
        response = self.call("GET", f"/v1/sessions/{id}/state")
        assert response.status_code == 200
        self.files.append((response.content, replace(session)))

    @precondition(lambda self: self.files)
    @rule(place=a_place, damage=st.integers(0, 3), at=a_place)
    def carry_in(self, place: int, damage: int, at: int) -> None:
        content, session = self.files[place % len(self.files)]
        if damage == 0:
            flipped = bytearray(content)
            flipped[at % len(content)] ^= 1
            for broken in (bytes(flipped), content[: at % len(content)]):
                assert self.call("POST", "/v1/sessions", content=broken, headers=FILE).status_code == 400
            return
        response = self.call("POST", "/v1/sessions", content=content, headers=FILE)
        assert response.status_code == 201, response.text
        self.born(response.json(), session.words, most=session.most, adapt=session.adapt)

    @precondition(lambda self: self.sessions)
    @rule(place=a_place, last=st.integers(1, 8))
    def trace(self, place: int, last: int) -> None:
        id, session = self.session(place)
        words = self.call("GET", f"/v1/sessions/{id}/trace?last={last}").json()["words"]
        assert len(words) == min(last, len(session.words)) or session.most > self.live.bound
        if words:
            positions = [item["position"] for item in words]
            assert positions == list(range(len(session.words) - len(words) + 1, len(session.words) + 1))
            best = words[-1]["predictions"][0]
            assert abs(best["probability"] - row(session.words, session.adapt)[best["word"]]) < 1e-4

    @precondition(lambda self: self.sessions)
    @rule(place=a_place)
    def delete(self, place: int) -> None:
        id, _ = self.session(place)
        assert self.call("DELETE", f"/v1/sessions/{id}").status_code == 204
        del self.sessions[id]
        self.gone.append(id)

    @rule(seconds=st.sampled_from([20, 600, 1780, 1800]), sweep=st.booleans())
    def wait(self, seconds: int, sweep: bool) -> None:
        for service in self.live.services:
            service.clock.now += seconds
        if self.live.redis is not None:
            self.live.redis.let_pass(seconds)
        over = [id for id, session in self.sessions.items() if session.expires <= self.now]
        if sweep:
            self.live.do(lambda: self.live.service.service.store.expire(self.now))
        for id in over:
            del self.sessions[id]
            self.gone.append(id)

    @precondition(lambda self: self.sessions)
    @rule(place=a_place, words=st.lists(a_word, min_size=1, max_size=4), steps=st.integers(0, 3))
    def cancel(self, place: int, words: list[str], steps: int) -> None:
        """A client that leaves in the middle has changed nothing."""
        id, _ = self.session(place)
        self.live.do(lambda: self.leave(id, words, steps))

    async def leave(self, id: str, words: list[str], steps: int) -> None:
        service = self.live.service
        runtime = service.runtime
        if steps < len(words):
            runtime.hold_at = len(runtime.batches) + steps
        else:
            runtime.gate.clear()
        asking = asyncio.create_task(service.predict(session_id=id, words=words))
        with anyio.fail_after(20):
            while runtime.gate.is_set() or not service.service.scheduler.in_flight:
                await asyncio.sleep(0)
        await service.in_flight(1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        runtime.hold_at = None
        runtime.gate.set()
        # A step that the engine was in counts, too, before the next one is counted from here.
        await self.nothing_leaked()

    @precondition(lambda self: len(self.live.services) > 1)
    @rule()
    def go_to_another_replica(self) -> None:
        self.live.services.append(self.live.services.pop(0))

    @precondition(lambda self: self.live.lasting)
    @rule()
    def restart(self) -> None:
        self.live.do(self.nothing_leaked)
        self.live.restart()

    @precondition(lambda self: self.gone)
    @rule(place=a_place)
    def ask_for_one_that_is_gone(self, place: int) -> None:
        id = self.gone[place % len(self.gone)]
        for session, status in ((id, 410), (SessionIds().issue(), 404)):
            self.post("/v1/predict", status, session_id=session, words=["the"])
            self.post(f"/v1/sessions/{session}/fork", status)
            self.post(f"/v1/sessions/{session}/rewind", status, position=0)
            for path in ("", "/state", "/trace"):
                assert self.call("GET", f"/v1/sessions/{session}{path}").status_code == status

    @invariant()
    def the_words_are_those(self) -> None:
        for id, session in list(self.sessions.items())[-2:]:
            reply = self.call("GET", f"/v1/sessions/{id}").json()
            assert reply["position"] == len(session.words)
            shown = [word if word in WORDS else "<unk>" for word in session.words]
            known = len(reply["words"])
            assert reply["words"] == shown[len(shown) - known :]
            assert known == len(shown) or session.most > self.live.bound

    def teardown(self) -> None:
        for id, session in self.sessions.items():
            body = {"session_id": id, "position": len(session.words), "include_unknown": True}
            self.stands(self.post("/v1/predict", 200, top_k=len(WORDS), **body), session.words, session.adapt)
            assert self.call("DELETE", f"/v1/sessions/{id}").status_code == 204
        self.live.do(self.settled)

    async def settled(self) -> None:
        # A replica finds out that a session was deleted at another one when it is asked for it, or its time is over.
        now = self.now if len(self.live.services) == 1 else self.now + 2 * TTL
        for service in self.live.services:
            while await service.service.store.expire(now):
                pass
            assert len(service.service.store) == 0
        await self.nothing_leaked()

    async def nothing_leaked(self) -> None:
        for service in self.live.services:
            with anyio.move_on_after(5):  # what clients that left had begun is let go of by the engine
                while leaked(service.service):
                    await asyncio.sleep(0)
            assert leaked(service.service) is None


class Live:
    """Replicas of a service with these settings, in an event loop that runs while one is asked something; until the
    `with` is over. The first of them is asked.

    `redis` is the server that their sessions are in, which goes by a clock of its own.
    """

    services: list[Running]

    def __init__(self, replicas: int, redis: RedisServer | None = None, **options: Any) -> None:
        self.redis = redis
        self.lasting = options.get("store") != "memory"
        self._replicas = replicas
        self._options = options
        self._runner = asyncio.Runner()

    @property
    def service(self) -> Running:
        return self.services[0]

    @property
    def bound(self) -> int:
        """How many words a session remembers."""
        return self.service.service.settings.max_session_words

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return self._runner.run(run())

    def restart(self) -> None:
        now = self.service.clock.now
        self._stop()
        self._start()
        for service in self.services:
            service.clock.now = now

    def _start(self) -> None:
        self._contexts = [running(**self._options) for _ in range(self._replicas)]
        self.services = [self.do(context.__aenter__) for context in self._contexts]

    def _stop(self) -> None:
        for context in self._contexts:
            self.do(partial(context.__aexit__, None, None, None))

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._runner.close()


def run_machine(it: Live) -> None:
    """Try `EXAMPLES` histories."""
    machine = type("Machine", (Sessions,), {"live": it})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(
    ("kind", "replicas", "forgetful"),
    [
        ("memory", 1, False),
        ("memory", 1, True),
        ("snapshot", 1, False),
        ("sqlite", 1, False),
        ("sqlite", 1, True),
        ("sqlite", 2, False),
        ("redis", 1, False),
        ("redis", 1, True),
        ("redis", 2, False),
        ("redis", 2, True),
    ],
)
def test_sessions_are_their_words(
    kind: str,
    replicas: int,
    forgetful: bool,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forgetful: with few words remembered and hardly a state kept, most has to be computed anew, or be refused."""
    # The event loop stands still while nothing is asked, and an answer that came meanwhile is none that came too late.
    monkeypatch.setattr(app.stores.redis, "TIMEOUT_SECONDS", 60.0)
    redis = request.getfixturevalue("shared_redis") if kind == "redis" else None
    options = {"max_session_words": 16, "history_bytes": 100} if forgetful else {}
    with Live(replicas, redis, **place(kind, tmp_path, request), **options) as it:
        run_machine(it)
