"""Text files -> arrays of word ids.

A corpus is a UTF-8 text file: one paragraph or turn a line, an empty line between documents. Every line end is one
`<eos>` (under the policy "english" an empty line adds none). Files are read a piece at a time, so memory grows with the
ids (4 bytes a word) and not with the text.

What is held out is decided document by document, by a hash of the document's own text. So the same document lands on
the same side in training and in evaluation, on every machine, whatever else is in the file, and never on both sides.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import END, UNKNOWN, Tokenizer, words_of

#: Called with the bytes done and the bytes in all.
Progress = Callable[[int, int], None]
#: Gives a text, whole lines of it, without those that nothing shall be learnt from.
Screen = Callable[[str], str]
Side = Literal["train", "valid", "test"]
Unit = Literal["document", "line"]

_PIECE = 1 << 18  # bytes of text that are encoded as one
_PIECES = 8  # pieces that are encoded at once, on all cores
_LONGEST_LINE = 1 << 20  # bytes; a longer line is encoded in parts
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class CorpusError(ValueError):
    """A file that cannot be used as a corpus, in one line that names it."""


# --- Vocabulary -------------------------------------------------------------------------------------------------------


def count_words(
    paths: Sequence[Path], policy: str, progress: Progress | None = None, screen: Screen | None = None
) -> Counter[str]:
    """How often each word stands in the files, `<eos>` included.

    Raises:
        CorpusError: a file is missing, empty or not UTF-8.
    """
    return _count(_screened(_file_pieces(paths, progress), screen), policy)


def count_documents(
    documents: Sequence[Document], policy: str, progress: Progress | None = None, screen: Screen | None = None
) -> Counter[str]:
    """How often each word stands in the documents, `<eos>` included.

    Raises:
        CorpusError: a file has become shorter, or has gone, since the documents were found.
    """
    return _count(_screened(_document_pieces(documents, progress), screen), policy)


def build_vocabulary(counts: Mapping[str, int], size: int | None = None) -> list[str]:
    """`<unk>`, `<eos>`, then the most frequent words, equally frequent ones by code point; `size` words in all.

    Without a size every word is taken.

    Raises:
        CorpusError: there are fewer words than asked for.
    """
    words = sorted(counts.keys() - {UNKNOWN, END}, key=lambda word: (-counts[word], word))
    vocabulary = [UNKNOWN, END, *words]
    if size is None:
        return vocabulary
    if size < 2:
        raise CorpusError(f"a vocabulary of {size} words was asked for: {UNKNOWN} and {END} alone are 2")
    if size > len(vocabulary):
        raise CorpusError(
            f"a vocabulary of {size:,} words was asked for, but the text has only {len(vocabulary):,} distinct words, "
            f"{UNKNOWN} and {END} included: ask for that many or fewer, or give more text"
        )
    return vocabulary[:size]


def _count(pieces: Iterable[str], policy: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    last = ""
    for piece in pieces:
        words = words_of(piece, policy)
        counts.update(words)
        if policy == "english" and words:
            counts[END] -= words[0] == last == END
            last = words[-1]
    return counts


# --- Ids --------------------------------------------------------------------------------------------------------------


def encode_files(
    paths: Sequence[Path], tokenizer: Tokenizer, progress: Progress | None = None, screen: Screen | None = None
) -> NDArray[np.int32]:
    """The ids (N,) of the files one after the other. A last line without a line end gets its `<eos>` too.

    Raises:
        CorpusError: a file is missing, empty or not UTF-8.
    """
    return _encode(_screened(_file_pieces(paths, progress), screen), tokenizer)


def encode_documents(
    documents: Sequence[Document], tokenizer: Tokenizer, progress: Progress | None = None, screen: Screen | None = None
) -> NDArray[np.int32]:
    """The ids (N,) of the documents one after the other, in the order given.

    Raises:
        CorpusError: a file has become shorter, or has gone, since the documents were found.
    """
    return _encode(_screened(_document_pieces(documents, progress), screen), tokenizer)


def _encode(pieces: Iterable[str], tokenizer: Tokenizer) -> NDArray[np.int32]:
    arrays: list[NDArray[np.int32]] = []
    end = tokenizer.end_id
    last = None
    stream = iter(pieces)
    while batch := list(islice(stream, _PIECES)):
        for ids in tokenizer.encode_batch(batch):
            if len(ids) == 0:
                continue
            # Blank lines that a piece starts with belong to the line end of the piece before.
            if tokenizer.policy == "english" and ids[0] == last == end:
                arrays.append(ids[1:])
            else:
                arrays.append(ids)
            last = ids[-1]
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32)


# --- Documents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """Where a document stands in its file, in bytes, and the hash of its text (64 bits)."""

    path: Path
    start: int
    size: int
    key: int

    def side(self, every: int) -> Side:
        """Of `every` documents one is for testing and one for validation, on average."""
        place = (self.key & 0xFFFFFFFF) % every
        return "test" if place == 0 else "valid" if place == 1 else "train"

    def taken(self, share: float) -> bool:
        """Whether it is in this share of all documents, whatever its side. A larger share holds the smaller one."""
        return (self.key >> 32) < share * 2**32


@dataclass(frozen=True, slots=True)
class Source:
    """How one file is used: which share (0, 1] of its documents, and what a document is in it.

    `unit` "document" takes what stands between empty lines, "line" every line for itself. Documents longer than
    `part_bytes` are cut at line ends, after the sides are chosen, so that one long book does not fill a stretch of
    the training text by itself. On the training side each stands `copies` times, among all others: a small text that
    is to be learnt as well as large ones.
    """

    share: float = 1.0
    unit: Unit = "document"
    part_bytes: int | None = None
    copies: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise CorpusError(f"a share of {self.share} of the documents: it must be above 0 and at most 1")
        if self.unit not in ("document", "line"):
            raise CorpusError(f"unknown unit {self.unit!r}: choose 'document' or 'line'")
        if self.part_bytes is not None and self.part_bytes < 1:
            raise CorpusError(f"parts of {self.part_bytes} bytes: at least 1")
        if self.copies < 1:
            raise CorpusError(f"{self.copies} copies of each document: at least 1")


def find_documents(path: Path, unit: Unit = "document") -> list[Document]:
    """The documents of a file, in its order; blank lines belong to none.

    Raises:
        CorpusError: the file is missing, empty, blank or not UTF-8.
    """
    with _opened(path) as file:
        documents = []
        for start, content in _blocks(file, unit):
            _text(content, path, start)
            key = int.from_bytes(hashlib.blake2b(content.strip(), digest_size=8).digest(), "big")
            documents.append(Document(path, start, len(content), key))
    if not documents:
        raise CorpusError(f"{path}: there is nothing but blanks in it")
    return documents


def _blocks(file: BufferedReader, unit: Unit) -> Iterator[tuple[int, bytes]]:
    """Where each document starts, and its bytes."""
    start = position = file.tell()
    lines: list[bytes] = []
    for line in file:
        if lines and (unit == "line" or not line.strip()):
            yield start, b"".join(lines)
            lines = []
        if line.strip():
            start = start if lines else position
            lines.append(line)
        position += len(line)
    if lines:
        yield start, b"".join(lines)


def split_documents(path: Path, every: int, unit: Unit = "document") -> dict[Side, list[Document]]:
    """The documents of a file by side: one in `every` is held out for validation, one in `every` for testing.

    Raises:
        CorpusError: `every` is under 3; the file is missing, empty, blank or not UTF-8.
    """
    _check_every(every)
    sides: dict[Side, list[Document]] = {"train": [], "valid": [], "test": []}
    for document in find_documents(path, unit):
        sides[document.side(every)].append(document)
    return sides


def mix_documents(sources: Mapping[Path, Source], side: Side, every: int, seed: int) -> list[Document]:
    """The documents of one side of many files, shuffled among each other; the same seed gives the same order.

    Raises:
        CorpusError: `every` is under 3; no document is on this side; a file is missing, empty, blank or not UTF-8.
    """
    _check_every(every)
    found: list[Document] = []
    for path, source in sources.items():
        chosen = (d for d in split_documents(path, every, source.unit)[side] if d.taken(source.share))
        for document in chosen:
            found.extend([*_parts(document, source.part_bytes)] * (source.copies if side == "train" else 1))
    if not found:
        names = ", ".join(str(path) for path in sources)
        raise CorpusError(f"{names}: none of the documents falls to the side {side!r}: give more text")
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[i] for i in order]


def read_documents(documents: Iterable[Document]) -> Iterator[str]:
    """The text of each document, as it stands in its file.

    Raises:
        CorpusError: a file has become shorter, or has gone, since the documents were found.
    """
    with ExitStack() as stack:
        files: dict[Path, BufferedReader] = {}
        for document in documents:
            path = document.path
            if path not in files:
                files[path] = stack.enter_context(_opened(path))
            files[path].seek(document.start)
            content = files[path].read(document.size)
            if len(content) < document.size:
                raise CorpusError(f"{path}: it has become shorter since its documents were found")
            yield _text(content, path, document.start)


def _parts(document: Document, part_bytes: int | None) -> Iterator[Document]:
    if part_bytes is None or document.size <= part_bytes:
        yield document
        return
    with _opened(document.path) as file:
        file.seek(document.start)
        start, size, left = document.start, 0, document.size
        while left:
            line = len(file.readline(left))
            if size and size + line > part_bytes:
                yield Document(document.path, start, size, document.key)
                start, size = start + size, 0
            size += line
            left -= line
        yield Document(document.path, start, size, document.key)


def _check_every(every: int) -> None:
    if every < 3:
        raise CorpusError(f"one document in {every} to each held-out side leaves none to train on: at least 3")


# --- Named data sets --------------------------------------------------------------------------------------------------

#: The SHA-256 of every file of the data sets that the recipes and figures of this project speak of.
DATA_SETS: dict[str, dict[str, str]] = {
    "wikitext-2": {
        "train.txt": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        "valid.txt": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "test.txt": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    },
    "english": {
        "books-1880-1925.txt": "016b2cc43dbd522206fef5b207a7a1ba85b6cd337bf5a3def9c433c2b234bb7d",
        "chat-self-dialogue.txt": "ae8acd94450a73014e6f1e1ab80604852ee2480b42f9e1edb3d0fa1f1693c45c",
        "chat-taskmaster.txt": "3f22aab0854ea5823b29e8a5015865cfc11fa8556e4dcd53b3c2cabb7dba2a35",
        "chat-topical.txt": "7e96a7d1e927337678961e315c2dc743c3fa06e868491cf44abaef0fde291798",
        "encyclopedia-summaries.txt": "6d385edf3731109e2fdefcf137ab7a725b3ce3a64abe12d926d34563783d9f3c",
        "government-web.txt": "dc734222e37bbc4f7e11b2214ba282929a72ab49bbfa5550122ede0c278fa83c",
        "sentences-tatoeba.txt": "6f23fc2d9ef0b894ce1f353b279c9810746870a6f72479732e7f494eb6cb10cb",
        "speeches-1930-2020.txt": "915c84efb1a42aea20d45071b9e6de26278726578de953024281f061efadf18b",
        "stories-1950s.txt": "a8432f1fac9f7e45fb22a512a85aafc9e6a32284f9aa902191025fbd79eec7d2",
        "textbooks.txt": "b303e83e9261f23eefd0eee65b4f1879fff881474358617fd7a6643c35a02716",
    },
}


def verify(path: Path) -> str:
    """The name of the data set in a directory ("wikitext-2"), or of a file ("wikitext-2/test.txt"), once hashes agree.

    Raises:
        CorpusError: the file is none of `DATA_SETS`; the directory has not all files of one; a file has other content.
    """
    path = Path(path)
    if path.is_dir():
        for name, files in DATA_SETS.items():
            if all((path / file).is_file() for file in files):
                for file in files:
                    _verify_file(path / file, {f"{name}/{file}"})
                return name
        raise CorpusError(f"{path}: not all files of a known data set are here: known are {', '.join(DATA_SETS)}")
    named = {f"{name}/{file}" for name, files in DATA_SETS.items() for file in files if file == path.name}
    if not named:
        raise CorpusError(f"{path}: no known data set has a file of this name: known are {', '.join(DATA_SETS)}")
    return _verify_file(path, named)


def _verify_file(path: Path, names: set[str]) -> str:
    with _opened(path) as file:
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    for name in names:
        data_set, _, file_name = name.partition("/")
        if DATA_SETS[data_set][file_name] == found:
            return name
    raise CorpusError(f"{path}: not {' or '.join(sorted(names))}: its SHA-256 is {found}: fetch the file again")


# --- Reading ----------------------------------------------------------------------------------------------------------


def _opened(path: Path) -> BufferedReader:
    """The file, open behind its byte order mark if it has one."""
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: no such file") from error
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    if not file.seekable():
        file.close()
        raise CorpusError(f"{path}: this is a pipe, and a text is read more than once: write it to a file")
    start = len(_BYTE_ORDER_MARK) if file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK else 0
    file.seek(start)
    if not file.read(1):
        file.close()
        raise CorpusError(f"{path}: the file is empty")
    file.seek(start)
    return file


def _text(content: bytes, path: Path, position: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not UTF-8: byte {content[error.start]:#04x} at offset {position + error.start}: save it as UTF-8"
        ) from error


def _file_pieces(paths: Sequence[Path], progress: Progress | None) -> Iterator[str]:
    """The files in pieces that end at a line end; within a very long line, at a blank."""
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(path)) for path in paths]  # a missing one is told before any work is done
        total = sum(Path(path).stat().st_size for path in paths)
        done = 0
        for path, file in zip(paths, files, strict=True):
            rest = b""
            line_open = False
            position = file.tell()
            while block := file.read(_PIECE):
                rest += block
                cut = rest.rfind(b"\n") + 1
                if not cut and len(rest) > _LONGEST_LINE:
                    cut = rest.rfind(b" ") + 1
                    if not cut:
                        raise CorpusError(
                            f"{path}: more than {_LONGEST_LINE:,} bytes without a blank or a line end from offset "
                            f"{position}: this is no text of words"
                        )
                if cut:
                    yield _text(rest[:cut], path, position)
                    line_open = rest[cut - 1 : cut] != b"\n"
                    rest = rest[cut:]
                    position += cut
                done += len(block)
                if progress is not None:
                    progress(done, total)
            if rest or line_open:
                yield _text(rest, path, position) + "\n"


def _screened(pieces: Iterator[str], screen: Screen | None) -> Iterator[str]:
    return pieces if screen is None else filter(None, map(screen, pieces))


def _document_pieces(documents: Sequence[Document], progress: Progress | None) -> Iterator[str]:
    """The documents, short ones joined, each ending with a line end."""
    total = sum(document.size for document in documents)
    done = 0
    waiting: list[str] = []
    size = 0
    for document, text in zip(documents, read_documents(documents), strict=True):
        waiting.append(text if text.endswith("\n") else text + "\n")
        size += document.size
        if size >= _PIECE:
            yield "".join(waiting)
            waiting.clear()
            done += size
            size = 0
            if progress is not None:
                progress(done, total)
    if waiting:
        yield "".join(waiting)
        if progress is not None:
            progress(total, total)
