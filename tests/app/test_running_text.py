"""Text that grows by a word at a time reads well, and as the same words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.running_text import WINDOW, RunningText
from model.tokenizer import Tokenizer

WORDS = [
    *("<unk>", "<eos>", "the", "cat", "sat", "well", "known", "U.S", "U.S.", "don't", "10", "1,000", "a", "s", "%"),
    *(
        "$",
        ".",
        ",",
        ":",
        "-",
        "/",
        '"',
        "'",
        "(",
        ")",
        "—",
        "...",
        "@",
        "com",
        "example.com",
        "www",
        "www.x.y",
        "http",
    ),
]
ENGLISH = Tokenizer.from_vocabulary(WORDS, "english")
SPLIT = Tokenizer.from_vocabulary(WORDS, "split")


def ids_of(words: list[str]) -> list[int]:
    return [WORDS.index(word) for word in words]


@pytest.mark.parametrize(
    ("before", "words", "text"),
    [
        ("", "the cat sat .", "the cat sat."),
        ("the", "cat", " cat"),
        ('the cat , "', "the cat", "the cat"),
        ('"', 'the " the " cat "', 'the" the "cat"'),
        (
            "",
            '" the cat sat the cat sat the cat sat the cat sat the cat "',
            '"the cat sat the cat sat the cat sat the cat sat the cat"',
        ),
        ("", "the well - known cat", "the well-known cat"),
        ("the well", "- known", "-known"),
        (
            "",
            "the cat sat the cat sat the cat sat the cat sat the well - known",
            "the cat sat the cat sat the cat sat the cat sat the well-known",
        ),
        ("the well", "- ( cat )", "- (cat)"),
        ("", "( the cat ) sat <eos> the cat", "(the cat) sat\nthe cat"),
        ("the U.S", ".", " ."),
    ],
)
def test_words_are_set_as_people_set_them(before: str, words: str, text: str) -> None:
    running = RunningText(ENGLISH, ids_of(before.split()))
    assert "".join(running.add(id) for id in ids_of(words.split())) == text


def test_a_blank_that_is_there_is_not_set_again() -> None:
    running = RunningText(ENGLISH, ids_of(["the"]), blank=True)
    assert [running.add(id) for id in ids_of(["cat", "sat"])] == ["cat", " sat"]


@given(st.lists(st.integers(1, len(WORDS) - 1), max_size=5 * WINDOW), st.integers(0, 5 * WINDOW))
def test_text_reads_back_as_the_words(ids: list[int], cut: int) -> None:
    """Wherever it begins to grow. Two line ends in a row would be one when read again, so there are none."""
    ids = [id for place, id in enumerate(ids) if id != 1 or ids[place - 1 : place] != [1]]
    for tokenizer in (ENGLISH, SPLIT):
        running = RunningText(tokenizer, ids[:cut])
        text = tokenizer.decode(ids[:cut]) + "".join(map(running.add, ids[cut:]))
        assert tokenizer.encode(text).ids.tolist() == ids
