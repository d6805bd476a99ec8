"""The way of a request, from words to an answer, and the life of the service around it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import sys
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from app import problems
from app.caller import OWNER
from app.engine import Job, Scores
from app.history import History
from app.scheduler import Scheduler, Status, UnavailableError
from app.schemas import AdaptRequest, OpenRequest, PredictRequest, WordsRequest
from app.sessions import (
    FAMILY_BYTES,
    SCORES_KEPT,
    NoSuchSessionError,
    PositionConflictError,
    Session,
    SessionGoneError,
    SessionIds,
)
from app.settings import Settings
from app.states import START
from app.stores.base import ConflictError, StoreAwayError
from app.stores.choice import choose, copies
from app.stores.record import Records
from app.turns import Turns
from model import decoding
from model.adaptation import Cache
from model.artifact import Artifact
from model.runtimes.base import Runtime
from model.tokenizer import Tokenizer

log = logging.getLogger("nextword")

T = TypeVar("T")

#: Longer texts are tokenised on another thread, so that they do not hold up everybody else.
INLINE_CHARACTERS = 2_000

#: What is larger is worked on one at a time: a megabyte of commas is 500 MB while it is tokenised.
LARGE_CHARACTERS = 1 << 17

#: People mostly send the next word, and mostly a frequent one: so many texts of at most so many characters are
#: remembered with their words.
REMEMBERED_TEXTS = 1 << 13
REMEMBERED_CHARACTERS = 32

#: When more sessions than these, and than are left, have been cleared away, their memory is given back.
TRIM_SESSIONS = 1_000

#: How often a request begins anew when other replicas were faster, before it is answered 503.
ATTEMPTS = 10

#: How often sessions whose time is over are cleared away. (They are refused from that second on in any case.)
SWEEP_SECONDS = 1.0


class Words(NamedTuple):
    """The words of a request, by id; `starts` and `ends` where they came as text."""

    ids: Sequence[int]
    starts: Sequence[int] | None = None
    ends: Sequence[int] | None = None


NO_WORDS = Words(())


@dataclass(frozen=True, slots=True)
class Answer:
    """What a predict request came to. `session` is None if nothing was kept; `scores` if none were asked for."""

    words: Words
    session: Session | None
    position: int
    job: Job
    scores: Scores | None


class Service:
    """Sessions, the scheduler that moves them forward, and the rules in between.

    `clock` gives seconds since 1970. The engine thread starts with `running`.
    """

    def __init__(
        self,
        settings: Settings,
        artifact: Artifact,
        load: Callable[[], Runtime],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.artifact = artifact
        self.tokenizer: Tokenizer = artifact.tokenizer
        self.adaptation = settings.adaptation(artifact.adaptation)
        self.clock = clock
        self.replays = 0
        self.expiries = 0
        self.turns = Turns()
        self.scheduler = Scheduler(
            load,
            unknown_id=self.tokenizer.unknown_id,
            start_id=artifact.start_id,
            # A request in flight writes a state beside that of its session. Those of clients that have just left are
            # held until the engine lets go of them.
            slots=copies(settings) + 2 * settings.max_queue,
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            spare_bytes=settings.history_bytes,
        )
        self.history = History(self.scheduler, clock)
        self.store, key = choose(
            settings,
            Records(self.scheduler, artifact.id, self.adaptation.size),
            model=artifact.id,
            free=self.scheduler.free_state,
            in_use=self.turns.__contains__,
            clock=clock,
        )
        self._ids = SessionIds(key)
        self._opening: Counter[str] = Counter()  # sessions on their way to the store, by owner
        self._cleared = 0  # sessions that have left since memory was given back
        self._large = ThreadPoolExecutor(1, "nextword-large")
        self._encode_short = lru_cache(maxsize=REMEMBERED_TEXTS)(self._encode)
        self._typecode = "H" if len(self.tokenizer) <= 1 << 16 else "I"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load, serve, and at the end let the requests in hand finish."""
        self.scheduler.start(self.store.open)
        sweeper = asyncio.create_task(self._keep_sweeping())
        try:
            yield
        finally:
            sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeper
            if not await self.scheduler.drain(self.settings.drain_seconds):
                log.warning("%d requests were not finished in time", self.scheduler.in_flight)
            await self.scheduler.stop()
            await self.store.close()
            self._large.shutdown(wait=False)

    async def beside(self, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` makes of something of so many characters, on a thread beside the event loop; of what is large
        (`LARGE_CHARACTERS`) after what came before."""
        executor = self._large if size > LARGE_CHARACTERS else None
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)

    async def predict(self, request: PredictRequest) -> Answer:
        """Consume the words of a request and find what may come next.

        Raises:
            Problem: too many words.
            PositionConflictError, NoSuchSessionError, SessionGoneError: see `app.sessions`.
            UnavailableError, RuntimeFailedError: not now.
        """
        session_id = request.session_id
        if session_id is None:
            words = await self.words_of(request)
            if request.position:
                raise PositionConflictError(f"a new session is at 0, not at {request.position}", 0)
            job = self._job(START, self.new_cache(None), words.ids, request, 0)
            await self.run(job)
            if not request.keep:
                self.scheduler.free_state(job.slot)
                return Answer(words, None, len(words.ids), job, _asked(job))
            session = await self._create(job, words.ids, None)
            return Answer(words, session, session.position, job, _asked(job))
        async with self.turn(session_id):
            for _ in range(ATTEMPTS):
                try:
                    return await self._go_on(session_id, request)
                except (ConflictError, PositionConflictError, NoSuchSessionError, SessionGoneError):
                    # It may be that another replica has moved the session on, and this is about what it was before.
                    if not await self.store.refresh(session_id):
                        raise
            raise UnavailableError("other requests move this session on all the time")

    async def _go_on(self, session_id: str, request: PredictRequest) -> Answer:
        session = await self._held(session_id)
        words = await self.words_of(request)
        if session.is_retry(words.ids, request.position):
            return await self._again(session, words, request)
        job = self._job(session.state, session.cache, words.ids, request, 0)
        await self.run(job)
        session = await (self.move(session, job, words.ids, _kept(job)) if words.ids else self._touch(session))
        return Answer(words, session, session.position, job, _asked(job))

    async def open(self, request: OpenRequest) -> Session:
        """A new session that has consumed the words of the request. Raises as `predict`."""
        words = await self.words_of(request)
        job = Job(words.ids, START, START, 0, cache=self.new_cache(request.adapt))
        await self.run(job)
        return await self._create(job, words.ids, request.ttl_seconds)

    async def find(self, session_id: str) -> Session:
        """The caller's own session as it is now, for one who has its turn.

        Raises `NoSuchSessionError`, `SessionGoneError` or `StoreAwayError`.
        """
        await self.store.refresh(session_id)
        return await self._held(session_id)

    async def show(self, session_id: str) -> Session:
        """The same for one who only looks: what its state points at may be another state by now."""
        if not self.store.shared:
            return await self._held(session_id)
        async with self.turn(session_id):
            return await self.find(session_id)

    async def _held(self, session_id: str) -> Session:
        """The session as it was when it was last seen here."""
        session = await self.store.load(session_id)
        owner = OWNER.get()
        if session is None or session.owner != owner or session.expires_at <= self.clock():
            raise self._ids.missing(session_id, owner)
        return session

    async def delete(self, session_id: str) -> None:
        """Forget a session, after the requests to it that came before. Raises as `find`."""
        async with self.turn(session_id):
            session = await self.find(session_id)
            await self.store.delete(session_id)
            self.history.forget(session)
            self._cleared += 1

    def turn(self, session_id: str) -> _Turn:
        """`async with`: this session is the caller's, after the requests that came before."""
        return _Turn(self.turns, session_id)

    def _encode(self, text: str) -> Words:
        encoding = self.tokenizer.encode(text)
        return Words(encoding.ids.tolist(), encoding.starts.tolist(), encoding.ends.tolist())

    async def words_of(self, request: WordsRequest) -> Words:
        """The words of a request. Raises a 413 `Problem` if they are too many."""
        limit = self.settings.max_words
        if request.text:
            length = len(request.text)
            if length <= REMEMBERED_CHARACTERS:
                words = self._encode_short(request.text)
            elif length <= INLINE_CHARACTERS:
                words = self._encode(request.text)
            else:
                words = await self.beside(length, self._encode, request.text)
        elif request.words:
            unknown, id_of = self.tokenizer.unknown_id, self.tokenizer.id_of
            found = map(id_of, request.words[: limit + 1])
            words = Words([unknown if id is None else id for id in found])
        else:
            return NO_WORDS
        if len(words.ids) > limit:
            raise problems.too_many_words(len(request.words or words.ids), limit)
        return words

    def _job(
        self, source: int, cache: Cache | None, ids: Sequence[int], request: PredictRequest, score_from: int
    ) -> Job:
        prefix = request.prefix
        wanted = decoding.candidates(
            request.top_k, len(self.tokenizer), include_unknown=request.include_unknown or bool(prefix)
        )
        return Job(
            ids,
            source,
            START,
            wanted,
            prefix,
            self.tokenizer.prefix_ids(prefix) if prefix else None,
            score_from if request.scores else None,
            cache=cache,
        )

    async def run(self, job: Job) -> None:
        """Have a job computed, with a slot for its state if it has words. Raises as `Scheduler.run`."""
        if job.ids:
            job.slot = self.scheduler.take_state()
        await self.scheduler.run(job)

    async def _create(self, job: Job, ids: Sequence[int], ttl: float | None) -> Session:
        session = self.new_session(ttl).after(
            job.slot, ids, self.clock(), _kept(job), keep=self.settings.max_session_words, cache=job.cache
        )
        await self.commit(session, None, job.slot)
        return session

    def new_session(self, ttl: float | None) -> Session:
        """The caller's, without a word, and not in the store yet; `ttl` seconds, within what is allowed."""
        now, owner = self.clock(), OWNER.get()
        usual = self.settings.session_ttl_seconds
        lives = usual if ttl is None else min(ttl, max(self.settings.max_session_ttl_seconds, usual))
        return Session(
            self._ids.issue(owner),
            START,
            0,
            0,
            self._typecode,
            b"",
            now,
            now + lives,
            lives,
            owner=owner,
            family=os.urandom(FAMILY_BYTES),
            cache=self.new_cache(None),
        )

    def new_cache(self, adapt: bool | AdaptRequest | None) -> Cache | None:
        """That of a session without a word, as its client wants it (None: as configured); None if it does not adapt.

        Raises a 422 `Problem` for more pairs than a session may keep.
        """
        usual = self.adaptation
        if isinstance(adapt, AdaptRequest):
            if adapt.size is not None and adapt.size > usual.size:
                raise problems.invalid_field("adapt.size", f"{adapt.size} is more than this server keeps, {usual.size}")
            if adapt.weight == 0:
                return None
            return Cache(replace(usual, **adapt.model_dump(exclude_none=True)))
        return Cache(usual) if (self.settings.adapt if adapt is None else adapt) else None

    async def move(
        self,
        session: Session,
        job: Job,
        ids: Sequence[int],
        scores: tuple[array[float], array[int]] | None,
        generated: bytes = b"",
        least: int = 0,
    ) -> Session:
        """Have a session go on with these words, if there are any, to where `job` stands, which has consumed them; its
        slot is freed if that fails. `least`: see `Session.remembering`."""
        slot = job.slot if ids else START
        keep = self.settings.max_session_words
        mark = b""
        if ids:
            self.history.keep(session)
            if session.wants_mark(len(ids), keep):
                mark = self.scheduler.states.pack(session.state)
        state, cache = (slot, job.cache) if ids else (session.state, session.cache)
        moved = session.after(state, ids, self.clock(), scores, keep=keep, least=least, mark=mark, cache=cache)
        moved.generated = generated
        await self.commit(moved, session.revision, slot)
        return moved

    async def _touch(self, session: Session) -> Session:
        """A session that was used, and has consumed nothing."""
        keep = self.settings.max_session_words
        touched = session.after(session.state, (), self.clock(), session.scores, keep=keep, cache=session.cache)
        touched.generated = session.generated
        await self.commit(touched, session.revision, START)
        return touched

    async def commit(self, session: Session, expected_revision: int | None, slot: int) -> None:
        """Have the store hold this. If it does not, `slot`, the new state's, is freed. Raises as `Store.commit`, and a
        `Problem` if its owner has too many sessions."""
        try:
            if expected_revision is None and session.owner:
                await self._commit_new(session)
            else:
                await self.store.commit(session, expected_revision)
        except BaseException:
            self.scheduler.free_state(slot)
            raise

    async def _commit_new(self, session: Session) -> None:
        owner, limit = session.owner, self.settings.max_sessions_per_key
        # Those on their way to the store count too: it may know of them only when they are there.
        if limit is not None and self.store.owned(owner) + self._opening[owner] >= limit:
            raise problems.too_many_sessions(limit, self.settings.retry_after_seconds)
        self._opening[owner] += 1
        try:
            await self.store.commit(session, None)
        finally:
            self._opening[owner] -= 1
            if not self._opening[owner]:
                del self._opening[owner]

    async def _again(self, session: Session, words: Words, request: PredictRequest) -> Answer:
        """Answer a request that has been answered before: nothing is consumed."""
        self.replays += 1
        count, scores = len(words.ids), None
        if request.scores and session.scores is not None and len(session.scores[0]) == count:
            scores = Scores(session.scores[0].tolist(), session.scores[1].tolist())
        if request.scores and scores is None:
            before = session.position - count
            if before < session.earliest:
                message = "these words were consumed before, and cannot be scored any more: ask without `scores`"
                raise PositionConflictError(message, session.position)
            source, cache = await self.history.state_at(session, before)
            try:
                job = self._job(source, cache, words.ids, request, 0)
                await self.run(job)
            finally:
                self.scheduler.free_state(source)
            self.scheduler.free_state(job.slot)
            scores = job.scores
        else:
            job = self._job(session.state, session.cache, (), request, 0)
            await self.run(job)
        session = await self._touch(session)
        return Answer(words, session, session.position, job, scores)

    async def sweep(self) -> None:
        """Clear away the sessions whose time is over, and give their memory back when many have left.

        Raises `StoreAwayError`.
        """
        while count := await self.store.expire(self.clock()):
            self.expiries += count
            self._cleared += count
            await asyncio.sleep(0)  # the requests in between go on
        if self._cleared > max(TRIM_SESSIONS, len(self.store)):
            self.history.forget_old()
            self.scheduler.states.trim()
            self.store.trim()
            _give_back()
            self._cleared = 0

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if self.scheduler.status is Status.STARTING:
                continue
            try:
                await self.sweep()
            except StoreAwayError:
                continue  # it has said so itself
            except Exception as error:
                log.exception("clearing away expired sessions failed: %s", error)


class _Turn:
    """`async with`: this session is this request's until the end of the block."""

    __slots__ = ("_session_id", "_turns")

    def __init__(self, turns: Turns, session_id: str) -> None:
        self._turns = turns
        self._session_id = session_id

    async def __aenter__(self) -> None:
        if not self._turns.take_now(self._session_id):
            await self._turns.take(self._session_id)

    async def __aexit__(self, *_: object) -> None:
        self._turns.end(self._session_id)


def _give_back() -> None:
    """To the operating system: what the interpreter and the C library hold on to without using it."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
        if trim is not None:
            trim(0)


def _asked(job: Job) -> Scores | None:
    return None if job.score_from is None else job.scores


def _kept(job: Job) -> tuple[array[float], array[int]] | None:
    """Scores as a session keeps them, for a retry; longer requests than a session remembers cannot be retried."""
    if job.score_from is None or len(job.scores.ranks) > SCORES_KEPT:
        return None
    return array("f", job.scores.log_probabilities), array("I", job.scores.ranks)
