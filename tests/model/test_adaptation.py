from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import adaptation
from model.adaptation import MARGIN, OFFSETS, Adaptation, Cache, packed_bytes
from model.products import BLOCK, keys_of, offsets_of

H = 3


def pair(number: int) -> tuple[np.ndarray, int]:
    """The `number`th pair of a sequence: a key (H,) and a word, of which there are few."""
    return np.random.default_rng(number).integers(-127, 128, H).astype(np.int8), number * number % 7


def after(cache: Cache, numbers: range | list[int]) -> Cache:
    for number in numbers:
        cache = cache.after(*pair(number))
    return cache


def check(cache: Cache, numbers: list[int]) -> None:
    """The cache holds the last of these pairs, and no others."""
    kept = numbers[-cache.adaptation.size :]
    assert len(cache) == len(kept)
    assert cache.words[cache.numbers].tolist() == [pair(number)[1] for number in kept]
    assert len(set(cache.words.tolist())) == len(cache.words)
    expected = np.array([pair(number)[0] for number in kept], np.int8).reshape(-1, H)
    np.testing.assert_array_equal(cache.keys.reshape(-1, H), expected)


@pytest.mark.parametrize("size", [1, 2, 30, 500])
def test_it_is_the_last_pairs(size: int) -> None:
    cache = Cache(Adaptation(size))
    for count in range(800):
        if count % 37 == 0 or count > 795:
            check(cache, list(range(count)))
        cache = cache.after(*pair(count))


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["after", "back", "file"])), max_size=60), st.data())
@settings(max_examples=150, deadline=None)
def test_each_is_a_value_wherever_others_go_from_it(steps: list[tuple[int, str]], data: st.DataObject) -> None:
    known = [(Cache(Adaptation(5)), list[int]())]
    for number, (count, what) in enumerate(steps):
        cache, numbers = data.draw(st.sampled_from(known))
        if what == "after":
            new = list(range(100 * number, 100 * number + count))
            known.append((after(cache, new), numbers + new))
        elif what == "back":
            earlier = cache.back(count)
            assert (earlier is None) == (count > cache.reach)
            if earlier is not None:
                known.append((earlier, numbers[: len(numbers) - count]))
        else:
            content = cache.pack()
            assert len(content) == packed_bytes(len(cache), H)
            read = Cache.unpack(cache.adaptation, content, count=len(cache), width=H, position=len(numbers))
            assert read.pack() == content
            known.append((read, numbers))
        for cache, numbers in known:
            check(cache, numbers)


def test_it_goes_back_to_the_first_word_while_that_is_at_hand_and_some_words_always() -> None:
    cache = after(Cache(Adaptation(10)), range(10 + MARGIN))
    assert cache.reach == 10 + MARGIN
    for count in range(10 + MARGIN, 1000):
        cache = cache.after(*pair(count))
        assert cache.reach >= MARGIN
        earlier = cache.back(MARGIN)
        assert earlier is not None
        assert len(earlier) == 10
    assert cache.back(1000 - 9) is None


def test_its_memory_is_bounded_and_short_sequences_have_little() -> None:
    cache, one = Cache(Adaptation(500)), H + 12
    assert cache.nbytes == 0
    assert after(cache, range(20)).nbytes <= 32 * one
    assert after(cache, range(5000)).nbytes <= (500 + 2 * MARGIN + BLOCK) * one


def test_it_takes_as_much_memory_as_it_says() -> None:
    key = np.zeros(256, np.int8)
    tracemalloc.start()
    try:
        cache = Cache(Adaptation(500))
        for word in range(10_000):  # no word comes twice
            cache = cache.after(key, word)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.nbytes == pytest.approx(taken, rel=0.02)


def test_caches_that_come_from_each_other_share_their_pairs() -> None:
    cache = after(Cache(Adaptation(500)), range(400))
    on = cache.after(*pair(400))
    assert np.shares_memory(cache.blocks, on.blocks)
    assert not np.shares_memory(cache.after(*pair(401)).blocks, on.blocks)
    check(on, list(range(401)))


@pytest.mark.parametrize(
    "changes",
    [{"size": 0}, {"size": 4097}, {"theta": 0}, {"theta": -1}, {"theta": float("nan")}, {"weight": 0}, {"weight": 1}],
)
def test_what_is_out_of_range_is_refused_by_name(changes: dict[str, float]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"^{name} is "):
        Adaptation(**changes)  # type: ignore[arg-type]


def test_bytes_that_are_no_cache_are_refused() -> None:
    four = Adaptation(4)
    content = after(Cache(four), range(9)).pack()
    for count, position, given_bytes in (
        (3, 9, content),
        (4, 3, content),
        (4, 9, content[:-1]),
        (4, 9, content + b"0"),
    ):
        with pytest.raises(ValueError, match="pairs"):
            Cache.unpack(four, given_bytes, count=count, width=H, position=position)
    with pytest.raises(ValueError, match="the word 4294967295"):
        Cache.unpack(four, b"\xff" * 4 + content[4:], count=4, width=H, position=9)
    broken = content[:-1] + b"\x80"
    with pytest.raises(ValueError, match="below -127"):
        Cache.unpack(four, broken, count=4, width=H, position=9)


def test_many_move_on_as_each_alone_would() -> None:
    hidden = np.random.default_rng(0).uniform(-1, 1, (4, H)).astype(np.float32)
    caches = [after(Cache(Adaptation(5)), range(9)), None, Cache(Adaptation(2)), after(Cache(Adaptation(3)), range(2))]
    words = [4, 5, 6, 7]
    for cache, next_one, key, word in zip(
        caches, adaptation.after(caches, hidden, words), keys_of(hidden), words, strict=True
    ):
        if cache is None:
            assert next_one is None
        else:
            assert next_one is not None
            assert next_one.pack() == cache.after(key, word).pack()
            assert next_one.table[OFFSETS].tolist() == offsets_of(next_one.keys).tolist()
