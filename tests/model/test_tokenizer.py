"""Words, ids and offsets: what a word is, that ids come back from their text, and that no text does harm."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model import tokenizer as module
from model.tokenizer import END, POLICIES, UNKNOWN, Tokenizer, TokenizerError, words_of

# Words that are likely to run together, to be split, or to be changed by the normaliser when they are set as text.
# fmt: off
AWKWARD = [
    ".", ",", "!", "?", ";", ":", "(", ")", "[", "]", "{", "}", "'", '"', "-", "/", "—", "...", "%", "$", "#", "@",
    "&", "*", "_", "~", "+", "=", "<", ">", "|", "^", "`", "\\", "°", "™", "£", "a", "A", "I", "x", "s", "t", "don't",
    "o'clock", "rock'n'roll", "U.S.", "U.S", "p.m.", "e.g", "Mr", "1", "2", "10", "1,000.50", "10:30", "3.14", "v1.2",
    "18F", "www", "http", "https", "com", "https://x.org/a_b?c=d", "www.foo.com", "bob.x@y.co.uk",
    "digital.gov/about", "example.com", "you", "bicycle", "London", "paris", "NASA", "NBC", "é", "école", "日本", "½",
    "𝒳", "ß", "ŉ", "ـ", "\u0301", "🙂", "\U0001f44d\U0001f3fd",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea", "\U0001f1e9",
    "\u2764\ufe0f", "\u2764", "1\ufe0f\u20e3", "#\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "\U0001f3fd", "\ufffd",
]
# fmt: on
ENGLISH = Tokenizer.from_vocabulary([UNKNOWN, END, *AWKWARD], "english")
SPLIT = Tokenizer.from_vocabulary([UNKNOWN, END, *AWKWARD, "@-@", "well-known", "'s", "“"], "split")

UNHURRIED = settings(deadline=None)  # the machine may be busy with other things

#: Any str at all: lone surrogates, NUL, marks and format characters are more frequent than in `st.text()`.
anything = st.lists(
    st.one_of(
        st.sampled_from(
            [*AWKWARD, "\n", "\r\n", "\u2028", " ", "\t", "\xa0", "\x00", "\x1c", "…", "’", "“", "–", "--", ".."]
        ),
        st.sampled_from(
            ["\ud83d", "\udc00", "\u200d", "\ufe0f", "\u0301", "\u0327", "\xad", "\ufeff", "\u200b", "\ue000"]
        ),
        st.characters(),
        st.text(alphabet="ab.-'/:@w0,", max_size=12),
    ),
    max_size=30,
).map("".join)


def spans(tokenizer: Tokenizer, text: str) -> list[str]:
    encoding = tokenizer.encode(text)
    return [text[start:end] for start, end in zip(encoding.starts, encoding.ends, strict=True)]


def readable(text: str) -> str:
    """As the tokenizer reads it: every lone surrogate is a U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


# --- What a word is ---------------------------------------------------------------------------------------------------

