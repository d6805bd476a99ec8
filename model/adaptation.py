"""How a sequence adapts to itself: the words that came lately, each with the hidden output it followed.

Grave, Joulin and Usunier, "Improving neural language models with a continuous cache" (2016, arXiv 1612.04426):

    p(w) = (1 - weight) p_model(w) + weight sum_i softmax_i(theta h_t . h_i) [w_(i+1) = w]

over the last `size` pairs (h_i, w_(i+1)) of the same sequence. Here it says what such pairs are and how they are kept;
`model.mixture` computes the sum.

Hidden outputs lie in [-1, 1]. For these products h_i is rounded to 127 steps either way, h_t to 63 (`model.products`
says why): a quarter of the memory, and so of what has to be read for each word. What that changes grows with theta:
at the defaults a probability by at most 0.00025, as measured, and by 0.18 at a theta of 100 and a weight of 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.products import BLOCK, KEY_STEPS, Blocks, Keys, block_count, blocks_of, keys_in, keys_of, offsets_of
from model.runtimes.base import Floats

#: The most pairs that may be kept: their products are computed for every word.
MOST_PAIRS = 4096
MOST_THETA = 100.0

#: So many pairs more than asked for are kept where they are at hand, and so far a cache can go back without them
#: being had anew; there is room for as many more, so that pairs are moved once in some dozens of words only.
MARGIN = 64

#: The rows of `Pairs.table`.
NUMBERS, OFFSETS, WORDS = range(3)

_WORD = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How to adapt: `size` pairs; `theta`, how much nearer hidden outputs count more; `weight`, the share of the cache
    in the mixture (lambda in the paper).

    The defaults were tuned on validation text for the English model that ships.

    Raises ValueError, which says what is out of range.
    """

    size: int = 500
    theta: float = 0.4
    weight: float = 0.12

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MOST_PAIRS:
            raise ValueError(f"size is {self.size}; it is from 1 to {MOST_PAIRS}")
        if not 0 < self.theta <= MOST_THETA:
            raise ValueError(f"theta is {self.theta}; it is above 0 and at most {MOST_THETA:g}")
        if not 0 < self.weight < 1:
            raise ValueError(f"weight is {self.weight}; it is between 0 and 1")


