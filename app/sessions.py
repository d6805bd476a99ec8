"""A session is a name that points at a sequence state, its position and its words; and the rules it lives by."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.adaptation import Cache

#: How many of its last words a session keeps by default: to go back to, and for retries.
WORDS_KEPT = 16_384
#: A session has so many marks at most. By itself it comes to five; one that was brought as a file may have others.
MARKS = 8
#: Length of `Session.family`.
FAMILY_BYTES = 16
#: A request with more words than these is not told its scores again when it is repeated, unless they are had anew.
SCORES_KEPT = 256


class PositionConflictError(ValueError):
    """What the client believes was consumed is not what was, or it asks for a position that cannot be had.

    `position` is where the session stands; `earliest` the first position it can go back to, where that matters.
    """

    def __init__(self, message: str, position: int, earliest: int | None = None) -> None:
        super().__init__(message)
        self.position = position
        self.earliest = earliest


class NoSuchSessionError(LookupError):
    """This id was never issued, or to somebody else."""


class SessionGoneError(LookupError):
    """This id was issued, but the session has expired, was evicted or deleted."""


@dataclass(slots=True, eq=False)
class Session:
    """A value: going on makes another one (`after`).

    `state` is the slot of the state after all words; `recent` are the ids of the last words, all of them up to a bound,
    as the bytes of an array of `typecode`. Times are seconds since 1970.

    `revision` is another one, drawn at random, whenever anything has changed. It is no count: a store that lost what
    was written last, and took other words since, would arrive at the same count with another session.

    A state is a function of the words before it, so an earlier one need not be kept to be had again. Only when the
    first words are forgotten something has to stand in for them: `marks`, positions and the bytes of the states there.
    """

    id: str
    state: int
    position: int
    revision: int
    typecode: str
    recent: bytes
    created_at: float
    expires_at: float
    ttl: float
    scores: tuple[array[float], array[int]] | None = None  # of the last request's words, if asked for
    owner: str = ""  # whose key opened it; "" where there are no keys
    generated: bytes = b""  # the mark of the request that the last words were generated for, if they were
    marks: tuple[tuple[int, bytes], ...] = ()
    #: What those have in common whose states were computed here from the same beginning, a session and its forks. Words
    #: that are forgotten become part of it: so it tells apart all that may have come before the words known.
    family: bytes = b""
    cache: Cache | None = None  # of a session that adapts, at `state`

    def after(
        self,
        state: int,
        ids: Sequence[int],
        now: float,
        scores: tuple[array[float], array[int]] | None,
        *,
        keep: int = WORDS_KEPT,
        least: int = 0,
        mark: bytes = b"",
        cache: Cache | None = None,
    ) -> Session:
        """This session when it has consumed `ids` and stands at `state` and `cache`; at most `keep` words stay known
        (and `least` of them, see `remembering`).

        `mark` are the bytes of the state that it stands at before, where `wants_mark` says so.
        """
        recent = self.recent
        if ids:
            recent += array(self.typecode, ids).tobytes()
        moved = Session(
            self.id,
            state,
            self.position + len(ids),
            _new_revision(),
            self.typecode,
            recent,
            self.created_at,
            now + self.ttl,
            self.ttl,
            scores,
            self.owner,
            marks=(*self.marks, (self.position, mark))[-MARKS:] if mark else self.marks,
            family=self.family,
            cache=cache,
        )
        return moved.remembering(keep, least) if len(recent) > keep * self.width else moved

    def remembering(self, keep: int, least: int = 0) -> Session:
        """This session with its last `keep` words at most. Where there is a mark it begins there, so that every word
        it remembers can be gone back to; but the last `least` stay known, if they are not more than `keep`."""
        bound = self.position - keep
        if self.first >= bound:
            return self
        first = next((at for at, _ in self.marks if at >= bound), bound)
        first = max(min(first, self.position - least), bound)
        dropped = (first - self.first) * self.width
        return replace(
            self,
            recent=self.recent[dropped:],
            marks=tuple(mark for mark in self.marks if mark[0] >= first),
            family=hashlib.blake2b(self.recent[:dropped], digest_size=FAMILY_BYTES, key=self.family).digest(),
        )

    def back_at(self, position: int, state: int, cache: Cache | None, now: float) -> Session:
        """This session as if nothing after `position` had been consumed; `state` and `cache` are those there.

        `position` is between `earliest` and the session's own.
        """
        here = position == self.position
        return replace(
            self,
            state=state,
            position=position,
            revision=_new_revision(),
            recent=self.recent[: (position - self.first) * self.width],
            expires_at=now + self.ttl,
            scores=self.scores if here else None,
            generated=self.generated if here else b"",
            marks=tuple(mark for mark in self.marks if mark[0] <= position),
            cache=cache,
        )

    def wants_mark(self, count: int, keep: int) -> bool:
        """Whether the state it stands at should be marked before `count` words more are consumed.

        There is a mark in each half of the words known, or as near to that as requests come, so that half of them can
        still be gone back to when others are forgotten.
        """
        last = self.marks[-1][0] if self.marks else 0
        return self.position > last and self.position + count - last > keep // 2

    @property
    def width(self) -> int:
        """Bytes a word."""
        return 2 if self.typecode == "H" else 4

    @property
    def words(self) -> array[int]:
        """The ids of the last words."""
        return array(self.typecode, self.recent)

    @property
    def first(self) -> int:
        """The position of the first word known."""
        return self.position - len(self.recent) // self.width

    @property
    def earliest_state(self) -> int:
        """The first position whose state can be had, though maybe not the cache that is there."""
        if not self.first:
            return 0
        return self.marks[0][0] if self.marks else self.position

    @property
    def earliest(self) -> int:
        """The first position that it can go back to."""
        first = self.earliest_state
        if self.cache is None or not first:
            return first
        # A cache is had again from all its words, unless this one reaches so far back.
        return max(first, min(first + self.cache.adaptation.size, self.position - self.cache.reach))

    def last_words(self, count: int) -> array[int]:
        """The ids of the last `count` words, or of as many as are known."""
        return array(self.typecode, self.recent[-count * self.width :] if count else b"")

    def words_between(self, start: int, end: int) -> array[int]:
        """The ids of the words from `start` to `end`, positions of words that are known."""
        first = self.first
        return array(self.typecode, self.recent[(start - first) * self.width : (end - first) * self.width])

    def is_retry(self, ids: Sequence[int], position: int | None) -> bool:
        """Whether these words, said to begin at `position`, are the ones consumed last: then they must not count again.

        False means that they come next. Raises `PositionConflictError` when they are neither.
        """
        if position is None or position == self.position:
            return False
        if position > self.position:
            raise PositionConflictError(f"the session is at {self.position}, not yet at {position}", self.position)
        if position < self.first:
            raise PositionConflictError(
                f"the session is at {self.position} and keeps its last {self.position - self.first} words only, "
                f"so it cannot tell whether this request repeats what came after {position}",
                self.position,
            )
        count = self.position - position
        if count != len(ids) or self.last_words(count) != array(self.typecode, ids):
            raise PositionConflictError(
                f"the session is at {self.position}, and consumed other words after {position}", self.position
            )
        return True


def _new_revision() -> int:
    """63 bits: what SQLite's integers hold."""
    return secrets.randbits(63)


