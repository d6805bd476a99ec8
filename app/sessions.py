"""A session is a name that points at a sequence state, its position and its words; and the rules it lives by."""

from __future__ import annotations

import hashlib
import hmac
import os
from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass

#: How many of its last words a session keeps: for retries, and to show.
WORDS_KEPT = 256


class PositionConflictError(ValueError):
    """What the client believes was consumed is not what was."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class NoSuchSessionError(LookupError):
    """This id was never issued, or to somebody else."""


class SessionGoneError(LookupError):
    """This id was issued, but the session has expired, was evicted or deleted."""


@dataclass(slots=True, eq=False)
class Session:
    """A value: going on makes another one (`after`).

    `state` is the slot of the state after all words; `recent` are the ids of the last `WORDS_KEPT` of them at most, as
    the bytes of an array of `typecode`. Times are seconds since 1970.
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
    long_lived: bool = False  # lives longer unused than sessions do by default
    scores: tuple[array[float], array[int]] | None = None  # of the last request's words, if asked for
    owner: str = ""  # whose key opened it; "" where there are no keys
    generated: bytes = b""  # the mark of the request that the last words were generated for, if they were

    def after(
        self, state: int, ids: Sequence[int], now: float, scores: tuple[array[float], array[int]] | None
    ) -> Session:
        """This session when it has consumed `ids` and stands at `state`."""
        recent = self.recent
        if ids:
            added = array(self.typecode, ids[-WORDS_KEPT:])
            recent = (recent + added.tobytes())[-WORDS_KEPT * added.itemsize :]
        return Session(
            self.id,
            state,
            self.position + len(ids),
            self.revision + 1,
            self.typecode,
            recent,
            self.created_at,
            now + self.ttl,
            self.ttl,
            self.long_lived,
            scores,
            self.owner,
        )

    @property
    def words(self) -> array[int]:
        """The ids of the last words."""
        return array(self.typecode, self.recent)

    def is_retry(self, ids: Sequence[int], position: int | None) -> bool:
        """Whether these words, said to begin at `position`, are the ones consumed last: then they must not count again.

        False means that they come next. Raises `PositionConflictError` when they are neither.
        """
        if position is None or position == self.position:
            return False
        if position > self.position:
            raise PositionConflictError(f"the session is at {self.position}, not yet at {position}", self.position)
        count = self.position - position
        words = self.words
        if count > len(words):
            raise PositionConflictError(
                f"the session is at {self.position} and keeps its last {len(words)} words only, "
                f"so it cannot tell whether this request repeats what came after {position}",
                self.position,
            )
        if count != len(ids) or words[-count:] != array(self.typecode, ids):
            raise PositionConflictError(
                f"the session is at {self.position}, and consumed other words after {position}", self.position
            )
        return True


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
