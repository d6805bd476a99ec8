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
from collections.abc import Callable

import numpy as np

from model.runtimes.base import Floats, Ids
from model.tokenizer import Encoding, Tokenizer

SUGGESTIONS = 3

#: <unk> and <eos> are never offered, so that many likeliest words more have to be looked at.
SPECIALS = 2

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

    def read(self, positions: Ids, top_ids: Ids, ranks: Ids, rows_of: Callable[[Ids], Floats]) -> None:
        """Type the words at `positions` (R,), of which are known: the likeliest words there (R, SUGGESTIONS + SPECIALS)
        and the ranks of those written (R,). `rows_of` gives the log-probabilities (N, V) at some of the R places (N,).
        """
        targets = self._encoding.ids[positions]
        likelier = np.arange(top_ids.shape[1]) < ranks[:, None] - 1  # (R, 5)
        passed_over = (np.isin(top_ids, self._specials) & likelier).sum(axis=1)
        typed = ~np.isin(targets, self._specials) & (self.without[positions] > 1)
        at_once = typed & (ranks - passed_over <= SUGGESTIONS)
        self.given[positions[at_once]] = 1
        rest = np.flatnonzero(typed & ~at_once & (self.without[positions] > 2))
        if not len(rest):
            return
        for row, position in zip(rows_of(rest), positions[rest].tolist(), strict=True):
            self.given[position] = self._keys(row, position)

    def _keys(self, row: Floats, position: int) -> int:
        """Keys for a word that is not offered before its first letter: row (V,) log-probabilities."""
        target = int(self._encoding.ids[position])
        start, most = int(self._encoding.starts[position]), int(self.without[position])
        log_probability = row[target]
        for typed in range(1, most - 1):
            among = self._words(self._text[start : start + typed])
            at = int(np.searchsorted(among, target))
            if at == len(among) or among[at] != target:
                continue
            values = row[among]
            # Equally likely words stand in the order of their ids.
            ahead = np.count_nonzero(values > log_probability) + np.count_nonzero(values[:at] == log_probability)
            if ahead < SUGGESTIONS:
                return typed + 1
        return most

    def _words(self, beginning: str) -> Ids:
        found = self._beginnings.get(beginning)
        if found is None:
            found = self._beginnings[beginning] = self._tokenizer.prefix_ids(beginning)
        return found
