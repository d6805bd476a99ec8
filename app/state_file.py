"""A session as one file, to keep or to carry to another server: the format, and nothing but it.

    16 bytes    magic, with the format's version
     4          length of the header, little-endian
                the header: JSON, `_Header`
                the last words, 2 or 4 bytes each (`width`), little-endian
                the states, float32, little-endian: the one after all words, then that of each mark
    32          BLAKE2b of all the bytes before

A file is believed in nothing: it is checked whole, and what it claims is compared with what it is, before anybody may
do anything with it. The digest tells files that were damaged, not files that were made up.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.sessions import MARKS, Session

MAGIC = b"nextword state 1"
_LENGTH_BYTES = 4
_DIGEST_BYTES = 32
_LARGEST_HEADER = 4096
_LARGEST_STATE = 1 << 24
#: A unit adds at most 1 to its cell a word, which a float32 of this size does not notice any more: no text leads
#: beyond it, and what is much larger overflows in the products of the next step.
_LARGEST_VALUE = float(1 << 24)

Position = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(gt=0, le=1e10, allow_inf_nan=False)]


class StateFileError(ValueError):
    """This is no such file, or it is damaged, or what it says cannot be; the message says which."""


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
        )


def largest(words: int, state_bytes: int) -> int:
    """How many bytes a file of so many words, and states of so many bytes, can have."""
    around = len(MAGIC) + _LENGTH_BYTES + _LARGEST_HEADER + _DIGEST_BYTES
    return around + 4 * words + (1 + MARKS) * state_bytes


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
    raw = header.model_dump_json().encode()
    states = [file.state, *(state for _, state in file.marks)]
    content = b"".join([MAGIC, len(raw).to_bytes(_LENGTH_BYTES, "little"), raw, _little(file.words).tobytes(), *states])
    return content + _digest(content)


def decode(content: bytes) -> StateFile:
    """What a file holds, every part of it checked except what only a model can tell.

    Raises:
        StateFileError: it is not whole, not of this format, or contradicts itself.
    """
    if content[: len(MAGIC) - 1] != MAGIC[:-1]:
        raise StateFileError("this is no nextword state file")
    if content[: len(MAGIC)] != MAGIC:
        version = content[len(MAGIC) - 1 : len(MAGIC)].decode("ascii", "replace")
        raise StateFileError(f"the state file is of version {version}, and this server reads version {chr(MAGIC[-1])}")
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
    ends = [end + header.words * header.width]
    ends += [ends[0] + count * header.state_bytes for count in range(1, len(header.marks) + 2)]
    if ends[-1] != len(body):
        raise StateFileError(f"the state file has {len(body)} bytes where its header says {ends[-1]}")
    first_word = header.position - header.words
    places = [first_word - 1, *header.marks, header.position + 1]
    if first_word < 0 or any(after <= before for before, after in pairwise(places)):
        raise StateFileError("the state file contradicts itself: its words and marks do not fit its position")
    states = [body[start:stop] for start, stop in pairwise(ends)]
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
    )


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, person=b"nextword-state").digest()


def _little(words: array[int]) -> array[int]:
    """From this machine's order of bytes to the file's, or back."""
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words
