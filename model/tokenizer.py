"""Text as people type it <-> words <-> ids, with character offsets.

A tokenizer is one vocabulary and one of two policies. Everything but the spellings that are tried for a word outside
the vocabulary stands in one `tokenizer.json` of the `tokenizers` library: a normaliser, a regular expression that says
what a word is, and a table of words.

The policies are written down in `POLICIES`, in the words that model cards quote: "english" for text as people type it,
"split" for text that was split into words beforehand. Where a vocabulary has no `<eos>`, a line end is white space.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

# Batches are encoded on all cores. Said on purpose: left unset, the library falls back to one core and prints a
# warning after any fork. A process that forks must not encode batches in the child.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

UNKNOWN = "<unk>"
END = "<eos>"
ELLIPSIS = "..."
DASH = "—"

#: What each policy does, a paragraph each.
POLICIES: dict[str, str] = {
    "english": (
        "Text as people type it. Case is kept; a word that is not in the vocabulary is looked up again in lower case "
        "and then Capitalised, so `BICYCLE` and `Bicycle` find `bicycle`, and `london` finds `London`. A word is a run "
        "of letters and digits; an apostrophe between two of them belongs to it (`don't`, `o'clock`), one before or "
        "after it is a word of its own, and so is a hyphen (`well-known` is three words). A number keeps its inner "
        "`.`, `,` and `:` (`1,000.50`, `10:30`). Single letters with full stops between them are one word, the last "
        "full stop included (`U.S.`, `p.m.`). A URL, an e-mail address, a site such as `example.com/page` and an emoji "
        "with its modifiers are one word each. Two or more full stops are one `...`; two or more hyphens, and every "
        "dash, are one `—`. Every other visible character is a word of its own. Curly quotes are read as straight "
        "ones, `…` as `...`; text is composed (Unicode NFC); soft hyphens and zero-width spaces vanish; control "
        "characters and white space separate words. A line end, or several with nothing but blanks between them, is "
        "one `<eos>`. A typed `<unk>` or `<eos>` is three ordinary words."
    ),
    "split": (
        "Text that was split into words beforehand, as WikiText is. Words stand between white space and are taken as "
        "they are; `<unk>` is the unknown word; each line end, a blank line's too, is one `<eos>`."
    ),
}

# <eos> is kept under this key, which no run of visible characters can be: so a typed "<eos>" is never the special word.
_LINE_END = "\n"
_SURROGATE = re.compile("[\ud800-\udfff]")
# Longer words are not looked up in other spellings, so that the cache of spellings stays small.
_LONGEST_RESPELLED = 100

_PART = 1 << 16  # characters; a longer text is encoded in parts
# A blank behind a letter or a digit: no word goes across it, and no several line ends that are one <eos>.
_CUT = re.compile(r"(?<=[A-Za-z0-9]) ")

_ALNUM = r"[\p{L}\p{M}\p{N}]"
_URL_TAIL = r"""[^\s<>"]*[^\s<>".,!?;:')\]}*—]"""  # runs of visible characters, without the sentence's own punctuation
_EMOJI = r"\p{Extended_Pictographic}[\p{M}\p{Emoji_Modifier}\x{E0020}-\x{E007F}]*+"
# Every alternative is bounded, atomic or possessive: the time is linear in the text, whatever the text is.
_ENGLISH_WORDS = (
    r"\p{L}++(?:'\p{L}++)*+(?=[\s,;!?\"]|\z)",  # most words; those below start alike and go on otherwise
    rf"(?i:https?://|ftp://|www\.){_URL_TAIL}",
    r"[A-Za-z0-9](?>[A-Za-z0-9._%+-]{0,63})@(?>[A-Za-z0-9-]{1,63})(?:\.(?>[A-Za-z0-9-]{1,63})){1,8}",
    r"(?>[A-Za-z0-9][A-Za-z0-9-]{0,62})(?:\.(?>[A-Za-z0-9-]{1,63})){0,6}\.(?:com|org|net|gov|edu|io)"
    rf"(?![\p{{L}}\p{{M}}\p{{N}}-]|\.[\p{{L}}\p{{N}}])(?:/(?:{_URL_TAIL})?)?",
    rf"\p{{L}}(?:\.\p{{L}}){{1,9}}\.?(?!{_ALNUM})(?:'\p{{L}}++)?",
    rf"{_ALNUM}++(?:(?:'|(?<=\p{{Nd}})[.,:](?=\p{{Nd}})){_ALNUM}++)*+",
    r"\.{2,}+",
    r"[—-]{2,}+",
    r"\p{Regional_Indicator}{2}",
    rf"{_EMOJI}(?:\x{{200D}}{_EMOJI})*+",
    r"[^\s\p{C}]\p{M}*+",
)
# The last of several: two <eos> never follow each other. Only what no alternative above takes may stand between them.
_ENGLISH_LINE_END = r"\n(?![[\s\p{C}]&&[^\n\p{Extended_Pictographic}]]*+\n)"
# str.split, with which the WikiText figures of the literature are counted, takes \x1c-\x1f for white space too.
_SPLIT_WORDS = (r"[^\s\x1c-\x1f]++",)
_SPLIT_LINE_END = r"\n"

Vector = NDArray[np.int64]


class TokenizerError(ValueError):
    """A vocabulary, a tokenizer file or an id that cannot be used, in one line."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One text as N words. `text[starts[i]:ends[i]]` is word i as it was typed."""

    ids: Vector  # (N,)
    starts: Vector  # (N,) Python str indices into the text as given
    ends: Vector  # (N,)


def words_of(text: str, policy: str) -> list[str]:
    """The words of a text, before any vocabulary: `<eos>` for a line end, all else as a vocabulary would hold it."""
    normalizer, pre_tokenizer = _pipeline(policy, line_ends=True)
    text = _encodable(text)
    if normalizer is not None:
        text = normalizer.normalize_str(text)
    pieces = [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]
    if policy == "split":
        return [END if piece == _LINE_END else piece for piece in pieces]
    return [piece if piece[0] not in "\n.-—" else END if piece == _LINE_END else _canonical(piece) for piece in pieces]


class Tokenizer:
    """A vocabulary under a policy. Made by `from_vocabulary` or `load`; safe to use from several threads."""

    policy: str
    vocabulary: tuple[str, ...]
    unknown_id: int
    end_id: int | None

    def __init__(self, words: Sequence[str], policy: str) -> None:
        self.policy = policy
        self.vocabulary = tuple(words)
        self._ids = {word: id for id, word in enumerate(self.vocabulary)}
        self.unknown_id = self._ids[UNKNOWN]
        self.end_id = self._ids.get(END)
        keys = {_LINE_END if word == END else word: id for id, word in enumerate(self.vocabulary)}
        self._rust = tokenizers.Tokenizer(WordLevel(keys, UNKNOWN))
        normalizer, self._rust.pre_tokenizer = _pipeline(policy, line_ends=self.end_id is not None)
        self._normalizer = normalizer
        if normalizer is not None:
            self._rust.normalizer = normalizer
        self._respelled = lru_cache(maxsize=1 << 16)(self._respell)
        self._prefixed = lru_cache(maxsize=1 << 10)(self._find_prefix)

    @classmethod
    def from_vocabulary(cls, words: Sequence[str], policy: str) -> Tokenizer:
        """Ids are the places in `words`.

        Raises:
            TokenizerError: no such policy; `<unk>` is missing; a word stands twice; a word that this policy would not
                read as that one word (`"two words"`, or under "english" `"well-known"`), and so could never be met.
        """
        if policy not in POLICIES:
            raise TokenizerError(f"unknown policy {policy!r}: choose one of {', '.join(map(repr, POLICIES))}")
        seen: set[str] = set()
        for word in words:
            if word in seen:
                raise TokenizerError(f"the word {word!r} stands twice in the vocabulary")
            seen.add(word)
        if UNKNOWN not in seen:
            raise TokenizerError(f"the vocabulary has no {UNKNOWN!r}: add it, usually as the first word")
        plain = [word for word in words if word not in (UNKNOWN, END)]
        for word in plain:
            canonical = _canonical(word) if policy == "english" else word
            if word in ("", _LINE_END) or _encodable(canonical) != word:
                raise _not_one_word(word, policy)
        tokenizer = cls(words, policy)
        tokenizer._check_words(plain)
        return tokenizer

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            TokenizerError: no such file, a damaged one, or a `tokenizer.json` of another shape than ours.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path}: cannot be read: {error}") from error
        try:
            rust = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exceptions
            raise TokenizerError(f"{path}: damaged, or not a tokenizer.json: {error}") from error
        found = json.loads(rust.to_str())
        if found["model"]["type"] != "WordLevel":
            raise TokenizerError(
                f"{path}: not a nextword tokenizer: its model is {found['model']['type']}, not WordLevel"
            )
        table = found["model"]["vocab"]
        # Of two words with one id the library keeps one without a word about it: hence the look at the file itself.
        if table != json.loads(text)["model"]["vocab"] or sorted(table.values()) != list(range(len(table))):
            raise TokenizerError(f"{path}: damaged: its table of words has gaps, or one id for two words")
        words = [END if key == _LINE_END else key for key, _ in sorted(table.items(), key=lambda item: item[1])]
        for policy in POLICIES:
            if found["pre_tokenizer"] == _stated(_pipeline(policy, line_ends=_LINE_END in table)[1]):
                break
        else:
            raise TokenizerError(f"{path}: not a nextword tokenizer: it splits text in another way than ours")
        try:
            tokenizer = cls.from_vocabulary(words, policy)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error
        ours = json.loads(tokenizer._rust.to_str())
        strange = sorted(key for key in found.keys() | ours.keys() if found.get(key) != ours.get(key))
        if strange:
            raise TokenizerError(f"{path}: not a nextword tokenizer: it differs in {', '.join(strange)}")
        return tokenizer

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`; the same tokenizer always gives the same bytes."""
        Path(path).write_text(self._rust.to_str(pretty=True) + "\n", encoding="utf-8")

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[tuple[str, ...], str]]:
        # Copies are made anew: the caches of methods could not be copied.
        return Tokenizer, (self.vocabulary, self.policy)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def id_of(self, word: str) -> int | None:
        """The id of exactly this vocabulary word, the special words included; None where there is none."""
        return self._ids.get(word)

    def word_of(self, id: int) -> str:
        """The vocabulary word of an id.

        Raises:
            TokenizerError: the id is not in [0, len(self)).
        """
        if not 0 <= id < len(self.vocabulary):
            raise TokenizerError(f"no word has the id {id}: ids go from 0 to {len(self.vocabulary) - 1}")
        return self.vocabulary[id]

    def encode(self, text: str) -> Encoding:
        """The words of a text. Any str will do: lone surrogates count as U+FFFD, control characters as blanks."""
        text = _encodable(text)
        if len(text) <= _PART:
            return self._encoding(text, self._rust.encode(text, add_special_tokens=False), 0)
        # In a batch the library lets other threads run meanwhile, and takes all cores.
        starts = [0, *_cuts(text), len(text)]
        parts = [text[start:end] for start, end in pairwise(starts)]
        batch = self._rust.encode_batch(parts, add_special_tokens=False)
        encodings = [self._encoding(*part) for part in zip(parts, batch, starts, strict=False)]
        return Encoding(
            np.concatenate([encoding.ids for encoding in encodings]),
            np.concatenate([encoding.starts for encoding in encodings]),
            np.concatenate([encoding.ends for encoding in encodings]),
        )

    def _encoding(self, text: str, encoding: tokenizers.Encoding, start: int) -> Encoding:
        """What the library found in a text that stands `start` characters into the text as given."""
        ids = self._known(text, encoding)
        offsets = np.fromiter(chain.from_iterable(encoding.offsets), np.int64, 2 * len(ids)).reshape(-1, 2) + start
        return Encoding(np.array(ids, dtype=np.int64), offsets[:, 0], offsets[:, 1])

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The ids of each text, as `encode` gives them, on all cores."""
        texts = [_encodable(text) for text in texts]
        encodings = self._rust.encode_batch(texts, add_special_tokens=False)
        known = (self._known(text, encoding) for text, encoding in zip(texts, encodings, strict=True))
        return [np.array(ids, dtype=np.int32) for ids in known]

    def decode(self, ids: Iterable[int]) -> str:
        """Text that reads well and whose `encode` gives the same ids.

        That holds for all ids but `<unk>` under "english", whose spelling is three words there, and but for several
        `<eos>` in a row under "english", which are one when read again. Under "split" words are joined by blanks.

        Raises:
            TokenizerError: an id is not in [0, len(self)).
        """
        ids = list(ids)
        words = [_LINE_END if id == self.end_id else self.word_of(id) for id in ids]
        if self.policy == "split":
            return _join(words, _blanks(words))[0]
        checked = [
            id != self.unknown_id and not (id == self.end_id and ids[i + 1 : i + 2] == [id]) for i, id in enumerate(ids)
        ]
        blanks = _natural_blanks(words)
        # Words that would run together (`U.S` and `.`) are set apart. Two rounds, so that the cost is linear; what two
        # rounds do not mend gets a blank everywhere, which always reads back as the same words.
        for _ in range(2):
            text, starts = _join(words, blanks)
            encoding = self.encode(text)
            read = dict(zip(encoding.starts.tolist(), zip(encoding.ends, encoding.ids, strict=True), strict=True))
            merged = [
                i
                for i, (id, word, start) in enumerate(zip(ids, words, starts, strict=True))
                if checked[i] and read.get(start) != (start + len(word), id)
            ]
            if not merged:
                return text
            apart = _blanks(words)
            for i in merged:
                blanks[i : i + 2] = apart[i : i + 2]
        return _join(words, _blanks(words))[0]

    def prefix_ids(self, prefix: str) -> Vector:
        """Ids (N,), rising, of the words that a text starting with `prefix` may turn out to be; never `<unk>`, `<eos>`.

        Under "english" case counts as it does in `encode`: `lon` finds `London` unless `london` is a word too, and
        `Bic` finds `bicycle` unless `Bicycle` is. Under "split" words must start with exactly the prefix. The array is
        shared: it is read-only.
        """
        prefix = _encodable(prefix)
        if self._normalizer is not None and not prefix.isascii():
            prefix = self._normalizer.normalize_str(prefix)
        if len(prefix) > self._longest:
            return _frozen([])
        return self._prefixed(prefix)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.vocabulary))

    @cached_property
    def _folded(self) -> tuple[list[str], list[int]]:
        special = (self.unknown_id, self.end_id)
        pairs = sorted((word.casefold(), id) for id, word in enumerate(self.vocabulary) if id not in special)
        return [folded for folded, _ in pairs], [id for _, id in pairs]

    def _find_prefix(self, prefix: str) -> Vector:
        folded, ids = self._folded
        # Case folding maps each character alone, so words that start alike are neighbours when folded.
        low = prefix.casefold()
        found = []
        for i in range(bisect_left(folded, low), len(folded)):
            if not folded[i].startswith(low):
                break
            word = self.vocabulary[ids[i]]
            if word.startswith(prefix) or (
                self.policy == "english" and self._lookup(prefix + word[len(prefix) :]) == ids[i]
            ):
                found.append(ids[i])
        return _frozen(sorted(found))

    def _known(self, text: str, encoding: tokenizers.Encoding) -> list[int]:
        """The ids of an encoding, after other spellings of its unknown words were tried."""
        ids: list[int] = encoding.ids
        if self.policy == "english" and self.unknown_id in ids:
            offsets = encoding.offsets
            for i, id in enumerate(ids):
                if id == self.unknown_id:
                    start, end = offsets[i]
                    piece = text[start:end]
                    ids[i] = self._respelled(piece if len(piece) <= _LONGEST_RESPELLED else _canonical(piece))
        return ids

    def _respell(self, piece: str) -> int:
        if len(piece) > _LONGEST_RESPELLED:
            return self.unknown_id
        return self._lookup(self._normalizer.normalize_str(piece) if self._normalizer else piece)

    def _lookup(self, piece: str) -> int:
        ids = self._ids
        for spelling in (piece, _canonical(piece), piece.lower(), piece.capitalize()):
            id = ids.get(spelling)
            if id is not None:
                return id
        return self.unknown_id

    def _check_words(self, words: Sequence[str]) -> None:
        """One encoding of them all, since this is done at each load; one by one only to name the culprit."""
        expected = [self._ids[word] for word in words]
        if self._rust.encode(" ".join(words), add_special_tokens=False).ids == expected:
            return
        for word, id in zip(words, expected, strict=True):
            encoding = self._rust.encode(word, add_special_tokens=False)
            if encoding.ids != [id] or encoding.offsets != [(0, len(word))]:
                raise _not_one_word(word, self.policy)


def _frozen(ids: list[int]) -> Vector:
    array = np.array(ids, dtype=np.int64)
    array.flags.writeable = False
    return array


def _not_one_word(word: str, policy: str) -> TokenizerError:
    return TokenizerError(f"{word!r} is not one word under the policy {policy!r}: such a word could never be met")


def _encodable(text: str) -> str:
    """Lone surrogates, which UTF-8 has no bytes for, one for one as U+FFFD: offsets stay."""
    return text if text.isascii() else _SURROGATE.sub("�", text)


def _cuts(text: str) -> Iterator[int]:
    """Where a long text may be cut, about every `_PART` characters."""
    place = 0
    while cut := _CUT.search(text, place + _PART):
        place = cut.start()
        yield place


def _canonical(piece: str) -> str:
    """The one spelling of runs that come in any length. (Not in the normaliser: offsets would cover one character.)"""
    if len(piece) > 1 and piece[0] in ".-—":
        if not piece.strip("."):
            return ELLIPSIS
        if not piece.strip("-—"):
            return DASH
    return piece


@lru_cache
def _pipeline(policy: str, line_ends: bool) -> tuple[normalizers.Normalizer | None, pre_tokenizers.PreTokenizer]:
    words, line_end = (_ENGLISH_WORDS, _ENGLISH_LINE_END) if policy == "english" else (_SPLIT_WORDS, _SPLIT_LINE_END)
    pattern = "|".join((*words, line_end) if line_ends else words)
    # Inverted: the matches are the words, and what lies between them is removed.
    pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    if policy == "split":
        return None, pre_tokenizer
    replacements = {
        r"[‘’‛ʼ]": "'",
        r"[“”„‟]": '"',
        r"…": ELLIPSIS,
        r"[‒–―]": DASH,
        r"[\r\x0b\x0c\x{85}\x{2028}\x{2029}]": "\n",
    }
    # What vanishes goes first: it may stand between a letter and the accent that NFC composes it with.
    steps: list[normalizers.Normalizer] = [
        normalizers.Replace(Regex(r"[\x{AD}\x{200B}\x{2060}\x{FEFF}]"), ""),
        normalizers.NFC(),
        *(normalizers.Replace(Regex(characters), content) for characters, content in replacements.items()),
    ]
    return normalizers.Sequence(steps), pre_tokenizer


def _stated(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Any:
    """A pre-tokenizer as `tokenizer.json` states it."""
    rust = tokenizers.Tokenizer(WordLevel({UNKNOWN: 0}, UNKNOWN))
    rust.pre_tokenizer = pre_tokenizer
    return json.loads(rust.to_str())["pre_tokenizer"]


# --- How words are set ------------------------------------------------------------------------------------------------

_NO_BLANK_BEFORE = frozenset([".", ",", "!", "?", ";", ":", ")", "]", "}", "%", "°", "™", ELLIPSIS])
_NO_BLANK_AFTER = frozenset(["(", "[", "{", "$", "£", "€", "#", "@", "¿", "¡"])
_JOINING = frozenset(["-", "/"])  # well-known, and/or


def _blanks(words: Sequence[str]) -> list[bool]:
    """Whether a blank stands before each word and after the last: everywhere but around line ends."""
    ends = [True, *(word == _LINE_END for word in words), True]
    return [not (before or after) for before, after in pairwise(ends)]


def _natural_blanks(words: Sequence[str]) -> list[bool]:
    """The same as people set them. Straight quotes open and close in turn, anew in each line."""
    blanks = _blanks(words)
    open_quotes: set[str] = set()
    after_opening = False
    for i, word in enumerate(words):
        previous = words[i - 1] if i else _LINE_END
        closing = word in open_quotes
        if after_opening or closing or word in _NO_BLANK_BEFORE or previous in _NO_BLANK_AFTER:
            blanks[i] = False
        elif word in _JOINING:
            blanks[i] &= not (previous[-1].isalnum() and words[i + 1 : i + 2] and words[i + 1][0].isalnum())
        elif previous in _JOINING and i > 1:
            blanks[i] &= not (words[i - 2][-1].isalnum() and word[0].isalnum())
        after_opening = word in ("'", '"') and not closing
        if word == _LINE_END:
            open_quotes.clear()
        elif closing:
            open_quotes.remove(word)
        elif after_opening:
            open_quotes.add(word)
    return blanks


def _join(words: Sequence[str], blanks: Sequence[bool]) -> tuple[str, list[int]]:
    """The text, and where in it each word starts."""
    parts: list[str] = []
    starts: list[int] = []
    length = 0
    for word, blank in zip(words, blanks, strict=False):
        if blank:
            parts.append(" ")
        starts.append(length + blank)
        parts.append(word)
        length += blank + len(word)
    return "".join(parts), starts
