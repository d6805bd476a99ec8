"""What may come after hidden outputs that are kept on a CUDA device, without their coming to the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from model.cuda.network import NO_MOVES, Moves, Source
from model.runtimes.answers import joined, likeliest
from model.runtimes.base import Floats, Ids, Projection, SubsetProjection, WordsProjection

if TYPE_CHECKING:
    from model.runtimes.cuda import CudaRuntime
    from model.runtimes.cuda_slab import CudaSlab

T = TypeVar("T")


class CudaOutputs:
    """`model.runtimes.base.Projects` of numbers: here, the rows of the source themselves."""

    def __init__(self, runtime: CudaRuntime, source: Source) -> None:
        self.vocabulary_size, self.threads = runtime.vocabulary_size, runtime.threads
        self._runtime = runtime
        self._source = source

    def project(self, numbers: Ids, /, *, top_k: int, targets: Ids | None = None) -> Projection:
        def ask(piece: slice, rows: Ids, moves: Moves) -> Projection:
            wanted = None if targets is None else targets[piece]
            return self._runtime.project_rows(self._source, rows, top_k, wanted, moves)

        return joined(self._ask(numbers, self._runtime.recorded(top_k, 1), ask))

    def project_words(self, numbers: Ids, words: Ids, /, *, top_k: int) -> WordsProjection:
        def ask(piece: slice, rows: Ids, moves: Moves) -> WordsProjection:
            return self._runtime.words_rows(self._source, rows, words[piece], top_k, moves)

        return joined(self._ask(numbers, self._runtime.recorded(top_k, words.shape[1]), ask))

    def project_subset(self, numbers: Ids, ids: Ids, /, *, top_k: int) -> SubsetProjection:
        return likeliest(self._whole(numbers, ids), ids, top_k)

    def log_probabilities(self, numbers: Ids, /) -> Floats:
        return self._whole(numbers, None)

    def _whole(self, numbers: Ids, ids: Ids | None) -> Floats:
        whole = self._runtime.whole_rows
        return np.concatenate(self._ask(numbers, False, lambda _piece, rows, _moves: whole(self._source, rows, ids)))

    def _ask(self, numbers: Ids, moving: bool, ask: Callable[[slice, Ids, Moves], T]) -> list[T]:  # noqa: ARG002
        """The answers for a piece of the numbers after the other, whose rows those are. moving: it can take moves."""
        return [self._runtime.compute(lambda: ask(slice(None), numbers, NO_MOVES))]


class CudaAside(CudaOutputs):
    """`model.runtimes.slab.Aside` of a slab; `key` as the slab's."""

    def __init__(self, runtime: CudaRuntime, slab: CudaSlab, key: str, places: int) -> None:
        H = runtime.network.hidden_size
        super().__init__(runtime, Source(key, runtime.on.xp.zeros((places, H), np.float32), H, 0))
        self._slab = slab

    def put(self, slots: Ids, first: int) -> None:
        self._slab.copy_hidden(slots, self._source.array[first : first + len(slots)])

    def hidden(self, numbers: Sequence[int] | Ids, /) -> Floats:
        places = np.asarray(numbers, np.int64)
        return self._runtime.compute(lambda: self._runtime.copies.read_hidden(self._source, places))