class Pairs:
    """Pairs in the order in which they came. Those that are there never change; only new ones are put behind them.

    blocks (room / BLOCK, H, BLOCK): the keys, as `model.products` wants them. table (3, room) int32: the `count`
    different words have numbers, and row `NUMBERS` has those of the pairs, `WORDS` the ids by number; `OFFSETS` has the
    keys' `offsets_of`. `before`: how many pairs of the sequence came before the first.

    Numbers are found by looking through the ids. A dict of them took up to 48 kB where the words of 640 pairs all
    differ, a quarter more than all the rest, to save a microsecond or two for each word.
    """

    __slots__ = ("before", "blocks", "count", "filled", "table")

    def __init__(self, room: int, width: int, before: int) -> None:
        """With room for so many at least."""
        count = block_count(room)
        self.blocks: Blocks = np.empty((count, width, BLOCK), np.int8)
        self.table: NDArray[np.int32] = np.empty((3, count * BLOCK), np.int32)
        self.before = before
        self.filled = self.count = 0

    @property
    def room(self) -> int:
        room: int = self.table.shape[1]
        return room

    def put(self, key: Keys, offset: int, word: int) -> None:
        end, table = self.filled, self.table
        (numbers,) = (table[WORDS, : self.count] == word).nonzero()
        if len(numbers):
            table[NUMBERS, end] = numbers[0]
        else:
            table[WORDS, self.count] = word
            table[NUMBERS, end] = self.count
            self.count += 1
        table[OFFSETS, end] = offset
        self.blocks[end // BLOCK, :, end % BLOCK] = key
        self.filled = end + 1

    def fill(self, blocks: Blocks, offsets: NDArray[np.int32], words: NDArray[np.integer[Any]]) -> None:
        """Put pairs where there are none yet: keys in blocks, offsets (n,), words (n,)."""
        different, numbers = np.unique(words, return_inverse=True)
        n = len(words)
        self.blocks[: len(blocks)] = blocks
        self.table[NUMBERS, :n] = numbers
        self.table[OFFSETS, :n] = offsets
        self.table[WORDS, : len(different)] = different
        self.count = len(different)
        self.filled = n


class Cache:
    """The last pairs of a sequence, `adaptation.size` at most: a value, like the state beside it.

    They are those from `first` to `end` in `pairs`, whose first `count` numbers are those of words up to there. `after`
    makes the next one. Caches that come from each other share their pairs, so that most cost next to nothing, those of
    forks too, until they go different ways. One thread at a time may call `after`; all may read.
    """

    __slots__ = ("adaptation", "count", "end", "first", "pairs")

    def __init__(self, adaptation: Adaptation, *, before: int = 0) -> None:
        """One without pairs; so many of the sequence's came `before` and are not known."""
        self.adaptation = adaptation
        self.pairs = Pairs(0, 0, before)
        self.first = self.end = 0
        self.count = 0

    @classmethod
    def _of(cls, adaptation: Adaptation, pairs: Pairs, end: int, count: int) -> Cache:
        cache = cls.__new__(cls)
        cache.adaptation, cache.pairs, cache.end, cache.count = adaptation, pairs, end, count
        cache.first = max(end - adaptation.size, 0)
        return cache

    def __len__(self) -> int:
        """How many pairs there are."""
        return self.end - self.first

    @property
    def blocks(self) -> Blocks:
        """Those of `pairs` that have its keys, from the one with `first` on; others may stand around them."""
        return self.pairs.blocks[self.first // BLOCK : block_count(self.end)]

    @property
    def keys(self) -> Keys:
        """(n, H) of hidden outputs, each before the word of its pair: a copy."""
        skipped = self.first % BLOCK
        return keys_in(self.blocks)[skipped : skipped + len(self)]

    @property
    def table(self) -> NDArray[np.int32]:
        """(2, n): which of `words` each pair's is, and the keys' `offsets_of`."""
        return self.pairs.table[:WORDS, self.first : self.end]

    @property
    def numbers(self) -> NDArray[np.int32]:
        """(n,): which of `words` each pair's is."""
        numbers: NDArray[np.int32] = self.table[NUMBERS]
        return numbers

    @property
    def words(self) -> NDArray[np.int32]:
        """(G,) ids of different words: all that the pairs have, and maybe a few that they no longer have."""
        return self.pairs.table[WORDS, : self.count]

    @property
    def nbytes(self) -> int:
        """What the pairs take in memory; caches that come from each other may share it."""
        return self.pairs.blocks.nbytes + self.pairs.table.nbytes

    @property
    def reach(self) -> int:
        """How many words it can go back (`back`)."""
        return self.end if self.pairs.before == 0 else max(self.end - self.adaptation.size, 0)

    def after(self, key: Keys, word: int) -> Cache:
        """The cache once `word` has been consumed, which came after the hidden output of `key` (H,)."""
        return self._after(key, int(offsets_of(key)), word)

    def _after(self, key: Keys, offset: int, word: int) -> Cache:
        pairs = self.pairs
        if pairs.filled != self.end or self.end == pairs.room:
            # Others went on from here before, or there is no room.
            pairs = self._moved(len(key))
        pairs.put(key, offset, word)
        return Cache._of(self.adaptation, pairs, pairs.filled, pairs.count)

    def back(self, count: int) -> Cache | None:
        """The cache as it was so many words ago; None if it is not known any more (`reach`)."""
        if count > self.reach:
            return None
        end = self.end - count
        return Cache._of(self.adaptation, self.pairs, end, int(self.pairs.table[NUMBERS, :end].max(initial=-1)) + 1)

    def anew(self, position: int) -> Cache:
        """One without pairs that adapts as this one does, for the same sequence after `position` words."""
        return Cache(self.adaptation, before=position)

    def _moved(self, width: int) -> Pairs:
        """The pairs in new memory, whole blocks of them."""
        old, end = self.pairs, self.end
        skipped = max(end - self.adaptation.size - MARGIN, 0) // BLOCK
        first = skipped * BLOCK
        new = Pairs(self._room(end - first), width, old.before + first)
        if end > first:
            words = old.table[WORDS, old.table[NUMBERS, first:end]]
            new.fill(old.blocks[skipped : block_count(end)], old.table[OFFSETS, first:end], words)
        return new

    def _room(self, kept: int) -> int:
        """For more than the pairs that are `kept`: as many again, to a limit."""
        return min(2 * kept + 1, self.adaptation.size + 2 * MARGIN)

    def pack(self) -> bytes:
        """The pairs as bytes, little-endian: the ids of the words, uint32, then the keys, int8."""
        return self.words[self.numbers].astype(_WORD).tobytes() + self.keys.tobytes()

    @classmethod
    def unpack(
        cls,
        adaptation: Adaptation,
        content: bytes,
        *,
        count: int,
        width: int,
        position: int,
        most: int = MOST_PAIRS,
    ) -> Cache:
        """What `pack` gave: `count` pairs with hidden outputs (width,), of a sequence of `position` words. One that
        adapts to more than `most` pairs is made to adapt to the last `most` of them.

        Raises ValueError when that cannot be.
        """
        if count != min(position, adaptation.size):
            raise ValueError(f"a cache of {adaptation.size} pairs has not {count} of them after {position} words")
        if len(content) != packed_bytes(count, width):
            raise ValueError(f"{len(content)} bytes are no {count} pairs with hidden outputs of {width} values")
        words = np.frombuffer(content, _WORD, count)
        if words.max(initial=0) > np.iinfo(np.int32).max:
            raise ValueError(f"the cache names the word {words.max()}")
        keys = np.frombuffer(content, np.int8, offset=words.nbytes).reshape(count, width)
        if keys.min(initial=0) < -KEY_STEPS:
            raise ValueError(f"the cache holds values below -{KEY_STEPS}")
        if adaptation.size > most:
            adaptation, count = replace(adaptation, size=most), min(count, most)
            words, keys = words[-count:], keys[-count:]
        cache = cls(adaptation, before=position - count)
        if not count:
            return cache
        pairs = Pairs(cache._room(count), width, position - count)
        pairs.fill(blocks_of(keys), offsets_of(keys), words)
        return cls._of(adaptation, pairs, count, pairs.count)


def after(caches: Sequence[Cache | None], hidden: Floats, words: Sequence[int]) -> list[Cache | None]:
    """`Cache.after` of each, with its word and the hidden output (H,) in its row; None for a sequence without one."""
    keys = keys_of(hidden)
    return [
        None if cache is None else cache._after(key, offset, word)
        for cache, key, offset, word in zip(caches, keys, offsets_of(keys).tolist(), words, strict=True)
    ]


def packed_bytes(count: int, width: int) -> int:
    """How many bytes `Cache.pack` gives of so many pairs."""
    return count * (_WORD.itemsize + width)