class SessionIds:
    """Ids that nobody can guess and that prove by themselves that they were issued here, so that the ids of sessions
    that are gone need not be remembered.

    120 random bits and 72 bits of the BLAKE2 code of those and the owner under `key`, as 32 URL-safe characters: to
    anybody else than its owner an id is one that was never issued, as long as the session lives and afterwards.
    Without a `key` a random one is used: ids then mean something to this process only.
    """

    _RANDOM = 15
    _CODE = 9

    def __init__(self, key: bytes | None = None) -> None:
        secret = os.urandom(32) if key is None else key
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"nextword-session").digest()

    def issue(self, owner: str = "") -> str:
        """A new id."""
        random = os.urandom(self._RANDOM)
        return urlsafe_b64encode(random + self._code(random, owner)).decode("ascii")

    def issued(self, session_id: str, owner: str = "") -> bool:
        """Whether `issue` made this id for this owner, here or where the same key is used."""
        try:
            raw = urlsafe_b64decode(session_id.encode("ascii"))
        except ValueError:
            return False
        random, code = raw[: self._RANDOM], raw[self._RANDOM :]
        # The second comparison refuses other spellings of the same bytes: an id has exactly one.
        right = hmac.compare_digest(code, self._code(random, owner))
        return right and urlsafe_b64encode(raw).decode("ascii") == session_id

    def missing(self, session_id: str, owner: str = "") -> LookupError:
        """Why this owner has no such session."""
        if self.issued(session_id, owner):
            return SessionGoneError("the session has expired, was evicted or deleted; open a new one")
        return NoSuchSessionError("there is no such session")

    def _code(self, random: bytes, owner: str) -> bytes:
        return hashlib.blake2b(random + owner.encode(), digest_size=self._CODE, key=self._key).digest()