ENGLISH_EXAMPLES = [
    # text, words as typed, words as the vocabulary holds them (None: as typed)
    ("The cat sat.", "The|cat|sat|.", None),
    ("don't it's o'clock rock'n'roll", "don't|it's|o'clock|rock'n'roll", None),
    ("don’t O’Brien’s", "don’t|O’Brien’s", "don't|O'Brien's"),
    ("'tis the dogs' 'quoted' ''", "'|tis|the|dogs|'|'|quoted|'|'|'", None),
    ("“Yes,” she ‘said’.", "“|Yes|,|”|she|‘|said|’|.", "\"|Yes|,|\"|she|'|said|'|."),
    ("well-known co-op", "well|-|known|co|-|op", None),
    ("wait… what...ever .. ....", "wait|…|what|...|ever|..|....", "wait|...|what|...|ever|...|..."),
    ("no -- yes—ok–then --- a—-b", "no|--|yes|—|ok|–|then|---|a|—-|b", "no|—|yes|—|ok|—|then|—|a|—|b"),
    ("Really?! No!!!", "Really|?|!|No|!|!|!", None),
    ("1,000.50 at 10:30, 3.14. 1. .5 1,,2", "1,000.50|at|10:30|,|3.14|.|1|.|.|5|1|,|,|2", None),
    ("18F 20th 1950s v1.2 x2", "18F|20th|1950s|v1.2|x2", None),
    ("$5.99 50% #1 C++ AT&T", "$|5.99|50|%|#|1|C|+|+|AT|&|T", None),
    ("the U.S. and the U.S.A., 5 p.m. J.K. Rowling", "the|U.S.|and|the|U.S.A.|,|5|p.m.|J.K.|Rowling", None),
    ("the U.S.'s e.g.: I.", "the|U.S.'s|e.g.|:|I|.", None),
    ("end.Start a.bc", "end|.|Start|a|.|bc", None),
    ("see https://x.org/a_b?c=d(e). ok", "see|https://x.org/a_b?c=d(e|)|.|ok", None),
    ("HTTP://A.B/c, (www.foo.com)", "HTTP://A.B/c|,|(|www.foo.com|)", None),
    ("http:// www. http", "http|:|/|/|www|.|http", None),
    ("bob.x+y@mail.co.uk. @bob a@b", "bob.x+y@mail.co.uk|.|@|bob|a|@|b", None),
    (
        "digital.gov/about! my-site.org. node.js foo.comic",
        "digital.gov/about|!|my-site.org|.|node|.|js|foo|.|comic",
        None,
    ),
    ("hi🙂🙂 👍🏽!", "hi|🙂|🙂|👍🏽|!", None),
    ("👩‍👩‍👧‍👦🇩🇪🇬🇧❤️1️⃣#️⃣🏴󠁧󠁢󠁥󠁮󠁧󠁿", "👩‍👩‍👧‍👦|🇩🇪|🇬🇧|❤️|1️⃣|#️⃣|🏴󠁧󠁢󠁥󠁮󠁧󠁿", None),
    ("e\u0301cole q\u0303 𝒳y", "e\u0301cole|q\u0303|𝒳y", "école|q\u0303|𝒳y"),
    ("co\xadop\ufeff a\u200bb", "co\xadop|a\u200bb", "coop|ab"),
    ("a\x00b\x07 \u202ec", "a|b|c", None),
    ("<unk> <eos>", "<|unk|>|<|eos|>", None),
    ("a\n\nb\r\nc", "a|\n|b|\n|c", "a|<eos>|b|<eos>|c"),
    ("\n a \n \x00\t\r\n\n", "\n|a|\n", "<eos>|a|<eos>"),
    ("a\u2028b\x0bc\x85d", "a|\u2028|b|\x0b|c|\x85|d", "a|<eos>|b|<eos>|c|<eos>|d"),
    ("a\n\U0001f0ff\nb", "a|\n|\U0001f0ff|\n|b", "a|<eos>|\U0001f0ff|<eos>|b"),  # set aside for an emoji to come
    ("a\xa0b\u3000c\td", "a|b|c|d", None),
    ("\ud83d x\udc00y", "\ud83d|x|\udc00|y", "\ufffd|x|\ufffd|y"),
    ("日本語。 Ελλάδα", "日本語|。|Ελλάδα", None),
    ("", "", None),
    (" \t ", "", None),
]


@pytest.mark.parametrize(("text", "typed", "words"), ENGLISH_EXAMPLES)
def test_english_words(text: str, typed: str, words: str | None) -> None:
    expected = [word for word in (typed if words is None else words).split("|") if word]
    assert words_of(text, "english") == expected
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, END, *sorted(set(expected) - {END})], "english")
    assert [tokenizer.word_of(id) for id in tokenizer.encode(text).ids] == expected
    assert spans(tokenizer, text) == [word for word in typed.split("|") if word]
    # Words that are all unknown stand in the same places.
    assert spans(Tokenizer.from_vocabulary([UNKNOWN, END], "english"), text) == spans(tokenizer, text)


