"""Generating: whose words they continue, who hears them, and where the session stands afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from app.engine import Job, Scores
from app.requests import ClientLeftError
from app.running_text import CONTEXT
from app.service import Service
from app.sessions import PositionConflictError, Session
from app.speech import Said, Speech
from app.states import START
from app.stores.base import StoreAwayError
from model import decoding
from model.decoding import Sampling

_SEED_BYTES = 8
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be generated. `stop` are sequences of word ids; a `seed` of None is one that nobody can know."""

    max_words: int
    sampling: Sampling
    seed: int | None = None
    stop: tuple[tuple[int, ...], ...] = ()
    tops: int | None = None  # how many of the likeliest words to name beside each word; None: no log-probabilities
    echo: bool = False  # score the words given, too


class Opening(NamedTuple):
    """Where the words that are said begin: so many words, the last of which are `words`, were consumed before.

    scores: those of the words given, if they were asked for; they are there as soon as a word is said.
    """

    session_id: str | None
    position: int
    words: Sequence[int]
    scores: Scores | None


#: Hears each word as it is said, and passes it on. What it has returned from was sent.
Tell = Callable[[Opening, Said], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Generated:
    """What was said, and whether a stop sequence came up."""

    opening: Opening
    said: Sequence[Said]
    stopped: bool

    @property
    def finish_reason(self) -> str:
        return "stop" if self.stopped else "length"


async def in_session(
    service: Service, session_id: str | None, position: int | None, ids: Sequence[int], order: Order, tell: Tell | None
) -> Generated:
    """Consume words in a session, a new one without `session_id`, and go on; every word said is consumed, too.

    A client that leaves before it was told anything has changed nothing. One that leaves later has its session stand
    after the last word it was told. A request that repeats the session's last one gets the same words again, and those
    that are missing if it was broken off.

    Raises:
        PositionConflictError: `position` is not where the session stands, and this is no repetition.
        Others as `Service.predict`; nothing was consumed then.
    """
    if session_id is not None:
        async with service.turn(session_id):
            return await _go_on(service, await service.find(session_id), position, ids, order, tell)
    if position:
        raise PositionConflictError(f"a new session is at 0, not at {position}", 0)
    session = service.new_session(None)
    await service.commit(session, None, START)
    async with service.turn(session.id):
        try:
            # At 0, so that the request can be repeated with the session's id: `position` 0 is then where it began.
            return await _go_on(service, session, 0, ids, order, tell)
        except BaseException:
            with contextlib.suppress(StoreAwayError):
                stored = await service.store.load(session.id)
                if stored is not None and stored.revision == session.revision:
                    await service.store.delete(session.id)
            raise


async def alone(
    service: Service,
    ids: Sequence[int],
    order: Order,
    numbers: Sequence[int],
    tell: Callable[[int, Opening, Said], Awaitable[None]] | None = None,
) -> list[Generated]:
    """Several continuations of the same words, without a session; `numbers` tell them apart, to a seed too.

    The words are consumed once. Raises as `Service.predict`.
    """
    scored = 0 if order.echo and order.tops is not None else None
    given = Job(ids, START, START, 0, score_from=scored, score_tops=order.tops or 0)
    seed = secrets.randbits(64) if order.seed is None else order.seed
    speeches = [_speech([], order, decoding.branch(seed, number), ()) for number in numbers]
    opening = Opening(None, len(ids), ids, None if scored is None else given.scores)
    if ids:
        await service.run(given)
    try:
        async with asyncio.TaskGroup() as group:
            for number, speech in zip(numbers, speeches, strict=True):
                hear = None if tell is None else partial(tell, number, opening)
                group.create_task(_one(service, given.slot, speech, hear))
    except* Exception as errors:
        raise errors.exceptions[0] from None
    finally:
        service.scheduler.free_state(given.slot)
    return [Generated(opening, speech.said[: speech.ready], speech.stopped) for speech in speeches]


async def _one(service: Service, source: int, speech: Speech, hear: Callable[[Said], Awaitable[None]] | None) -> None:
    job = Job(speech.ids, source, START, 0, speech=speech)
    await _Speaking(service, job, speech).run(hear)
    service.scheduler.free_state(job.slot)


async def _go_on(
    service: Service, session: Session, position: int | None, ids: Sequence[int], order: Order, tell: Tell | None
) -> Generated:
    mark = _mark(position, ids, order)
    earlier = _earlier(session, position, ids, order, mark)
    if earlier is None:
        seed = secrets.randbits(64) if order.seed is None else order.seed
        speech = _speech([*ids], order, seed, ())
    else:
        seed = int.from_bytes(session.generated[:_SEED_BYTES], "big")
        speech = _speech([], order, seed, earlier)
    scored = 0 if order.echo and order.tops is not None else None
    job = Job(
        speech.ids,
        session.state,
        START,
        0,
        score_from=scored,
        score_tops=order.tops or 0,
        speech=speech,
        cache=session.cache,
    )
    given, before = len(speech.ids), len(speech.said)
    words = session.last_words(CONTEXT + before)
    opening = Opening(
        session.id,
        session.position + given - before,
        [*words[: len(words) - before], *speech.ids],
        None if scored is None else job.scores,
    )
    speaking = _Speaking(service, job, speech)
    move = partial(_move, service, session, speech, (given, before), (seed % (1 << 64)).to_bytes(_SEED_BYTES) + mark)
    try:
        await speaking.run(None if tell is None else partial(tell, opening))
    except (asyncio.CancelledError, ClientLeftError):
        if speaking.told > before:
            await move(None, speaking.told)
        raise
    if speaking.told > before:
        # The client has all words: that it leaves now changes nothing any more.
        moving = asyncio.create_task(move(job, speech.ready))
        try:
            await asyncio.shield(moving)
        except asyncio.CancelledError:
            await asyncio.wait([moving])
            raise
    else:
        await move(job, speech.ready)
    return Generated(opening, speech.said[: speech.ready], speech.stopped)


async def _move(
    service: Service,
    session: Session,
    speech: Speech,
    first: tuple[int, int],
    mark: bytes,
    job: Job | None,
    count: int,
) -> None:
    """Have the session stand after the first `count` words said. `job` has consumed the whole speech, if it is there;
    `first` are how many words it was given, and how many of those said had been consumed before."""
    given, before = first
    ids = [*speech.ids[:given], *(said.id for said in speech.said[before:count])]
    if job is None or len(ids) != len(speech.ids) or not ids:
        # More was consumed than was sent: what began a stop sequence, or what the client did not wait for. The state
        # is a function of the words, so it can be had again.
        if job is not None:
            service.scheduler.free_state(job.slot)
        job = Job(ids, session.state, START, 0, cache=session.cache)
        if ids:
            await service.run(job)
    # A repetition has its text set behind the same words, as far as they are remembered.
    await service.move(session, job, ids, None, mark, least=count + CONTEXT)


def _speech(ids: list[int], order: Order, seed: int, earlier: Sequence[int]) -> Speech:
    said = [Said(id, _NAN, 0, [], []) for id in earlier]
    return Speech(ids, order.max_words, order.sampling, seed, order.stop, order.tops or 0, said)


def _mark(position: int | None, ids: Sequence[int], order: Order) -> bytes:
    """What a repetition of a request is known by."""
    stated = repr((position, list(ids), order)).encode()
    return hashlib.blake2b(stated, digest_size=16).digest()


def _earlier(
    session: Session, position: int | None, ids: Sequence[int], order: Order, mark: bytes
) -> Sequence[int] | None:
    """The words that this very request was told before; None if it is a new one. Raises `PositionConflictError`."""
    if position is None or position == session.position:
        return None
    if position > session.position:
        raise PositionConflictError(f"the session is at {session.position}, not yet at {position}", session.position)
    count = session.position - position - len(ids)  # of the words that were said
    if session.generated[_SEED_BYTES:] != mark or count < 0:
        message = f"the session is at {session.position}, and this is not the request that brought it there"
        raise PositionConflictError(message, session.position)
    words = session.last_words(count)
    if len(words) < count:
        message = f"{count} words were generated, and the session keeps its last {len(words)} only"
        raise PositionConflictError(message, session.position)
    if order.tops is not None:
        message = "these words were generated before, and have no log-probabilities any more: ask without `logprobs`"
        raise PositionConflictError(message, session.position)
    return words


class _Speaking:
    """A job with a speech, from beginning to end. `told` of its words were passed on."""

    def __init__(self, service: Service, job: Job, speech: Speech) -> None:
        self._service = service
        self._job = job
        self._speech = speech
        self.told = 0

    async def run(self, tell: Callable[[Said], Awaitable[None]] | None) -> None:
        """When this returns, the job's slot is the caller's; when it raises, it is free again. Raises what `tell`
        raises, too."""
        job, speech, scheduler = self._job, self._speech, self._service.scheduler
        if speech.ids or speech.goes_on:
            job.slot = scheduler.take_state()
        if tell is None:
            await scheduler.run(job)
            return
        heard = speech.heard = asyncio.Event()
        heard.set()
        running = asyncio.create_task(scheduler.run(job))
        running.add_done_callback(lambda _: heard.set())
        try:
            over = False
            while not over:
                await heard.wait()
                heard.clear()
                over = running.done()
                while self.told < speech.ready:
                    await tell(speech.said[self.told])
                    self.told += 1
            await running
        except BaseException:
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
            if not running.cancelled() and running.exception() is None:
                scheduler.free_state(job.slot)
            raise
