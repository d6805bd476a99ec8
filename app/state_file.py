"""A session as one file, to keep or to carry to another server: the format, and nothing but it.

    16 bytes    magic, with the format's version
     4          length of the header, little-endian
                the header: JSON, `_Header`
                the last words, 2 or 4 bytes each (`width`), little-endian
                the states, float32, little-endian: the one after all words, then that of each mark
                of a session that adapts, the pairs of its cache as `model.adaptation.Cache.pack` gives them
    32          BLAKE2b of all the bytes before

Version 1 has no cache, version 2 has one.

A file is believed in nothing: it is checked whole, and what it claims is compared with what it is, before anybody may
do anything with it. The digest tells files that were damaged, not files that were made up.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.sessions import MARKS, Session
from model.adaptation import MOST_PAIRS, MOST_THETA, Adaptation, Cache

MAGIC, ADAPTING_MAGIC = b"nextword state 1", b"nextword state 2"
_LENGTH_BYTES = 4
_DIGEST_BYTES = 32
_LARGEST_HEADER = 4096
_LARGEST_STATE = 1 << 24
#: A unit adds at most 1 to its cell a word, which a float32 of this size does not notice any more: no text leads
#: beyond it, and what is much larger overflows in the products of the next step.
_LARGEST_VALUE = float(1 << 24)
_LARGEST_CACHE = 1 << 28

Position = Annotated[int, Field(ge=0, le=2**53)]
#: No session comes so far by itself. One that is brought goes on from there, so this is half of what a request or a
#: file can name: wherever it comes, it can be rewound and exported.
_FARTHEST = 2**52
Seconds = Annotated[float, Field(gt=0, le=1e10, allow_inf_nan=False)]


class StateFileError(ValueError):
    """This is no such file, or it is damaged, or what it says cannot be; the message says which."""


class _Cache(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size: int = Field(ge=1, le=MOST_PAIRS)
    theta: float = Field(gt=0, le=MOST_THETA)
    weight: float = Field(gt=0, lt=1)
    pairs: int = Field(ge=0, le=MOST_PAIRS)
    bytes: int = Field(ge=0, le=_LARGEST_CACHE)


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=256)
    position: Position
    words: int = Field(ge=0, le=2**32)
    width: Literal[2, 4]
    state_bytes: int = Field(ge=4, le=_LARGEST_STATE, multiple_of=4)
    marks: list[Position] = Field(max_length=MARKS)
    created_at: Seconds
    ttl: Seconds
    generated: str = Field(max_length=128, pattern="^([0-9a-f]{2})*$")
    cache: _Cache | None = None


@dataclass(frozen=True, slots=True)
class CacheFile:
    """How a session adapts, and so many pairs of its cache, as `Cache.pack` gives them."""

    adaptation: Adaptation
    pairs: int
    content: bytes

    @classmethod
    def of(cls, cache: Cache) -> CacheFile:
        """What there is to carry of a cache."""
        return cls(cache.adaptation, len(cache), cache.pack())


@dataclass(frozen=True, slots=True)
class StateFile:
    """What a file holds. `state` are the bytes of the state after all words, as `States.pack` gives them."""

    model: str
    position: int
    words: array[int]  # the last ones, by id
    state: bytes
    marks: tuple[tuple[int, bytes], ...]
    created_at: float  # seconds since 1970
    ttl: float
    generated: bytes
    cache: CacheFile | None = None

    @classmethod
    def of(cls, session: Session, model: str, state: bytes) -> StateFile:
        """What is worth carrying of a session: nothing that means something here only, nor whose it is."""
        return cls(
            model,
            session.position,
            session.words,
            state,
            session.marks,
            session.created_at,
            session.ttl,
            session.generated,
            None if session.cache is None else CacheFile.of(session.cache),
        )


def largest(words: int, state_bytes: int, cache_bytes: int) -> int:
    """How many bytes a file of so many words, states of so many bytes and such a cache can have."""
    around = len(MAGIC) + _LENGTH_BYTES + _LARGEST_HEADER + _DIGEST_BYTES
    return around + 4 * words + (1 + MARKS) * state_bytes + cache_bytes


def encode(file: StateFile) -> bytes:
    """The bytes of a file."""
    header = _Header(
        model=file.model,
        position=file.position,
        words=len(file.words),
        width=2 if file.words.itemsize == 2 else 4,
        state_bytes=len(file.state),
        marks=[position for position, _ in file.marks],
        created_at=file.created_at,
        ttl=file.ttl,
        generated=file.generated.hex(),
    )
    parts = [_little(file.words).tobytes(), file.state, *(state for _, state in file.marks)]
    magic, cache = MAGIC, file.cache
    if cache is not None:
        magic = ADAPTING_MAGIC
        header.cache = _Cache(**asdict(cache.adaptation), pairs=cache.pairs, bytes=len(cache.content))
        parts.append(cache.content)
    raw = header.model_dump_json(exclude_none=True).encode()
    content = b"".join([magic, len(raw).to_bytes(_LENGTH_BYTES, "little"), raw, *parts])
    return content + _digest(content)


def decode(content: bytes) -> StateFile:
    """What a file holds, every part of it checked except what only a model can tell.

    Raises:
        StateFileError: it is not whole, not of this format, or contradicts itself.
    """
    if content[: len(MAGIC) - 1] != MAGIC[:-1]:
        raise StateFileError("this is no nextword state file")
    if content[: len(MAGIC)] not in (MAGIC, ADAPTING_MAGIC):
        version = content[len(MAGIC) - 1 : len(MAGIC)].decode("ascii", "replace")
        raise StateFileError(f"the state file is of version {version}, and this server reads versions 1 and 2")
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    begin = len(MAGIC) + _LENGTH_BYTES
    if len(body) < begin or _digest(body) != digest:
        raise StateFileError("the state file was truncated or altered: its checksum is wrong")
    end = begin + int.from_bytes(body[len(MAGIC) : begin], "little")
    if end > min(len(body), begin + _LARGEST_HEADER):
        raise StateFileError("the header of the state file is longer than it can be")
    try:
        header = _Header.model_validate_json(body[begin:end])
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "header"
        raise StateFileError(f"the header of the state file is wrong: {where}: {first['msg']}") from None
    if (header.cache is not None) != content.startswith(ADAPTING_MAGIC):
        raise StateFileError("the state file contradicts itself: version 2 has a cache, and version 1 has none")
    ends = [end + header.words * header.width]
    ends += [ends[0] + count * header.state_bytes for count in range(1, len(header.marks) + 2)]
    if header.cache is not None:
        ends.append(ends[-1] + header.cache.bytes)
    if ends[-1] != len(body):
        raise StateFileError(f"the state file has {len(body)} bytes where its header says {ends[-1]}")
    if header.position > _FARTHEST:
        raise StateFileError(f"the state file is of a session at {header.position}, and none comes beyond {_FARTHEST}")
    first_word = header.position - header.words
    places = [first_word - 1, *header.marks, header.position + 1]
    if first_word < 0 or any(after <= before for before, after in pairwise(places)):
        raise StateFileError("the state file contradicts itself: its words and marks do not fit its position")
    states = [body[start:stop] for start, stop in pairwise(ends)]
    about, cache = header.cache, None
    if about is not None:
        cache = CacheFile(Adaptation(about.size, about.theta, about.weight), about.pairs, states.pop())
    if not all((np.abs(np.frombuffer(state, dtype="<f4")) <= _LARGEST_VALUE).all() for state in states):
        raise StateFileError("the state file holds values that no state has")
    return StateFile(
        header.model,
        header.position,
        _little(array("H" if header.width == 2 else "I", body[end : ends[0]])),
        states[0],
        tuple(zip(header.marks, states[1:], strict=True)),
        header.created_at,
        header.ttl,
        bytes.fromhex(header.generated),
        cache,
    )


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, person=b"nextword-state").digest()


def _little(words: array[int]) -> array[int]:
    """From this machine's order of bytes to the file's, or back."""
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words