SPLIT_EXAMPLES = [
    (" = Valkyria Chronicles III = \n", "=|Valkyria|Chronicles|III|=|<eos>"),
    (" \n = = Gameplay = = \n \n", "<eos>|=|=|Gameplay|=|=|<eos>|<eos>"),
    (" a role @-@ playing game , 1 @,@ 000 \n", "a|role|@-@|playing|game|,|1|@,@|000|<eos>"),
    (" The <unk> Raven 's \" May 'n \" . \n", "The|<unk>|Raven|'s|\"|May|'n|\"|.|<eos>"),
    ("Don’t “touch” ANYTHING… well-known", "Don’t|“touch”|ANYTHING…|well-known"),
    ("a\r\nb\xa0c\x1cd\u2028e\x85f", "a|<eos>|b|c|d|e|f"),
    ("e\u0301 \ud800", "e\u0301|\ufffd"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "words"), SPLIT_EXAMPLES)
def test_split_words(text: str, words: str) -> None:
    expected = [word for word in words.split("|") if word]
    assert words_of(text, "split") == expected
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, END, *sorted(set(expected) - {UNKNOWN, END})], "split")
    assert [tokenizer.word_of(id) for id in tokenizer.encode(text).ids] == expected


@UNHURRIED
@given(anything)
def test_split_counts_as_the_benchmark_does(text: str) -> None:
    # The figures of the literature come from `line.split() + ["<eos>"]` for every line of the file.
    *lines, last = readable(text).split("\n")
    expected = [word for line in lines for word in [*line.split(), END]] + last.split()
    assert words_of(text, "split") == expected


def test_typed_special_words_stay_ordinary() -> None:
    english = Tokenizer.from_vocabulary([UNKNOWN, END, "<", ">", "unk", "eos"], "english")
    assert [english.word_of(id) for id in english.encode("<unk><eos>").ids] == ["<", "unk", ">", "<", "eos", ">"]
    split = Tokenizer.from_vocabulary([UNKNOWN, END], "split")
    assert split.encode("<unk> <eos>").ids.tolist() == [split.unknown_id, split.unknown_id]


def test_case_is_tried_as_typed_then_low_then_capitalised() -> None:
    words = [UNKNOWN, "bicycle", "London", "polish", "Polish", "NASA", "don't"]
    tokenizer = Tokenizer.from_vocabulary(words, "english")

    def found(text: str) -> list[str]:
        return [tokenizer.word_of(id) for id in tokenizer.encode(text).ids]

    assert found("Bicycle BICYCLE bicycle") == ["bicycle"] * 3
    assert found("london LONDON lONDON") == ["London"] * 3
    assert found("polish Polish POLISH") == ["polish", "Polish", "polish"]
    assert found("NASA nasa Nasa") == ["NASA", UNKNOWN, UNKNOWN]
    assert found("DON’T Don't") == ["don't", "don't"]
    split = Tokenizer.from_vocabulary(words, "split")
    assert split.encode("Bicycle london").ids.tolist() == [0, 0]


def test_without_end_of_line_in_the_vocabulary_a_line_end_is_white_space() -> None:
    for policy in POLICIES:
        tokenizer = Tokenizer.from_vocabulary([UNKNOWN, "1", "2"], policy)
        assert tokenizer.end_id is None
        assert tokenizer.encode("1\n2\n\n1").ids.tolist() == [1, 2, 1]
        assert tokenizer.decode([1, 2]) == "1 2"


# --- Any text, any ids ------------------------------------------------------------------------------------------------


@UNHURRIED
@given(anything)
@example("\r\r\n \n")
@example("e\u200b\u0301")
@example("\n\U0001f0ff\n")
def test_every_text_makes_a_vocabulary_that_reads_it(text: str) -> None:
    words = words_of(text, "english")
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, END, *sorted(set(words) - {END})], "english")
    encoding = tokenizer.encode(text)
    assert [tokenizer.word_of(id) for id in encoding.ids] == words
    assert (END, END) not in list(pairwise(words))
    assert encoding.ids.dtype == encoding.starts.dtype == encoding.ends.dtype == np.int64
    assert tokenizer.encode_batch([text, "", text])[2].tolist() == encoding.ids.tolist()


