"""Text that grows by a word at a time, and is never taken back."""

from __future__ import annotations

from collections.abc import Sequence

from model.tokenizer import Tokenizer

#: How the next word is set depends on the last few words and on the quotes that are open, so no more is looked at.
WINDOW = 8
#: Quotes that were opened before so many words are not looked for.
CONTEXT = 64

_JOINING = ("-", "/")
_QUOTES = ("'", '"')


class RunningText:
    """Words set behind others as people would, blanks included: what was there and all pieces make a text that reads
    well and whose words are those words.

    before: ids of the words that are there. blank: whether a blank stands behind them already.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = (), *, blank: bool = False) -> None:
        self._tokenizer = tokenizer
        self._ids = self._last(before[-CONTEXT:])
        self._text = tokenizer.decode(self._ids)
        self._blank = blank

    def add(self, id: int) -> str:
        """The text of one word more, with the blank before it if there is one."""
        self._ids.append(id)
        decode, word = self._tokenizer.decode, self._tokenizer.word_of(id)
        longer = decode(self._ids)
        previous = self._tokenizer.word_of(self._ids[-2]) if len(self._ids) > 1 else ""
        if word in _JOINING and previous.isalnum() and self._tokenizer.policy == "english":
            # Whether it joins two words shows only with the second one; mostly it does.
            piece = word
            longer = self._text + word
        elif longer.startswith(self._text):
            piece = longer[len(self._text) :]
        else:
            # What stood before would be set otherwise now, but it is out.
            piece = f" {decode([id])}"
        if self._blank:
            piece = piece.removeprefix(" ")
            self._blank = False
        if len(self._ids) >= 2 * WINDOW and word not in _JOINING:
            self._ids = self._last(self._ids)
            longer = decode(self._ids)
        self._text = longer
        return piece

    def _last(self, ids: Sequence[int]) -> list[int]:
        """The last words, and before them the quotes that are open there: they start anew in each line."""
        earlier, last = ids[:-WINDOW], ids[-WINDOW:]
        opened: list[int] = []
        for id in earlier:
            if id == self._tokenizer.end_id:
                opened.clear()
            elif self._tokenizer.word_of(id) in _QUOTES:
                if id in opened:
                    opened.remove(id)
                else:
                    opened.append(id)
        return [*opened, *last]
