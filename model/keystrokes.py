"""The keys that a typist saves who is offered words.

*Keystroke savings* are 1 - keys with / keys without suggestions. Without: each character of a word is one key, and so
are the white space after it and a line end. With: before each key, the three likeliest words that the characters typed
so far may become (`Tokenizer.prefix_ids`) are offered, never ``<unk>`` or ``<eos>``, and the typist accepts the word as
soon as it is offered and that takes fewer keys than going on; accepting is one key and brings the white space after
the word, which vanishes by itself where the text has none. A word outside the vocabulary is typed in full, at the
length it has in the text, and a line end is one key. Punctuation is a word. Capitals need no key of their own.
"""

from __future__ import annotations

import re

import numpy as np

from model.decoding import rank
from model.runtimes.base import Floats, Ids
from model.tokenizer import Encoding, Tokenizer

SUGGESTIONS = 3

# Where line ends are words, the one that follows a word is not its white space.
_BLANKS, _BLANKS_WITHOUT_LINE_END = re.compile(r"[^\S\n\r\v\f\x85\u2028\u2029]"), re.compile(r"\s")


class Typist:
    """Types a text with and without suggestions.

    without, given: the keys for each of its N words, (N,), without suggestions and with them. `given` holds for the
    words that were `read`.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, encoding: Encoding) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._encoding = encoding
        specials = [id for id in (tokenizer.unknown_id, tokenizer.end_id) if id is not None]
        self._specials = np.array(specials, np.int64)
        line_end = encoding.ids == (-1 if tokenizer.end_id is None else tokenizer.end_id)
        after = (text[end : end + 1] for end in encoding.ends.tolist())
        blanks = _BLANKS_WITHOUT_LINE_END if tokenizer.end_id is None else _BLANKS
        spaces = np.array([bool(blanks.match(character)) for character in after])
        self.without: Ids = np.where(line_end, 1, encoding.ends - encoding.starts + spaces)
        self.given: Ids = self.without.copy()
        # Few thousand beginnings make up a language; the tokenizer's own cache is for one word at a time.
        self._beginnings: dict[str, Ids] = {}

    def read(self, positions: Ids, rows: Floats, ranks: Ids) -> None:
        """Type the words at `positions` (R,): rows (R, V) of log-probabilities, and the ranks (R,) of those words."""
        targets = self._encoding.ids[positions]
        specials, came = rows[:, self._specials], rows[np.arange(len(rows)), targets][:, np.newaxis]
        earlier = self._specials < targets[:, np.newaxis]  # equally likely words stand in the order of their ids
        passed_over = ((specials > came) | ((specials == came) & earlier)).sum(axis=1)
        typed = ~np.isin(targets, self._specials) & (self.without[positions] > 1)
        at_once = typed & (ranks - passed_over <= SUGGESTIONS)
        self.given[positions[at_once]] = 1
        for place in np.flatnonzero(typed & ~at_once & (self.without[positions] > 2)).tolist():
            self.given[positions[place]] = self._keys(rows[place], int(positions[place]))

    def _keys(self, row: Floats, position: int) -> int:
        """Keys for a word that is not offered before its first letter: row (V,) log-probabilities."""
        target = int(self._encoding.ids[position])
        start, most = int(self._encoding.starts[position]), int(self.without[position])
        for typed in range(1, most - 1):
            among = self._words(self._text[start : start + typed])
            at = int(np.searchsorted(among, target))
            if at == len(among) or among[at] != target:
                continue
            if rank(row[among], at) <= SUGGESTIONS:
                return typed + 1
        return most

    def _words(self, beginning: str) -> Ids:
        found = self._beginnings.get(beginning)
        if found is None:
            found = self._beginnings[beginning] = self._tokenizer.prefix_ids(beginning)
        return found