@pytest.mark.parametrize("tokenizer", [ENGLISH, SPLIT], ids=lambda tokenizer: str(tokenizer.policy))
@UNHURRIED
@given(text=anything)
def test_offsets_point_at_the_words_as_typed(tokenizer: Tokenizer, text: str) -> None:
    encoding = tokenizer.encode(text)
    place = 0
    for id, start, end in zip(encoding.ids, encoding.starts, encoding.ends, strict=True):
        assert place <= start < end <= len(text)
        place = end
        # The slice alone is that word again: offsets are right also where normalising changed the length.
        assert tokenizer.encode(text[start:end]).ids.tolist() == [id]
    assert len(encoding.ids) == len(words_of(text, tokenizer.policy))


@pytest.mark.parametrize("tokenizer", [ENGLISH, SPLIT], ids=lambda tokenizer: str(tokenizer.policy))
@UNHURRIED
@given(text=st.lists(anything, max_size=4).map("a ".join), part=st.integers(1, 20))
@example(text="a \n \n a\n \x00\n b 1 \u0301", part=1)
def test_long_texts_are_encoded_as_short_ones(tokenizer: Tokenizer, text: str, part: int) -> None:
    whole = tokenizer.encode(text)
    with patch.object(module, "_PART", part):
        parts = tokenizer.encode(text)
    assert parts.ids.tolist() == whole.ids.tolist()
    assert parts.starts.tolist() == whole.starts.tolist()
    assert parts.ends.tolist() == whole.ends.tolist()


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    known = [id for id in range(len(tokenizer)) if id != tokenizer.unknown_id]
    return st.lists(st.sampled_from(known), max_size=40)


@UNHURRIED
@given(ids_of(ENGLISH))
def test_english_ids_come_back_from_their_text(ids: list[int]) -> None:
    single = [id for i, id in enumerate(ids) if id != ENGLISH.end_id or ids[i + 1 : i + 2] != [id]]
    assert ENGLISH.encode(ENGLISH.decode(single)).ids.tolist() == single
    # Several ends of line in a row are read again as one.
    assert ENGLISH.encode(ENGLISH.decode(ids)).ids.tolist() == single


@UNHURRIED
@given(ids_of(SPLIT))
def test_split_ids_come_back_from_their_text(ids: list[int]) -> None:
    ids = [*ids, SPLIT.unknown_id, *ids]
    assert SPLIT.encode(SPLIT.decode(ids)).ids.tolist() == ids


@UNHURRIED
@given(anything, st.randoms(use_true_random=False))
def test_ids_come_back_with_any_vocabulary(text: str, chance: random.Random) -> None:
    words = sorted(set(words_of(text, "english")) - {END})
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, *words], "english")
    ids = [chance.randint(1, len(words)) for _ in range(30)] if words else []
    assert tokenizer.encode(tokenizer.decode(ids)).ids.tolist() == ids


def test_long_ids_come_back() -> None:
    chance = random.Random(1)
    ids = [chance.randint(1, len(ENGLISH) - 1) for _ in range(20_000)]
    ids = [id for i, id in enumerate(ids) if id != ENGLISH.end_id or ids[i + 1 : i + 2] != [id]]
    assert ENGLISH.encode(ENGLISH.decode(ids)).ids.tolist() == ids


def garbage(size: int) -> str:
    chance = random.Random(7)
    pools: list[Callable[[], str]] = [
        lambda: chr(chance.randrange(0x110000)),  # surrogates among them
        lambda: chr(chance.randrange(0x20)),
        lambda: chr(chance.randrange(0x7F)),
        lambda: chance.choice("\u0301\u200d\ufe0f\U0001f3fd\U0001f469.-'\n "),
    ]
    return "".join(chance.choice(pools)() for _ in range(size))


@pytest.mark.parametrize(
    "text",
    [
        garbage(50_000) * 8,
        "a" * 1_000_000,
        "." * 1_000_000,
        "--" * 500_000,
        "a.b@" * 100_000,
        "\n \x00" * 300_000,
        " " * 1_000_000,
        "http://!" * 100_000,
        "\u0301" * 500_000,
        "👩\u200d" * 200_000,
        "\ud800" * 200_000,
    ],
    ids=["noise", "letter", "stops", "hyphens", "mails", "lines", "blanks", "urls", "marks", "joiners", "surrogates"],
)
def test_a_megabyte_of_garbage(text: str) -> None:
    encoding = ENGLISH.encode(text)
    assert np.all(encoding.starts[1:] >= encoding.ends[:-1])
    assert np.all(encoding.starts < encoding.ends)
    assert encoding.ends[-1] <= len(text) if len(encoding.ids) else not text.strip()


