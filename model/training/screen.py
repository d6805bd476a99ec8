"""What is taken out of a text before anything is learnt from it: lines that tell how to find a person, and insults.

A line goes whole if there is in it

- an e-mail address, a telephone number or a street address, by their form, or
- a slur: a word whose only use, or nearly so, is to insult people for what they are.

A word that is in no line left is not in the vocabulary either. So it is neither learnt nor suggested, nor said.

The slurs stand in `slurs.txt` by hash, so that nobody has to read them: `listed` tells whether a word is one of them.
What is not of these forms, an address in words or an insult in harmless ones, stays.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from pathlib import Path

_DIGEST_BYTES = 6
_SLURS = frozenset(Path(__file__).with_name("slurs.txt").read_text(encoding="ascii").split())

_WORDS = re.compile(r"[^\W\d_]+")
_FORMS = {
    "e-mail addresses": re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"),
    "telephone numbers": re.compile(
        r"(?<![\w.])(?:"
        r"(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]?\d{4}"  # North America, whole
        r"|[2-9]\d\d-\d{4}"  # its shorter form; a range of years such as 1998-2004 has four digits first
        r"|\+[1-9]\d{0,2}(?:[ .()-]{0,2}\d){7,12}"  # elsewhere, with the code of the country
        r")(?![\w-])"
    ),
    "street addresses": re.compile(
        r"(?<![\w.,])\d{1,5} (?:[NSEW]\.? |North |South |East |West )?(?:(?:[A-Z][a-z]+|\d{1,3}(?:st|nd|rd|th)) ){1,3}"
        r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Place|Terrace|Parkway|Pkwy)\b"
    ),
}
SLURS = "slurs"

# What the tokenizer does not see, or sees as something else: between the letters of a word it would hide the word.
_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff]")
_BLANKS = re.compile(r"[^\S\n ]")
_HYPHENS = re.compile("[\u2010\u2011]")  # no dashes: those stand in ranges of years


def listed(word: str) -> bool:
    """Whether a word, in whatever case, is one of the slurs."""
    return hashlib.blake2b(word.lower().encode(), digest_size=_DIGEST_BYTES).hexdigest() in _SLURS


def _plain(line: str) -> str:
    """A line with the signs that the forms are made of."""
    if line.isascii():
        return line
    line = unicodedata.normalize("NFC", _UNSEEN.sub("", line))
    return _HYPHENS.sub("-", _BLANKS.sub(" ", line))


class Screen:
    """Takes such lines out of texts, and counts them.

    lines: how many were looked at. dropped: how many went, by why.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.dropped: Counter[str] = Counter()
        self._listed: dict[str, bool] = {}

    def __call__(self, text: str) -> str:
        """The lines of a text that may stay, each as it was."""
        return "".join(line for line in text.splitlines(keepends=True) if self._stays(line))

    def _stays(self, line: str) -> bool:
        self.lines += 1
        why = self._why(line)
        if why is not None:
            self.dropped[why] += 1
        return why is None

    def _why(self, line: str) -> str | None:
        line = _plain(line)
        for word in _WORDS.findall(line):
            slur = self._listed.get(word)
            if slur is None:
                slur = self._listed[word] = listed(word)
            if slur:
                return SLURS
        return next((name for name, form in _FORMS.items() if form.search(line)), None)
