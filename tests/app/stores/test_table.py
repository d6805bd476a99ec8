"""The table of the sessions in memory against a dictionary, and sessions as its records."""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import app.stores.table
from app.sessions import Session
from app.slots import Slots
from app.stores import packed
from app.stores.cells import SIZES, Cells
from app.stores.table import Table

ROOM = 300
AT = 3

#: About the sizes at which a record moves into another kind of cell.
_sizes = st.one_of(st.integers(0, 40), st.sampled_from([size + by for size in SIZES for by in (-9, -8, -7, -6, -5)]))
_names = st.integers(0, 2 * ROOM).map(lambda number: b"%04d" % number)


class AgainstADictionary(RuleBasedStateMachine):
    """Every step on a table and on a dictionary in the order of use."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(ROOM, name_at=AT)
        self.model: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def put(self, name: bytes, size: int, until: float) -> None:
        record = bytes([size % 251]) * AT + name + bytes([size % 249]) * size
        row, known = self.table.find(name)
        assert (known if row else None) == self.model.get(name, (None, 0.0))[0]
        if row:
            self.table.use(row, record, until)
        elif len(self.model) < ROOM:
            self.table.add(name, record, until)
        else:
            return
        self.model[name] = record, until
        self.model.move_to_end(name)

    @rule(name=_names, size=_sizes, until=st.integers(0, 9))
    def put_one(self, name: bytes, size: int, until: int) -> None:
        self.put(name, size, until)

    @rule(first=st.integers(0, 2 * ROOM), count=st.integers(0, ROOM), size=_sizes, until=st.integers(0, 9))
    def put_many(self, first: int, count: int, size: int, until: int) -> None:
        for number in range(first, first + count):
            self.put(b"%04d" % number, size, until)

    @rule(name=_names)
    def remove_one(self, name: bytes) -> None:
        row, _ = self.table.find(name)
        assert (row != 0) == (name in self.model)
        if row:
            self.table.remove(row)
            del self.model[name]

    @rule(now=st.integers(-1, 9))
    def remove_what_is_over(self, now: int) -> None:
        rows = self.table.over(now).tolist()
        assert sorted(self.table.record(row) for row in rows) == sorted(
            record for record, until in self.model.values() if until <= now
        )
        for row in rows:
            assert self.table.is_over(row, now)
            self.table.remove(row)
            assert not self.table.is_over(row, now)
        self.model = OrderedDict((name, kept) for name, kept in self.model.items() if kept[1] > now)

    @precondition(lambda self: self.model)
    @rule()
    def remove_all_but_the_last(self) -> None:
        for row in list(self.table)[:-1]:
            self.table.remove(row)
        while len(self.model) > 1:
            self.model.popitem(last=False)

    @rule()
    def trim(self) -> None:
        self.table.trim()

    @invariant()
    def the_same(self) -> None:
        assert len(self.table) == len(self.model)
        assert [self.table.record(row) for row in self.table] == [record for record, _ in self.model.values()]


AgainstADictionary.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAgainstADictionary = AgainstADictionary.TestCase


def test_names_with_the_same_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.stores.table, "hash", lambda _: 7, raising=False)
    table = Table(9, name_at=0)
    rows = {name: table.add(name, name + b" and more", 1.0) for name in (b"ab", b"ac", b"ad", b"b")}
    assert {name: table.find(name)[0] for name in rows} == rows
    table.remove(rows.pop(b"ac"))
    assert table.find(b"ac") == table.find(b"x") == (0, b"")
    assert {name: table.find(name)[0] for name in rows} == rows


@given(st.lists(st.one_of(st.just(0), st.integers(1, 12)), max_size=80))
def test_slots_are_low_ones_and_nobody_elses(steps: list[int]) -> None:
    slots, taken = Slots(8), set[int]()
    for step in steps:
        if step in taken:
            taken.remove(step)
            slots.free(step)
        elif step:
            slot = slots.take()
            assert (slot == 0) == (len(taken) == 8)
            assert slot not in taken
            taken |= {slot} - {0}
        else:
            free = slots.trim().tolist()
            assert free == sorted(set(free) - taken)
            assert slots.end == max(taken, default=0) + 1
            slot = slots.take()
            assert slot == min({*range(1, 9)} - taken, default=0)
            taken |= {slot} - {0}
        assert len(slots) == len(taken)


def test_what_is_small_is_no_object() -> None:
    cells = Cells(2000)
    contents = [bytes([number % 256]) * (3 * number % (SIZES[-1] - 1)) for number in range(2000)]
    before = sys.getallocatedblocks()
    numbers = array("q", (cells.put(content) for content in contents))
    assert sys.getallocatedblocks() - before < 100
    assert [cells.get(number) for number in numbers] == contents


def test_no_more_contents_than_there_is_room_for() -> None:
    cells = Cells(2)
    first, second = cells.put(b"one"), cells.put(b"two")
    with pytest.raises(IndexError):
        cells.put(b"three")
    assert (cells.get(first), cells.get(second), cells.put(b"three", first)) == (b"one", b"two", first)


_floats = st.floats(allow_nan=False)
_sessions = st.builds(
    Session,
    id=st.text(max_size=40),
    state=st.integers(0, 2**40),
    position=st.integers(0, 2**50),
    revision=st.integers(0, 2**63 - 1),
    typecode=st.sampled_from("HI"),
    recent=st.binary(max_size=700),
    created_at=_floats,
    expires_at=_floats,
    ttl=_floats,
    scores=st.none()
    | st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.integers(1, 2**32 - 1)), max_size=5).map(
        lambda pairs: (array("f", [pair[0] for pair in pairs]), array("I", [pair[1] for pair in pairs]))
    ),
    owner=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    generated=st.binary(max_size=20),
    marks=st.lists(st.tuples(st.integers(0, 2**50), st.binary(max_size=50)), max_size=8).map(tuple),
    family=st.binary(max_size=16),
    cache=st.none(),
)


@given(_sessions)
def test_packed_session_is_the_session(session: Session) -> None:
    name = packed.name_of(session.id)
    content = packed.pack(session)
    assert content.startswith(name, packed.NAME_AT)
    assert packed.id_of(content) == session.id
    again = packed.unpack(session.id, content, None)
    assert {field.name: getattr(again, field.name) for field in fields(Session)} == {
        field.name: getattr(session, field.name) for field in fields(Session)
    }