def test_split_takes_garbage_too() -> None:
    text = garbage(100_000)
    encoding = SPLIT.encode(text)
    assert len(encoding.ids) == len(words_of(text, "split"))


def test_threads_share_one_tokenizer() -> None:
    texts = [f"U.S. {word} BICYCLE don’t {word}" * 20 for word in AWKWARD]
    expected = [ENGLISH.encode(text).ids.tolist() for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert [e.ids.tolist() for e in pool.map(ENGLISH.encode, texts * 3)] == expected * 3


# --- How text is set --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'He said, "Don\'t (ever) do that!" and left.',
        "Really?! No... It's 10:30, isn't it?",
        "A well-known and/or 5% tax; $5.99 each: #1.",
        "One line.\nAnother — the 'last' one.",
        '"Left open\n"quotes" begin anew',
        "In the U.S. it is 5 p.m. now.",
    ],
)
def test_decode_sets_text_as_people_do(text: str) -> None:
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, END, *sorted(set(words_of(text, "english")) - {END})], "english")
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["U.S", "."], "U.S ."),  # "U.S." would be one word
        (["I", ".", "a", "."], "I. a."),
        ([".", "..."], ". ..."),
        (["-", "-", "a"], "- - a"),
        (["1", ":", "2"], "1: 2"),
        (["@", "a"], "@a"),
        (["1", "@", "example.com"], "1 @example.com"),
        (["a", "/", "/", "a"], "a / / a"),
        (["🇩", "🇩"], "🇩 🇩"),
        (["a", UNKNOWN, "."], "a <unk>."),
        ([END, "a", END, END, "a"], "\na\n\na"),
        (["(", "a", ")", END, END, "a", "."], "(a)\n\na."),
        ([UNKNOWN], UNKNOWN),
        ([], ""),
    ],
)
def test_decode_keeps_apart_what_would_run_together(words: list[str], text: str) -> None:
    ids = [ENGLISH.id_of(word) for word in words]
    assert ENGLISH.decode([id for id in ids if id is not None]) == text


def test_an_unknown_word_spoils_only_its_own_place() -> None:
    words = ["(", "you", ")", UNKNOWN, "U.S", ".", "you", "."]
    assert ENGLISH.decode(ENGLISH.id_of(word) or 0 for word in words) == "(you) <unk> U.S . you."


def test_split_joins_with_blanks() -> None:
    words = ["a", "@-@", "1", UNKNOWN, END, END, "'s"]
    assert SPLIT.decode(SPLIT.id_of(word) or 0 for word in words) == "a @-@ 1 <unk>\n\n's"


@pytest.mark.parametrize("id", [-1, len(ENGLISH), 10**12])
def test_ids_out_of_range_are_named(id: int) -> None:
    for call in (lambda: ENGLISH.decode([2, id]), lambda: ENGLISH.word_of(id)):
        with pytest.raises(TokenizerError, match=f"no word has the id {id}: ids go from 0 to {len(ENGLISH) - 1}"):
            call()


def test_words_and_ids() -> None:
    assert ENGLISH.vocabulary[:2] == (UNKNOWN, END)
    assert (ENGLISH.unknown_id, ENGLISH.end_id) == (0, 1)
    assert [ENGLISH.id_of(word) for word in ENGLISH.vocabulary] == list(range(len(ENGLISH)))
    assert ENGLISH.id_of("Bicycle") is None
    assert ENGLISH.id_of("\n") is None
    elsewhere = Tokenizer.from_vocabulary(["a", END, UNKNOWN], "english")
    assert (elsewhere.unknown_id, elsewhere.end_id) == (2, 1)
    assert elsewhere.encode("a b\nA").ids.tolist() == [0, 2, 1, 0]


# --- Prefixes ---------------------------------------------------------------------------------------------------------

