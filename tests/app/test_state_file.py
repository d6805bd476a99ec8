"""The file that a session is carried in: what goes in comes out, and what is wrong in any way is refused."""

from __future__ import annotations

import hashlib
import json
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.state_file import MAGIC, CacheFile, StateFile, StateFileError, decode, encode, largest
from model.adaptation import Adaptation

STATE = np.linspace(-1, 1, 11, dtype="<f4").tobytes()


def file(**changes: Any) -> StateFile:
    fields: dict[str, Any] = {
        "model": "fake@0123456789ab",
        "position": 9,
        "words": array("H", [5, 6, 65_535, 0]),
        "state": STATE,
        "marks": ((5, STATE[::-1][:44]), (7, bytes(44))),
        "created_at": 1_800_000_000.25,
        "ttl": 1800.0,
        "generated": bytes(range(24)),
    }
    return StateFile(**{**fields, **changes})


def sealed(body: bytes) -> bytes:
    """With a digest that fits: made up, not damaged."""
    return body + hashlib.blake2b(body, digest_size=32, person=b"nextword-state").digest()


def reworded(**changes: Any) -> bytes:
    """A file with other things in its header, and a digest that fits."""
    body = encode(file(marks=()))[:-32]
    length = int.from_bytes(body[16:20], "little")
    header = {**json.loads(body[20 : 20 + length]), **changes}
    raw = json.dumps({name: value for name, value in header.items() if value is not ...}).encode()
    return sealed(MAGIC + len(raw).to_bytes(4, "little") + raw + body[20 + length :])


words = st.one_of(
    st.lists(st.integers(0, 2**16 - 1), max_size=40).map(lambda ids: array("H", ids)),
    st.lists(st.integers(0, 2**32 - 1), max_size=40).map(lambda ids: array("I", ids)),
)
states = st.lists(st.floats(-(2.0**24), 2.0**24, width=32), min_size=3, max_size=3).map(
    lambda values: np.array(values, dtype="<f4").tobytes()
)


@given(words, st.integers(0, 2**40), states, st.lists(states, max_size=3), st.binary(max_size=64), st.data())
def test_round_trip(
    ids: array[int], before: int, state: bytes, marks: list[bytes], generated: bytes, data: st.DataObject
) -> None:
    places = data.draw(
        st.lists(st.integers(before, before + len(ids)), unique=True, max_size=len(marks)).map(sorted), label="places"
    )
    one = file(
        position=before + len(ids),
        words=ids,
        state=state,
        marks=tuple(zip(places, marks, strict=False)),
        generated=generated,
    )
    content = encode(one)
    assert decode(content) == one
    assert len(content) <= largest(len(ids), len(state), 0)


def test_the_format_is_fixed() -> None:
    content = encode(file(marks=(), words=array("H", [5])))
    assert content[:16] == b"nextword state 1"
    length = int.from_bytes(content[16:20], "little")
    assert json.loads(content[20 : 20 + length])["model"] == "fake@0123456789ab"
    assert content[20 + length : -32] == b"\x05\x00" + STATE


@pytest.mark.parametrize("place", range(0, len(encode(file())), 7))
def test_every_altered_byte_is_noticed(place: int) -> None:
    content = bytearray(encode(file()))
    content[place] ^= 0x20
    with pytest.raises(StateFileError):
        decode(bytes(content))


@given(st.integers(0, len(encode(file())) - 1))
def test_every_truncation_is_noticed(length: int) -> None:
    with pytest.raises(StateFileError):
        decode(encode(file())[:length])


@given(st.binary(max_size=300))
def test_anything_else_is_refused(content: bytes) -> None:
    for attempt in (content, MAGIC + content, sealed(MAGIC + content)):
        with pytest.raises(StateFileError):
            decode(attempt)


def test_more_than_a_file_is_refused() -> None:
    with pytest.raises(StateFileError, match="checksum"):
        decode(encode(file()) + b"\0")
    with pytest.raises(StateFileError, match="bytes where its header says"):
        decode(sealed(encode(file())[:-32] + b"\0"))


def test_another_version_is_named() -> None:
    with pytest.raises(StateFileError, match="version 3, and this server reads versions 1 and 2"):
        decode(b"nextword state 3" + encode(file())[16:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ...}, "model: Field required"),
        ({"model": ""}, "model"),
        ({"position": -1}, "position"),
        ({"position": "9"}, "position"),
        ({"position": 2**60}, "position"),
        ({"position": 2**52 + 1}, "none comes beyond"),
        ({"position": 3}, "contradicts itself"),
        ({"words": 2**31}, "bytes where its header says"),
        ({"words": 3}, "bytes where its header says"),
        ({"width": 4}, "bytes where its header says"),
        ({"width": 3}, "width"),
        ({"state_bytes": 40}, "bytes where its header says"),
        ({"state_bytes": 0}, "state_bytes"),
        ({"marks": [5]}, "bytes where its header says"),
        ({"marks": list(range(100))}, "marks"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": 1e300}, "ttl"),
        ({"created_at": None}, "created_at"),
        ({"generated": "zz"}, "generated"),
        ({"owner": "me"}, "owner"),
        ({"cache": {"size": 4, "theta": 0.5, "weight": 0.1, "pairs": 0, "bytes": 0}}, "version 2 has a cache"),
    ],
)
def test_header_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    assert decode(reworded()) == file(marks=())
    with pytest.raises(StateFileError, match=message):
        decode(reworded(**changes))


ADAPTING = CacheFile(Adaptation(500, 0.25, 0.125), 3, bytes(range(42)))


def test_a_session_that_adapts_is_another_version() -> None:
    one = file(marks=((5, STATE),), cache=ADAPTING)
    content = encode(one)
    assert content[:16] == b"nextword state 2"
    assert content[-32 - 42 : -32] == bytes(range(42))
    assert decode(content) == one
    plain, length = content[:-32], int.from_bytes(content[16:20], "little")
    with pytest.raises(StateFileError, match="version 1 has none"):
        decode(sealed(MAGIC + plain[16:]))
    header = json.loads(plain[20 : 20 + length])
    for name, wrong in (("size", 0), ("theta", 0), ("weight", 1), ("pairs", -1), ("bytes", 2**40), ("bytes", 41)):
        raw = json.dumps({**header, "cache": {**header["cache"], name: wrong}}).encode()
        with pytest.raises(StateFileError, match=rf"cache\.{name}|bytes where its header says"):
            decode(sealed(plain[:16] + len(raw).to_bytes(4, "little") + raw + plain[20 + length :]))


@pytest.mark.parametrize("places", [(5, 5), (7, 5), (4,), (10,)])
def test_marks_that_cannot_be(places: tuple[int, ...]) -> None:
    with pytest.raises(StateFileError, match="contradicts itself"):
        decode(encode(file(marks=tuple((place, STATE) for place in places))))


def test_header_that_is_too_long() -> None:
    raw = b" " * 5000 + b"{}"
    with pytest.raises(StateFileError, match="longer than it can be"):
        decode(sealed(MAGIC + len(raw).to_bytes(4, "little") + raw))
    with pytest.raises(StateFileError, match="longer than it can be"):
        decode(sealed(MAGIC + b"\xff\xff\xff\xff" + b"{}"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38, -(2.0**25)])
def test_value_that_no_state_has(value: float) -> None:
    broken = np.array([0.0] * 10 + [value], dtype="<f4").tobytes()
    for changes in ({"state": broken}, {"marks": ((6, broken),)}):
        with pytest.raises(StateFileError, match="no state has"):
            decode(encode(file(**changes)))
