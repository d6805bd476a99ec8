"""Generating: whose words they continue, who hears them, and where the session stands afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from app.engine import Job, Scores
from app.requests import ClientLeftError
from app.service import Service
from app.sessions import PositionConflictError, Session
from app.speech import Said, Speech
from app.states import START
from model import decoding
from model.decoding import Sampling

#: Who hears words as they are said, to pass them on. What it has returned from was sent.
Tell = Callable[[Session, Sequence[Said]], Awaitable[None]]

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


@dataclass(frozen=True, slots=True)
class Generated:
    """What was said after `given`, the ids of the words of the request. `scores` are those of `given`, if asked for."""

    given: Sequence[int]
    said: Sequence[Said]
    stopped: bool
    scores: Scores | None = None
    session: Session | None = None

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
        async with service._turn(session_id):
            return await _go_on(service, await service.find(session_id), position, ids, order, tell)
    if position:
        raise PositionConflictError(f"a new session is at 0, not at {position}", 0)
    session = await service._create(Job((), START, START, 0), (), None)
    async with service._turn(session.id):
        try:
            return await _go_on(service, session, None, ids, order, tell)
        except BaseException:
            stored = await service.store.load(session.id)
            if stored is not None and stored.revision == session.revision:
                await service.store.delete(session.id)
            raise


async def alone(
    service: Service,
    ids: Sequence[int],
    order: Order,
    numbers: Sequence[int],
    source: int = START,
    tell: Callable[[int, Sequence[Said]], Awaitable[None]] | None = None,
) -> list[Generated]:
    """Several continuations of the same words, without a session; `numbers` tell them apart, to a seed too.

    The words are consumed once, from the state `source`. Raises as `Service.predict`.
    """
    scored = 0 if order.echo and order.tops is not None else None
    given = Job(ids, source, START, 0, score_from=scored, score_tops=order.tops or 0)
    seed = secrets.randbits(64) if order.seed is None else order.seed
    speeches = [_speech([], order, decoding.branch(seed, number), ()) for number in numbers]
    scores = given.scores if scored is not None else None
    if ids:
        await service._run(given)
    try:
        async with asyncio.TaskGroup() as group:
            for number, speech in zip(numbers, speeches, strict=True):
                after = given.slot if ids else source
                group.create_task(_one(service, after, speech, number, tell))
    except* Exception as errors:
        raise errors.exceptions[0] from None
    finally:
        service.scheduler.free_state(given.slot)
    return [Generated(ids, speech.said[: speech.ready], speech.stopped, scores) for speech in speeches]


async def _one(
    service: Service,
    source: int,
    speech: Speech,
    number: int,
    tell: Callable[[int, Sequence[Said]], Awaitable[None]] | None,
) -> None:
    job = Job(speech.ids, source, START, 0, speech=speech)

    async def pass_on(words: Sequence[Said]) -> None:
        if tell is not None:
            await tell(number, words)

    await _Speaking(service, job, speech).run(None if tell is None else pass_on)
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
    job = Job(speech.ids, session.state, START, 0, score_from=scored, score_tops=order.tops or 0, speech=speech)
    given = len(speech.ids)
    before = len(speech.said)
    session_mark = (seed % (1 << 64)).to_bytes(_SEED_BYTES, "big") + mark

    async def pass_on(words: Sequence[Said]) -> None:
        if tell is not None:
            await tell(session, words)

    speaking = _Speaking(service, job, speech)
    try:
        await speaking.run(None if tell is None else pass_on)
    except (asyncio.CancelledError, ClientLeftError):
        if speaking.told > before:
            consumed = [*speech.ids[:given], *(said.id for said in speech.said[before : speaking.told])]
            await _stand(service, session, await _consumed(service, session, consumed), consumed, session_mark)
        raise
    consumed = [*speech.ids[:given], *(said.id for said in speech.said[before : speech.ready])]
    if len(consumed) < len(speech.ids):
        # What began a stop sequence was consumed, and is not part of the answer.
        service.scheduler.free_state(job.slot)
        job = await _consumed(service, session, consumed)
    moved = await _stand(service, session, job, consumed, session_mark)
    scores = job.scores if scored is not None else None
    return Generated(ids, speech.said[: speech.ready], speech.stopped, scores, moved)


def _speech(ids: list[int], order: Order, seed: int, earlier: Sequence[int]) -> Speech:
    said = [Said(id, _NAN, [], []) for id in earlier]
    return Speech(ids, order.max_words, order.sampling, seed, order.stop, order.tops or 0, said)


async def _consumed(service: Service, session: Session, ids: Sequence[int]) -> Job:
    job = Job(ids, session.state, START, 0)
    if ids:
        await service._run(job)
    return job


async def _stand(service: Service, session: Session, job: Job, ids: Sequence[int], mark: bytes) -> Session:
    """The session where the job has gone with `ids`."""
    if not ids:
        service.scheduler.free_state(job.slot)
        job.slot = START
    moved = session.after(job.slot if ids else session.state, ids, service.clock(), None)
    moved = replace(moved, generated=mark)
    await service._commit(moved, session.revision, job)
    return moved


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
    count = session.position - position - len(ids)
    if session.generated[_SEED_BYTES:] != mark or count < 0:
        message = f"the session is at {session.position}, and this is not the request that brought it there"
        raise PositionConflictError(message, session.position)
    words = session.words
    if count > len(words):
        message = f"{count} words were generated, and the session keeps its last {len(words)} only"
        raise PositionConflictError(message, session.position)
    if order.tops is not None:
        message = "these words were generated before, and have no log-probabilities any more: ask without `logprobs`"
        raise PositionConflictError(message, session.position)
    return words[len(words) - count :]


class _Speaking:
    """A job with a speech, from beginning to end. `told` of its words were passed on."""

    def __init__(self, service: Service, job: Job, speech: Speech) -> None:
        self._service = service
        self._job = job
        self._speech = speech
        self.told = 0

    async def run(self, tell: Callable[[Sequence[Said]], Awaitable[None]] | None) -> None:
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
                words = speech.said[self.told : speech.ready]
                if words:
                    await tell(words)
                    self.told += len(words)
            await running
        except BaseException:
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
            if not running.cancelled() and running.exception() is None:
                scheduler.free_state(job.slot)
            raise