NAMES = Tokenizer.from_vocabulary(
    [
        UNKNOWN,
        END,
        "the",
        "The",
        "London",
        "long",
        "bicycle",
        "Long",
        "don't",
        "donut",
        "I",
        "it",
        "<",
        "...",
        "—",
        "é",
    ],
    "english",
)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("lon", ["London", "long"]),
        ("Lon", ["London", "Long"]),
        ("LON", ["London", "long"]),
        ("th", ["the"]),
        ("Th", ["The"]),
        ("bicycle", ["bicycle"]),
        ("Bic", ["bicycle"]),
        ("don’", ["don't"]),
        ("i", ["I", "it"]),
        ("I", ["I", "it"]),
        ("e\u0301", ["é"]),
        ("É", ["é"]),
        ("<", ["<"]),
        ("<unk", []),
        ("<eos>", []),
        ("\n", []),
        ("..", ["..."]),
        ("bicycles", []),
        (" lon", []),
        ("\ud800", []),
        ("x" * 1_000_000, []),
    ],
)
def test_prefixes_find_what_a_text_may_become(prefix: str, words: list[str]) -> None:
    ids = NAMES.prefix_ids(prefix)
    assert [NAMES.word_of(id) for id in ids] == words
    assert ids.dtype == np.int64


def test_the_empty_prefix_finds_all_but_the_special_words() -> None:
    assert NAMES.prefix_ids("").tolist() == list(range(2, len(NAMES)))


@UNHURRIED
@given(st.sampled_from(AWKWARD).flatmap(lambda word: st.integers(0, len(word)).map(lambda n: word[:n])) | anything)
@example("ß")
@example("İ")
def test_split_prefixes_equal_a_plain_search(prefix: str) -> None:
    expected = [id for id, word in enumerate(SPLIT.vocabulary) if word.startswith(readable(prefix)) and id > 1]
    assert SPLIT.prefix_ids(prefix).tolist() == expected


@UNHURRIED
@given(st.sampled_from(AWKWARD).flatmap(lambda w: st.integers(1, len(w)).map(lambda n: w[:n])), st.sampled_from("lus"))
def test_english_prefixes_agree_with_encode(prefix: str, case: str) -> None:
    prefix = {"l": prefix.lower(), "u": prefix.upper(), "s": prefix}[case]
    for id in ENGLISH.prefix_ids(prefix):
        word = ENGLISH.word_of(id)
        assert id in (
            ENGLISH.id_of(word),
            *ENGLISH.encode(prefix + word[len(prefix) :]).ids,
        )
    for id, word in enumerate(ENGLISH.vocabulary):
        if id > 1 and word.startswith(prefix):
            assert id in ENGLISH.prefix_ids(prefix)


def test_prefix_arrays_are_shared_and_so_read_only() -> None:
    assert NAMES.prefix_ids("lo") is NAMES.prefix_ids("lo")
    with pytest.raises(ValueError, match="read-only"):
        NAMES.prefix_ids("lo")[0] = 1


