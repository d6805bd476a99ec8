"""Going back: the state of a session at an earlier position.

A state is a function of the words before it. Those that sessions stood at lately are kept within a budget of bytes;
any other is computed again, from the nearest that is known, in the same steps as everybody else's words.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import nlargest

from app.engine import Job
from app.scheduler import Scheduler
from app.sessions import PositionConflictError, Session
from app.states import START
from model.adaptation import MARGIN, Cache

#: A state that is computed again leaves one behind every so many words, for the next time.
STRIDE = 256

#: So many of the kept states before a position are looked at. Those of other forks of a session do not fit.
TRIES = 16

_DIGEST_BYTES = 16

#: (family, position, digest of the words known before it). See `Session.family` for those that are not known.
Key = tuple[bytes, int, bytes]


class History:
    """States of the past, the ones that nobody has asked for longest forgotten first. On the event loop only."""

    def __init__(self, scheduler: Scheduler, clock: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._clock = clock
        #: Their slots, and until when a session lives that has not been used since it last asked for one.
        self._kept: OrderedDict[Key, tuple[int, float]] = OrderedDict()
        self._places: dict[bytes, set[tuple[int, bytes]]] = {}  # what is kept of each family

    def __len__(self) -> int:
        """How many states are kept."""
        return len(self._kept)

    def __iter__(self) -> Iterator[int]:
        """The slots of those."""
        return (slot for slot, _ in self._kept.values())

    def keep(self, session: Session) -> None:
        """Keep the state that a session stands at, which is about to go on."""
        if session.state != START and self._scheduler.states.spare:
            self._keep(session, session.position, session.state)

    def forget(self, session: Session) -> None:
        """Keep nothing of a session any more, nor of its forks, who can have it computed again."""
        for place in self._places.pop(session.family, ()):
            slot, _ = self._kept.pop((session.family, *place))
            self._scheduler.states.free(slot)

    def forget_old(self) -> None:
        """Keep nothing any more that no session has asked for in its whole life time: most who could are gone, and the
        others can have it computed again. Looks at all that is kept."""
        now = self._clock()
        for key in [key for key, (_, until) in self._kept.items() if until <= now]:
            self._drop(key)

    async def state_at(self, session: Session, position: int) -> tuple[int, Cache | None]:
        """The slot of a session's state at `position`, and its cache there if it adapts; one more points at the slot,
        and has to free it.

        For one who has the session's turn.

        Raises:
            PositionConflictError: the session has not come so far, or has forgotten the words from there on.
            UnavailableError, RuntimeFailedError: not now.
        """
        now, earliest = session.position, session.earliest
        if position > now:
            raise PositionConflictError(f"the session is at {now}, not yet at {position}", now, earliest)
        if position < earliest:
            message = f"the session is at {now}, remembers what came after {earliest}, and cannot go back to {position}"
            raise PositionConflictError(message, now, earliest)
        cache = None if session.cache is None else session.cache.back(now - position)
        if session.cache is None or cache is not None:
            slot, _ = await self._read(session, *self._nearest(session, position), position, None)
            return slot, cache
        # The words before are read again, for what they put into the cache; a few more of them, so that it can go back
        # further without that: who goes back by a word often goes on doing so.
        begin = max(position - session.cache.adaptation.size - MARGIN, session.earliest_state)
        slot, _ = await self._read(session, *self._nearest(session, begin), begin, None)
        return await self._read(session, begin, slot, position, session.cache.anew(begin))

    async def _read(
        self, session: Session, start: int, slot: int, position: int, cache: Cache | None
    ) -> tuple[int, Cache | None]:
        """Go on from `start` to `position`; `slot` is freed."""
        while start < position:
            end = min(start + STRIDE, position)
            slot, cache = await self._consume(slot, session.words_between(start, end), cache)
            start = end
            if start < position:
                self._keep(session, start, slot)
        return slot, cache

    async def _consume(self, source: int, ids: array[int], cache: Cache | None) -> tuple[int, Cache | None]:
        """The slot of the state after these words, and the cache; `source` is freed."""
        job = Job(ids.tolist(), source, START, 0, cache=cache)
        try:
            job.slot = self._scheduler.take_state()
            await self._scheduler.run(job)
        finally:
            self._scheduler.free_state(source)
        return job.slot, job.cache

    def _nearest(self, session: Session, position: int) -> tuple[int, int]:
        """The last position up to `position` whose state can be had at once, and its slot, to be freed."""
        states, first = self._scheduler.states, session.first
        if position == session.position:
            return position, states.share(session.state)
        marks = [mark for mark in session.marks if mark[0] <= position]
        best = max(marks[-1][0] if marks else 0, first)
        places = self._places.get(session.family, ())
        for place, digest in nlargest(TRIES, (item for item in places if best <= item[0] <= position)):
            if digest == _digest(session, place):
                return place, states.share(self._ask((session.family, place, digest), session))
        if not marks:
            return 0, START
        slot = self._scheduler.take_state()
        states.unpack(slot, marks[-1][1])
        return marks[-1][0], slot

    def _keep(self, session: Session, position: int, slot: int) -> None:
        digest = _digest(session, position)
        key = (session.family, position, digest)
        if key in self._kept:
            self._ask(key, session)
            return
        states = self._scheduler.states
        if not states.spare:
            return
        while len(self._kept) >= states.spare:
            self._drop(next(iter(self._kept)))
        self._kept[key] = states.share(slot), self._clock() + session.ttl
        self._places.setdefault(session.family, set()).add((position, digest))

    def _ask(self, key: Key, session: Session) -> int:
        slot, until = self._kept[key]
        self._kept[key] = slot, max(until, self._clock() + session.ttl)
        self._kept.move_to_end(key)
        return slot

    def _drop(self, key: Key) -> None:
        slot, _ = self._kept.pop(key)
        self._scheduler.states.free(slot)
        family, position, digest = key
        places = self._places[family]
        places.discard((position, digest))
        if not places:
            del self._places[family]


def _digest(session: Session, position: int) -> bytes:
    """Of the words known before `position`."""
    known = memoryview(session.recent)[: (position - session.first) * session.width]
    return hashlib.blake2b(known, digest_size=_DIGEST_BYTES).digest()
