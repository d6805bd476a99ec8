"""Files become ids as their whole text would, whatever the pieces; held-out sides never mix; errors name the file."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from model import corpus
from model.corpus import (
    CorpusError,
    Source,
    build_vocabulary,
    count_documents,
    count_words,
    encode_documents,
    encode_files,
    find_documents,
    mix_documents,
    read_documents,
    split_documents,
    verify,
)
from model.tokenizer import END, UNKNOWN, Tokenizer, words_of

UNHURRIED = settings(deadline=None)  # the machine may be busy with other things


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


Write = Callable[[str, str | bytes], Path]


def chat(count: int, name: str = "chat") -> str:
    return "\n".join(f"{name} {i}\nHow are you, {name}{i}?\n" for i in range(count))


# --- Counting and the vocabulary --------------------------------------------------------------------------------------


def test_words_are_counted_over_all_files(write: Write) -> None:
    paths = [write("a.txt", "The cat.\n\nThe “dog”…\n"), write("b.txt", "the cat\n")]
    expected = {"The": 2, "cat": 2, ".": 1, '"': 2, "dog": 1, "...": 1, "the": 1, END: 3}
    assert count_words(paths, "english") == expected
    assert count_words(paths, "split") == {"The": 2, "cat.": 1, "“dog”…": 1, "the": 1, "cat": 1, END: 4}


def test_the_vocabulary_goes_by_frequency_then_by_code_point() -> None:
    counts = Counter({"b": 2, "a": 2, "Z": 2, "é": 9, "rare": 1, END: 50, UNKNOWN: 7})
    assert build_vocabulary(counts) == [UNKNOWN, END, "é", "Z", "a", "b", "rare"]
    assert build_vocabulary(counts, 4) == [UNKNOWN, END, "é", "Z"]
    assert build_vocabulary(counts, 7) == build_vocabulary(counts)
    assert build_vocabulary({}) == [UNKNOWN, END]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (8, "a vocabulary of 8 words was asked for, but the text has only 7 distinct words"),
        (20_000, "a vocabulary of 20,000 words was asked for, but the text has only 7 distinct words"),
        (1, "a vocabulary of 1 words was asked for"),
        (-3, "a vocabulary of -3 words was asked for"),
    ],
)
def test_a_vocabulary_larger_than_the_text_is_refused(size: int, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        build_vocabulary({"a": 1, "b": 2, "c": 3, "d": 1, "e": 1}, size)


# --- Ids --------------------------------------------------------------------------------------------------------------


def test_wikitext_lines_become_the_ids_of_the_benchmark(write: Write) -> None:
    text = " \n = Valkyria = \n \n Senjō <unk> role @-@ playing . \n"
    path = write("train.txt", text)
    counts = count_words([path], "split")
    assert sum(counts.values()) == len(text.split()) + text.count("\n") == 13
    tokenizer = Tokenizer.from_vocabulary(build_vocabulary(counts), "split")
    ids = encode_files([path], tokenizer)
    assert ids.dtype == np.int32
    words = [tokenizer.word_of(id) for id in ids]
    assert words == [END, "=", "Valkyria", "=", END, END, "Senjō", UNKNOWN, "role", "@-@", "playing", ".", END]


@pytest.mark.parametrize("policy", ["english", "split"])
@pytest.mark.parametrize("text", ["a b", "a b\n", "a\nb", "\ufeffa b"])
def test_a_last_line_ends_even_without_a_line_end(text: str, policy: str, write: Write) -> None:
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, END, "a", "b"], policy)
    ids = encode_files([write("a.txt", text), write("b.txt", text)], tokenizer)
    one = tokenizer.encode(text.removeprefix("\ufeff").rstrip("\n") + "\n").ids.tolist()
    assert ids.tolist() == one * 2
    assert one[-1] == tokenizer.end_id


def test_without_an_end_word_line_ends_are_blanks(write: Write) -> None:
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, "1", "2"], "split")
    assert encode_files([write("a.txt", "1\n2\n\n1")], tokenizer).tolist() == [1, 2, 1]


# Never 30 bytes without a blank or a line end.
awkward_text = st.lists(
    st.tuples(
        st.text(alphabet="ab.-…’é🙂\x00\r\u2028", max_size=7),
        st.sampled_from([" ", "  ", "\n", "\n\n", " \n\t\n", "\r\n"]),
    ).map("".join),
    min_size=1,
    max_size=20,
).map("".join)


@UNHURRIED
@given(awkward_text, st.booleans(), st.integers(1, 80), st.sampled_from(["english", "split"]))
@example("a\n\n\n\n\nb\n", False, 1, "english")
@example("a\n\x00\nb\n", False, 2, "english")
@example("aaaaaaaaaaaa " * 4, False, 2, "english")
def test_pieces_do_not_show(text: str, open_end: bool, piece: int, policy: str) -> None:
    content = text.removesuffix("\n") if open_end else text
    assume(content)
    words = words_of(content if content.endswith("\n") else content + "\n", policy)
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, END, *sorted(set(words) - {END})], policy)
    with TemporaryDirectory() as folder, patch.multiple(corpus, _PIECE=piece, _LONGEST_LINE=30):
        path = Path(folder, "text.txt")
        path.write_bytes(content.encode())
        ids = encode_files([path], tokenizer)
        counts = count_words([path], policy)
    assert [tokenizer.word_of(id) for id in ids] == words
    assert +counts == Counter(words)
    assert min(counts.values()) >= 0


def test_progress_reaches_the_end(write: Write) -> None:
    paths = [write("a.txt", chat(50)), write("b.txt", chat(70))]
    total = sum(path.stat().st_size for path in paths)
    calls: list[tuple[int, int]] = []
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, END], "english")
    with patch.object(corpus, "_PIECE", 200):
        for run in (
            lambda: encode_files(paths, tokenizer, lambda *call: calls.append(call)),
            lambda: count_words(paths, "english", lambda *call: calls.append(call)),
        ):
            calls.clear()
            run()
            done = [done for done, _ in calls]
            assert len(calls) > 10
            assert done == sorted(done)
            assert calls[-1] == (total, total)
        documents = find_documents(paths[0]) + find_documents(paths[1])
        calls.clear()
        encode_documents(documents, tokenizer, lambda *call: calls.append(call))
        assert len(calls) > 10
        assert calls == sorted(calls)
        assert calls[-1] == (sum(document.size for document in documents),) * 2


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"a b\ncaf\xe9 c\n", "not UTF-8: byte 0xe9 at offset 7"),
        (b"\xef\xbb\xbfab\xff", "not UTF-8: byte 0xff at offset 5"),
        ("a b\n".encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
        (b"a\n" * 5000 + b"\xc3\n", "not UTF-8: byte 0xc3 at offset 10000"),
        (b"a b\n\nc d\n\xed\xa0\x80", "not UTF-8: byte 0xed at offset 9"),
    ],
)
def test_files_that_are_no_text_are_named(content: bytes, message: str, write: Write) -> None:
    path = write("bad.txt", content)
    tokenizer = Tokenizer.from_vocabulary([UNKNOWN, END], "english")
    calls: list[Callable[[], object]] = [
        lambda: count_words([path], "english"),
        lambda: encode_files([path], tokenizer),
        lambda: find_documents(path),
        lambda: find_documents(path, "line"),
        lambda: mix_documents({path: Source()}, "train", 10, 1),
    ]
    with patch.object(corpus, "_PIECE", 1000):
        for call in calls:
            with pytest.raises(CorpusError) as caught:
                call()
            assert str(caught.value).startswith(f"{path}: {message}")
            assert "\n" not in str(caught.value)


def test_a_pipe_is_no_file() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"one two\n")
    os.close(writer)
    with pytest.raises(CorpusError, match="this is a pipe, and a text is read more than once: write it to a file"):
        find_documents(Path(f"/dev/fd/{reader}"))
    os.close(reader)


def test_a_missing_file_is_told_before_any_work(write: Write, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    with pytest.raises(CorpusError, match=r"none\.txt: no such file"):
        count_words([write("a.txt", "a b c"), tmp_path / "none.txt"], "english", lambda *call: calls.append(call))
    assert calls == []
    with pytest.raises(CorpusError, match="cannot be read: Is a directory"):
        encode_files([tmp_path], Tokenizer.from_vocabulary([UNKNOWN], "split"))


def test_one_endless_word_is_no_text(write: Write) -> None:
    path = write("base64.txt", "a b\n" + "x" * 5000)
    with (
        patch.object(corpus, "_PIECE", 100),
        patch.object(corpus, "_LONGEST_LINE", 1000),
        pytest.raises(CorpusError, match="more than 1,000 bytes without a blank or a line end from offset 4"),
    ):
        count_words([path], "english")


# --- Documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "documents", "lines"),
    [
        ("a\nb\n\nc\n", ["a\nb\n", "c\n"], ["a\n", "b\n", "c\n"]),
        ("\n\n a \r\n\r\n\r\nb", [" a \r\n", "b"], [" a \r\n", "b"]),
        ("é\n \t\n🙂 ü\n\n", ["é\n", "🙂 ü\n"], ["é\n", "🙂 ü\n"]),
        ("\ufeffa\n", ["a\n"], ["a\n"]),
    ],
)
def test_documents_stand_between_blank_lines(text: str, documents: list[str], lines: list[str], write: Write) -> None:
    path = write("a.txt", text)
    assert list(read_documents(find_documents(path))) == documents
    assert list(read_documents(find_documents(path, "line"))) == lines
    assert list(read_documents(reversed(find_documents(path)))) == documents[::-1]


def test_blank_files_have_no_documents(write: Write) -> None:
    path = write("blank.txt", "\n \n\t\r\n")
    with pytest.raises(CorpusError, match=r"blank\.txt: there is nothing but blanks in it"):
        find_documents(path)


def test_sides_are_the_same_for_ever(write: Write) -> None:
    # Figures measured on held-out documents hold only as long as this table does.
    sides = split_documents(write("a.txt", chat(12)), 4)
    texts = {side: [text.split("\n")[0] for text in read_documents(documents)] for side, documents in sides.items()}
    assert texts == {
        "train": ["chat 6", "chat 8"],
        "valid": [f"chat {i}" for i in (1, 2, 3, 7, 9, 10, 11)],
        "test": ["chat 0", "chat 4", "chat 5"],
    }
    document = sides["train"][0]
    digest = hashlib.blake2b(b"chat 6\nHow are you, chat6?", digest_size=8).digest()
    assert document.key == int.from_bytes(digest, "big")


def test_sides_follow_the_text_alone(write: Write) -> None:
    few = split_documents(write("few.txt", chat(300)), 10)
    many = split_documents(write("many.txt", "Something else.\n\n" + chat(600).replace("\n\n", "\r\n \n\n")), 10)
    for side in few:
        old = {document.key for document in few[side]}
        assert old <= {document.key for document in many[side]}
    assert sum(map(len, few.values())) == 300
    assert 10 <= len(few["valid"]) <= 60
    assert 10 <= len(few["test"]) <= 60


def test_copies_of_a_document_stay_together(write: Write) -> None:
    sides = split_documents(write("a.txt", chat(40) + "\n\n" + chat(40)), 5)
    keys = {side: Counter(document.key for document in documents) for side, documents in sides.items()}
    assert all(set(counts.values()) == {2} for counts in keys.values())
    assert not keys["train"].keys() & keys["valid"].keys()
    assert not keys["train"].keys() & keys["test"].keys()


def test_shares_are_nested_and_about_right(write: Write) -> None:
    documents = find_documents(write("a.txt", chat(1000)))
    taken = {share: {d.key for d in documents if d.taken(share)} for share in (0.0, 0.1, 0.5, 1.0)}
    assert taken[0.0] == set()
    assert taken[0.1] < taken[0.5] < taken[1.0] == {d.key for d in documents}
    assert 60 <= len(taken[0.1]) <= 140
    assert 430 <= len(taken[0.5]) <= 570
    # The share says nothing about the side.
    held_out = [d for d in documents if d.side(4) != "train"]
    assert 0.4 < sum(d.taken(0.5) for d in held_out) / len(held_out) < 0.6


def test_mixing_takes_from_every_file_in_a_seeded_order(write: Write) -> None:
    sources = {write("a.txt", chat(200, "film")): Source(share=0.5), write("b.txt", chat(200, "book")): Source()}
    mixed = mix_documents(sources, "train", 10, seed=1)
    assert mixed == mix_documents(sources, "train", 10, seed=1)
    other = mix_documents(sources, "train", 10, seed=2)
    assert mixed != other
    assert set(mixed) == set(other)
    names = ["film" if "film" in text else "book" for text in read_documents(mixed)]
    assert 60 <= names.count("film") <= 120
    assert 150 <= names.count("book") <= 190
    assert names[:30].count("film") > 3
    assert names[:30].count("book") > 3
    held_out = {d.key for side in ("valid", "test") for d in mix_documents(sources, side, 10, seed=1)}  # type: ignore[arg-type]
    assert not held_out & {d.key for d in mixed}


def test_copies_stand_among_the_others_and_on_the_training_side_only(write: Write) -> None:
    often, once = write("a.txt", chat(100, "film")), write("b.txt", chat(100, "book"))
    sources = {often: Source(copies=3, part_bytes=40), once: Source()}
    plain = {often: Source(part_bytes=40), once: Source()}
    mixed, single = mix_documents(sources, "train", 10, seed=1), mix_documents(plain, "train", 10, seed=1)
    assert Counter(mixed) == {document: 3 if document.path == often else 1 for document in single}
    assert sum(one == next_one for one, next_one in pairwise(mixed)) < len(mixed) / 10
    for side in ("valid", "test"):
        assert mix_documents(sources, side, 10, seed=1) == mix_documents(plain, side, 10, seed=1)  # type: ignore[arg-type]


def test_a_long_document_is_cut_at_line_ends_and_stays_on_its_side(write: Write) -> None:
    book = "".join(f"Line {i} of the book.\n" for i in range(100))
    path = write("a.txt", f"{book}\nShort.\n\n{'one line ' * 100}\n")
    parts = mix_documents({path: Source(part_bytes=200)}, "train", 10**6, seed=3)
    assert parts != sorted(parts, key=lambda part: part.start)
    parts.sort(key=lambda part: part.start)
    *book_parts, short, line = read_documents(parts)
    assert len(book_parts) > 10
    assert "".join(book_parts) == book
    assert all(len(part) <= 200 and part.endswith("\n") for part in book_parts)
    assert (short, line) == ("Short.\n", "one line " * 100 + "\n")  # a single line is never cut
    assert len({part.key for part in parts}) == 3


def test_documents_are_encoded_in_the_order_given(write: Write) -> None:
    path = write("a.txt", "a b\nc\n\nc c\n\nb")
    documents = find_documents(path)[::-1]
    counts = count_documents(documents, "english")
    assert counts == {"a": 1, "b": 2, "c": 3, END: 4}
    tokenizer = Tokenizer.from_vocabulary(build_vocabulary(counts), "english")
    for piece in (1, 1000):
        with patch.object(corpus, "_PIECE", piece):
            ids = encode_documents(documents, tokenizer)
            assert [tokenizer.word_of(id) for id in ids] == ["b", END, "c", "c", END, "a", "b", END, "c", END]
    assert encode_documents([], tokenizer).tolist() == []


def test_a_file_that_shrank_is_named(write: Write) -> None:
    path = write("a.txt", "a b\n\nc d\n")
    documents = find_documents(path)
    write("a.txt", "a b\n")
    with pytest.raises(CorpusError, match=r"a\.txt: it has become shorter"):
        list(read_documents(documents))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Source(share=0), "a share of 0 of the documents: it must be above 0 and at most 1"),
        (lambda: Source(share=1.5), "a share of 1.5"),
        (lambda: Source(share=float("nan")), "a share of nan"),
        (lambda: Source(unit="page"), "unknown unit 'page': choose 'document' or 'line'"),  # type: ignore[arg-type]
        (lambda: Source(part_bytes=0), "parts of 0 bytes"),
        (lambda: Source(copies=0), "0 copies of each document: at least 1"),
        (lambda: split_documents(Path("a.txt"), 2), "one document in 2 to each held-out side leaves none"),
        (lambda: mix_documents({}, "train", 1, 1), "one document in 1"),
    ],
)
def test_impossible_choices_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        make()


def test_an_empty_side_is_an_error(write: Write) -> None:
    path = write("a.txt", "One document only.\n")
    side = find_documents(path)[0].side(10)
    empty = next(other for other in ("valid", "test") if other != side)
    with pytest.raises(CorpusError, match=f"a.txt: none of the documents falls to the side '{empty}'"):
        mix_documents({path: Source()}, empty, 10, 1)  # type: ignore[arg-type]


# --- Named data sets --------------------------------------------------------------------------------------------------


@pytest.fixture
def known(write: Write) -> dict[str, dict[str, str]]:
    files = {"train.txt": "a b c\n", "test.txt": "\ufeffd\n"}
    for name, content in files.items():
        write(name, content)
    hashes = {name: hashlib.sha256(content.encode()).hexdigest() for name, content in files.items()}
    return {"other": {"train.txt": "0" * 64, "more.txt": "1" * 64}, "tiny": hashes}


def test_known_files_are_recognised(known: dict[str, dict[str, str]], tmp_path: Path) -> None:
    with patch.object(corpus, "DATA_SETS", known):
        assert verify(tmp_path) == "tiny"
        assert verify(tmp_path / "train.txt") == "tiny/train.txt"
        assert verify(tmp_path / "test.txt") == "tiny/test.txt"


def test_files_with_other_content_are_refused(known: dict[str, dict[str, str]], tmp_path: Path, write: Write) -> None:
    with patch.object(corpus, "DATA_SETS", known):
        write("train.txt", "a b d\n")
        for path, names in [
            (tmp_path, "tiny/train.txt"),
            (tmp_path / "train.txt", "other/train.txt or tiny/train.txt"),
        ]:
            with pytest.raises(CorpusError, match=f"train.txt: not {names}: its SHA-256 is [0-9a-f]{{64}}"):
                verify(path)
        with pytest.raises(CorpusError, match=r"more\.txt: no such file"):
            verify(tmp_path / "more.txt")
        with pytest.raises(CorpusError, match=r"mine\.txt: no known data set has a file of this name"):
            verify(write("mine.txt", "a"))
        (tmp_path / "test.txt").unlink()
        with pytest.raises(CorpusError, match="not all files of a known data set are here: known are other, tiny"):
            verify(tmp_path)


def test_hashes_are_whole() -> None:
    for files in corpus.DATA_SETS.values():
        assert files
        assert all(len(bytes.fromhex(value)) == 32 for value in files.values())