# --- Vocabularies and files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "policy", "message"),
    [
        (["a"], "english", "has no '<unk>'"),
        ([], "split", "has no '<unk>'"),
        ([UNKNOWN, "a", "b", "a"], "english", "the word 'a' stands twice"),
        ([UNKNOWN, UNKNOWN], "split", "the word '<unk>' stands twice"),
        ([UNKNOWN, "a"], "latin", "unknown policy 'latin': choose one of 'english', 'split'"),
        *[
            ([UNKNOWN, END, "a", word], "english", f"{word!r} is not one word under the policy 'english'")
            for word in [
                *["", "well-known", "don’t", "…", "–", "--", "..", "'s", "wow!", "é", ",,", "1,", "a.com.x"],
                "two words",
                "x\n",
                "\n",
                " a",
                "a\xad",
                "a\x00",
                "\x00",
                "\ud800",
                "x\udfff",
                "\ufeff",
            ]
        ],
        *[
            ([UNKNOWN, END, "a", word], "split", f"{word!r} is not one word under the policy 'split'")
            for word in ["", "two words", "x\n", "\n", " a", "a\xa0", "\x1c", "\ud800"]
        ],
        ([UNKNOWN, "\n"], "english", "'\\n' is not one word"),
        ([UNKNOWN, "\n"], "split", "'\\n' is not one word"),
    ],
)
def test_unusable_vocabularies_are_refused(words: list[str], policy: str, message: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.from_vocabulary(words, policy)
    assert message.replace("\\\\", "\\") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("end", [[END], []])
def test_a_saved_tokenizer_is_the_same_when_loaded(policy: str, end: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_vocabulary(["zebra", *end, UNKNOWN, *AWKWARD], policy)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.policy == policy
    assert loaded.vocabulary == tokenizer.vocabulary
    assert (loaded.unknown_id, loaded.end_id) == (tokenizer.unknown_id, tokenizer.end_id)
    text = "Zebra zebra U.S. “don’t”\n\n🙂 <unk> e\u0301cole"
    assert loaded.encode(text).ids.tolist() == tokenizer.encode(text).ids.tolist()
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


CUT = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
ADDED = {"id": 4, "content": "new", **dict.fromkeys(FLAGS, False)}


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        data = json.loads(content)
        change(data)
        return json.dumps(data).encode()

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[: len(content) // 2], "damaged, or not a tokenizer.json"),
        (lambda _: b"", "damaged, or not a tokenizer.json"),
        (lambda _: b"{}", "damaged, or not a tokenizer.json"),
        (lambda _: b"[" * 100_000, "damaged, or not a tokenizer.json"),
        (lambda _: b"\x80\x04\xff", "cannot be read"),
        (damaged(lambda d: d["model"]["vocab"].update(zebra=40)), "gaps, or one id for two words"),
        (damaged(lambda d: d["model"]["vocab"].update(zebra=0)), "gaps, or one id for two words"),
        (damaged(lambda d: d["model"]["vocab"].update({"two words": 4})), "'two words' is not one word"),
        (damaged(lambda d: d["model"].update({"unk_token": "a"})), "it differs in model"),
        (damaged(lambda d: d["model"]["vocab"].pop(UNKNOWN)), "gaps, or one id for two words"),
        (damaged(lambda d: d["pre_tokenizer"].update(behavior="Isolated")), "it splits text in another way"),
        (damaged(lambda d: d["pre_tokenizer"]["pattern"].update(Regex=r"\w+")), "it splits text in another way"),
        (damaged(lambda d: d.update(pre_tokenizer=None)), "it splits text in another way"),
        (damaged(lambda d: d.update(normalizer=None)), "it differs in normalizer"),
        (damaged(lambda d: d.update(normalizer={"type": "Lowercase"})), "it differs in normalizer"),
        (damaged(lambda d: d.update(truncation=CUT)),
         "it differs in truncation"),
        (damaged(lambda d: d.update(decoder={"type": "Fuse"})), "it differs in decoder"),
        (damaged(lambda d: d["added_tokens"].append(ADDED)), "it differs in added_tokens"),
        (damaged(lambda d: d.update(model={"type": "BPE", "vocab": {"a": 0}, "merges": []})), "its model is BPE"),
        (damaged(lambda d: d.update(model={"type": "Unigram", "vocab": [["a", 0.0]]})), "its model is Unigram"),
    ],
)  # fmt: skip
def test_files_of_another_shape_are_refused(change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer.from_vocabulary([UNKNOWN, END, "a", "b"], "english").save(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(TokenizerError, match="cannot be read"):
            Tokenizer.load(path)


def test_the_policies_are_written_down() -> None:
    assert list(POLICIES) == ["english", "split"]
    # Every example in the paragraph is held to what it says.
    assert all(
        len(words_of(word, "english")) == 1 for word in ["don't", "o'clock", "1,000.50", "10:30", "U.S.", "p.m."]
    )
    assert len(words_of("well-known", "english")) == 3
    for example_ in ["don't", "o'clock", "well-known", "1,000.50", "10:30", "U.S.", "p.m.", "example.com/page"]:
        assert f"`{example_}`" in POLICIES["english"]


def test_a_copy_reads_as_the_original() -> None:
    original = Tokenizer.from_vocabulary(["<unk>", "<eos>", "cats", "sleep"], "english")
    copied = copy.deepcopy(original)
    assert (copied.vocabulary, copied.policy) == (original.vocabulary, original.policy)
    assert copied.encode("Cats sleep\n").ids.tolist() == original.encode("Cats sleep\n").ids.tolist()
