"""Clients that will not be fooled: each tells its session words, repeats what was not answered, and counts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Protocol

import httpx2
import pytest

from app import state_file
from tests.app.fake_runtime import PLAIN, WORDS, Oracle

#: What a server that is being killed does to a client.
_LOST = (httpx2.TransportError,)
#: The same, as a balancer in between says it; and a server that says itself that it cannot answer now.
_NOT_NOW = (502, 503, 504)


class Telling(Protocol):
    """What a session's answers must equal: one sequence, consumed alone."""

    #: How far a probability may be off, as a part of itself.
    tolerance: float

    def consume(self, *words: str) -> None: ...

    def probability(self, word: str) -> float: ...


class Population:
    """`count` clients at the servers of `addresses`, in turn; who goes away and comes back changes that list.

    They say `plain` words, which the model's `vocabulary` holds, and hold each answer against an `oracle` of their own.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        count: int,
        seed: int,
        *,
        plain: Sequence[str] = PLAIN,
        vocabulary: Sequence[str] = WORDS,
        oracle: Callable[[], Telling] = Oracle,
    ) -> None:
        self.addresses = list(addresses)
        self.plain = plain
        self.vocabulary = vocabulary
        self.oracle = oracle
        self.lost = 0  # requests that were not answered, or not now
        self._clients = [_Client(self, random.Random(seed + number)) for number in range(count)]
        self._answers = asyncio.Semaphore(0)
        self._turn = 0
        self._over = False

    async def __aenter__(self) -> Population:
        self._http = httpx2.AsyncClient(timeout=20)
        self._tasks = [asyncio.create_task(client.live()) for client in self._clients]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._http.aclose()

    async def answers(self, count: int) -> None:
        """Wait for so many answers more."""
        waiting = asyncio.ensure_future(self._answered(count))
        await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED, timeout=60)
        for task in self._tasks:
            if task.done():
                task.result()
        assert waiting.done(), "the clients are stuck"

    async def _answered(self, count: int) -> None:
        for _ in range(count):
            await self._answers.acquire()

    async def finish(self) -> None:
        """Let everybody have their last answer, and compare what the servers hold with what each was told."""
        self._over = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)
        await self.check()

    async def check(self) -> None:
        """Compare what the servers hold with what each client was told."""
        for client in self._clients:
            await client.check()

    @property
    def words(self) -> int:
        """How many words the clients were told that they count."""
        return sum(client.words for client in self._clients)

    @property
    def is_over(self) -> bool:
        return self._over

    def heard(self) -> None:
        """Somebody has an answer."""
        self._answers.release()

    async def ask(self, method: str, path: str, body: object = None, session_id: str | None = None) -> httpx2.Response:
        """The answer, of whoever gives one."""
        headers = {} if session_id is None else {"x-session-id": session_id}
        while True:
            if self.addresses:
                self._turn += 1
                address = self.addresses[self._turn % len(self.addresses)]
                try:
                    response = await self._http.request(method, address + path, json=body, headers=headers)
                except _LOST:
                    pass
                else:
                    if response.status_code not in _NOT_NOW:
                        return response
                    assert response.headers["retry-after"]
            self.lost += 1
            await asyncio.sleep(0.02)


class _Client:
    def __init__(self, population: Population, rng: random.Random) -> None:
        self._population = population
        self._rng = rng
        self._said: list[str] = []
        self._session_id: str | None = None
        self._oracle = population.oracle()

    async def live(self) -> None:
        while not self._population.is_over:
            words = self._rng.choices(self._population.plain, k=self._rng.choice((1, 1, 1, 3)))
            body = {"session_id": self._session_id, "words": words, "position": len(self._said), "top_k": 1}
            response = await self._population.ask("POST", "/v1/predict", body, self._session_id)
            assert response.status_code == 200, response.text
            self._said += words
            self._oracle.consume(*words)
            reply = response.json()
            assert reply["position"] == len(self._said)
            (best,) = reply["predictions"]
            right = self._oracle.probability(best["word"])
            assert best["probability"] == pytest.approx(right, abs=1e-5, rel=self._oracle.tolerance)
            self._session_id = reply["session_id"]
            self._population.heard()

    @property
    def words(self) -> int:
        return len(self._said)

    async def check(self) -> None:
        """Every word is there, once and in its place."""
        path = f"/v1/sessions/{self._session_id}/state"
        response = await self._population.ask("GET", path, session_id=self._session_id)
        assert response.status_code == 200, response.text
        file = state_file.decode(response.content)
        assert file.position == len(self._said)
        assert [self._population.vocabulary[id] for id in file.words] == self._said
